"""Warn where there is a GPU of NVIDIA that this build of PyTorch cannot use."""

from __future__ import annotations

import logging
import os
import re
import shutil
from functools import lru_cache
from pathlib import Path

import torch

from .. import __version__

logger = logging.getLogger(__name__)

DEV = Path('/dev')
#: Values of $NVIDIA_VISIBLE_DEVICES that name GPUs; "all" is a default of many images.
NAMED_DEVICES = re.compile(r'(GPU-|MIG-|[0-9])')


def sign_of_gpu() -> str:
    """Return what shows that there is a GPU of NVIDIA: a device, a program or a variable.

    Returns
    -------
    str
        Empty if nothing does.
    """
    devices = sorted(DEV.glob('nvidia[0-9]*'))
    if devices:
        return str(devices[0])
    if program := shutil.which('nvidia-smi'):
        return program
    variable = os.environ.get('NVIDIA_VISIBLE_DEVICES', '')
    return f'NVIDIA_VISIBLE_DEVICES={variable}' if NAMED_DEVICES.match(variable) else ''


def build_with_cuda() -> str:
    """Return what to use in place of an image or an installation without CUDA."""
    if 'SYNTHSEG_BIDS_SINGULARITY_URL' in os.environ:
        return 'build the image with "make singularity" (DEVICE=cuda)'
    if tag := os.environ.get('SYNTHSEG_BIDS_DOCKER_TAG'):
        return f'use the image synthseg-bids:{tag.removesuffix("-cpu")} in place of {tag}'
    return f'install a build of PyTorch for CUDA, or use the image synthseg-bids:{__version__}'


def idle_gpu() -> str:
    """Return a line about a GPU that PyTorch was not built for; empty if there is none."""
    if torch.version.cuda or torch.version.hip or not (sign := sign_of_gpu()):
        return ''
    lacking = f'PyTorch {torch.__version__} has no CUDA'
    return f'{sign}: there is an NVIDIA GPU, but {lacking}; {build_with_cuda()}'


@lru_cache(maxsize=1)
def warn_of_idle_gpu() -> None:
    """Log, once, that there is a GPU and the CPU computes, if so."""
    if line := idle_gpu():
        logger.warning('%s (the CPU computes; --device cpu hides this)', line)
