"""Generated scans that nothing was done to: noise of every label around one mean."""

from __future__ import annotations

from synthseg_bids.labels import generation_labels
from synthseg_bids.synth.deform import DeformationConfig
from synthseg_bids.synth.intensity import IntensityConfig
from synthseg_bids.synth.parameters import GeneratorConfig

#: Row of each label in label maps as the generator reads them.
ROWS = {label.index: row for row, label in enumerate(generation_labels())}
SIZE = (48, 40, 32)
PLAIN = GeneratorConfig(
    size=None,
    deformation=DeformationConfig(
        rotation_deg=0, scaling=0, shear=0, translation=0, svf_std=(0, 0), flip_probability=0
    ),
    intensity=IntensityConfig(mean=(100, 100), std=(10, 10), bias_std=(0, 0), gamma=0),
    blur=(0, 0),
    skull_strip_probability=0,
)
