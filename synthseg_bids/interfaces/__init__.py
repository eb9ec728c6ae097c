"""Nipype interfaces: one thin class for each step."""

from .compare import CompareSegmentations
from .measure import MeasureVolumes
from .save import SaveDerivatives
from .segment import SegmentImage
from .synthesize import SynthesizeImage
from .train import TrainSynthSeg

__all__ = [
    'CompareSegmentations',
    'MeasureVolumes',
    'SaveDerivatives',
    'SegmentImage',
    'SynthesizeImage',
    'TrainSynthSeg',
]
