"""Nipype workflows: one image, all images of a dataset, or the training of a network."""

import os

# Before Nipype is imported: it would ask a server for its latest version.
os.environ.setdefault('NO_ET', '1')
os.environ.setdefault('NIPYPE_NO_ET', '1')

from .dataset import init_synthseg_wf
from .image import init_image_wf
from .resources import Resources
from .training import init_training_wf

__all__ = ['Resources', 'init_image_wf', 'init_synthseg_wf', 'init_training_wf']
