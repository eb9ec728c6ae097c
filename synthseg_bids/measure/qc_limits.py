"""Limits of quality control, and where they come from."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from ..images.ct import CT_SUFFIXES

#: Structures by the group that shares a measure of confidence. These are the eight groups of
#: SynthSeg 2.0's quality control, but for the deep grey nuclei: there, caudate, accumbens and
#: ventral diencephalon count as white matter.
QC_GROUPS: dict[str, tuple[int, ...]] = {
    'white_matter': (2, 41),
    'cortex': (3, 42),
    'ventricles': (4, 5, 14, 15, 43, 44),
    'cerebellum': (7, 8, 46, 47),
    'brainstem': (16,),
    'diencephalon': (10, 28, 49, 60),
    'basal_ganglia': (11, 12, 13, 26, 50, 51, 52, 58),
    'hippocampus_amygdala': (17, 18, 53, 54),
}

#: Plausible volume in ml by label, for either side of paired structures. From the smallest and the
#: largest in sixteen adults, some of them with much atrophy (FreeSurfer segmentations, of the
#: twenty training label maps published with SynthSeg): half and twice that, for the ventricles a
#: quarter and four times; two digits. The fluid around the brain has no range: skull stripping
#: removes it.
VOLUME_RANGES_ML: dict[int, tuple[float, float]] = {
    2: (77, 550),
    3: (76, 610),
    4: (0.94, 200),
    5: (0.027, 16),
    7: (5.7, 40),
    8: (21, 140),
    10: (2.8, 21),
    11: (1.2, 9.6),
    12: (1.6, 13),
    13: (0.5, 4.1),
    14: (0.12, 14),
    15: (0.2, 11),
    16: (7.8, 51),
    17: (0.72, 11),
    18: (0.37, 4.2),
    26: (0.13, 1.6),
    28: (1.4, 10),
}

#: Largest plausible difference of left and right, divided by their mean, by the label on the left:
#: the largest in 92 label maps of individuals from newborn to old age (the sixteen above and those
#: of public datasets), rounded up to 0.05 and at least 0.2. Left out are a hippocampus that has
#: atrophy on one side (1.08) and two newborns whose maps have few labels. The inferior horns are
#: often closed on one side, so that theirs is wider: seven times the other side.
MAX_ASYMMETRY: dict[int, float] = {
    2: 0.2,
    3: 0.25,
    4: 0.75,
    5: 1.5,
    7: 0.35,
    8: 0.2,
    10: 0.25,
    11: 0.35,
    12: 0.4,
    13: 0.45,
    17: 0.45,
    18: 0.45,
    26: 0.5,
    28: 0.25,
}

#: Dice below which a group of structures asks for a look: where users of SynthSeg 2.0 discard
#: structures by its score, which is a predicted Dice, too (``mri_synthseg --qc``).
MIN_EXPECTED_DICE = 0.65

#: How sure a network is depends on the network. These limits are those of the shipped one, with
#: how they were found, written by ``benchmarks/qc_limits.py``. They hold for no other one.
MODEL_LIMITS: dict[str, Any] = json.loads(
    files('synthseg_bids').joinpath('data/qc_limits.json').read_text(encoding='utf-8')
)


def limits_hold(model_sha256: str) -> bool:
    """Return whether a network is the one that :data:`MODEL_LIMITS` were found for."""
    return bool(model_sha256 == MODEL_LIMITS['origin']['model_sha256'])


#: By how much more, in ml, the shipped model may be unsure on one side than on the other: up to
#: 0.1 in 21 real scans of infants, adults, old people and patients with multiple sclerosis (T1w,
#: T2w, FLAIR); 7 to 14 in one with a dark mass of 24 ml, and with a cavity of 58 ml.
MAX_UNSURE_ML = 1.0

#: Largest gain in confidence by turning a scan; it is 0.24 to 0.4 if the axes are wrong.
MAX_AXES_GAIN = 0.05

#: Contrasts that images of a suffix may have by their intensities. Those of other suffixes, such
#: as T2starw, vary too much between scanners.
CONTRASTS_OF: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(('T1w', 'UNIT1', 'inplaneT1'), ('T1-like',)),
    **dict.fromkeys(('T2w', 'inplaneT2'), ('T2-like', 'PD-like')),
    'FLAIR': ('FLAIR-like', 'PD-like'),
    'PDw': ('PD-like', 'T2-like', 'FLAIR-like'),
    **dict.fromkeys(CT_SUFFIXES, ('CT',)),
}

#: Below this contrast-to-noise ratio white and grey matter count as equally bright.
MIN_CONTRAST = 0.15
