"""Nipype interfaces: one thin class for each step."""

import os

# Before Nipype is imported: it would ask a server for its latest version.
os.environ.setdefault('NO_ET', '1')
os.environ.setdefault('NIPYPE_NO_ET', '1')

from .calibrate import CalibrateModel
from .compare import CompareSegmentations, CompareSession
from .measure import MeasureVolumes
from .plot import PlotSegmentation, PlotTogether
from .plot_samples import PlotSamples
from .prepare_labels import PrepareLabels
from .qc import AssessQuality, AssessTogether
from .samseg import CleanScan, RunMriSynthSeg, RunSamseg, TranslateLabels
from .save import SaveDerivatives
from .save_session import SaveSession
from .save_visits import SaveVisits
from .segment import SegmentImage
from .segment_session import SegmentSession
from .segment_visits import SegmentVisits
from .synthesize import SynthesizeImage
from .train import TrainSynthSeg

__all__ = [
    'AssessQuality',
    'AssessTogether',
    'CalibrateModel',
    'CleanScan',
    'CompareSegmentations',
    'CompareSession',
    'MeasureVolumes',
    'PlotSamples',
    'PlotSegmentation',
    'PlotTogether',
    'PrepareLabels',
    'RunMriSynthSeg',
    'RunSamseg',
    'SaveDerivatives',
    'SaveSession',
    'SaveVisits',
    'SegmentImage',
    'SegmentSession',
    'SegmentVisits',
    'SynthesizeImage',
    'TrainSynthSeg',
    'TranslateLabels',
]
