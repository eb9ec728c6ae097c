"""Nipype interfaces: one thin class for each step."""

from .compare import CompareSegmentations
from .measure import MeasureVolumes
from .plot import PlotSegmentation
from .qc import AssessQuality
from .save import SaveDerivatives
from .segment import SegmentImage
from .synthesize import SynthesizeImage
from .train import TrainSynthSeg

__all__ = [
    'AssessQuality',
    'CompareSegmentations',
    'MeasureVolumes',
    'PlotSegmentation',
    'SaveDerivatives',
    'SegmentImage',
    'SynthesizeImage',
    'TrainSynthSeg',
]
