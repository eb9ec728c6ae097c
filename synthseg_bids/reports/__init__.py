"""Reports and pictures of scans, segmentations and training."""

from .group import write_group_report
from .subject import write_subject_report

__all__ = ['write_group_report', 'write_subject_report']
