"""Nipype workflows: one image, or all images of a dataset."""

from .base import init_synthseg_wf
from .image import init_image_wf
from .resources import Resources

__all__ = ['Resources', 'init_image_wf', 'init_synthseg_wf']
