"""Measures of quality control, and their limits.

The one source for the verdicts of :mod:`.qc`, for the data dictionaries beside the tables, and
for ``docs/qc.rst``.

A value outside the limits of ``review`` asks for a look at the scan; one outside those of
``fail`` says that the segmentation cannot be used. The limits are wide: a child's or an atrophied
brain, a thick-sliced or a skull-stripped scan may ask for a look, but does not fail.
"""

from __future__ import annotations

from math import inf

from ..labels import segmentation_labels
from .qc_limits import (
    MAX_ASYMMETRY,
    MAX_AXES_GAIN,
    MAX_UNSURE_ML,
    MIN_CONTRAST,
    MIN_EXPECTED_DICE,
    MODEL_LIMITS,
    QC_GROUPS,
    VOLUME_RANGES_ML,
)
from .qc_rules import FAIL, REVIEW, Measure

_AXES = {'x': 'left to right', 'y': 'back to front', 'z': 'bottom to top'}
_SIDES = ('left', 'right', 'posterior', 'anterior', 'inferior', 'superior')

_HEADER = (
    *(
        Measure(
            f'voxel_size_{axis}_mm',
            f'Distance of neighbouring voxels along the axis closest to {direction}.',
            'mm',
            review=(-inf, 8),
            high=f'{{value}} mm between voxels from {direction} (trained on up to {{limit}} mm)',
        )
        for axis, direction in _AXES.items()
    ),
    *(
        Measure(
            f'field_of_view_{axis}_mm',
            f'Extent of the image along the axis closest to {direction}.',
            'mm',
        )
        for axis, direction in _AXES.items()
    ),
    Measure('sform_code', 'Code of the sform in the header; 0: not set.', compared=False),
    Measure('qform_code', 'Code of the qform in the header; 0: not set.', compared=False),
    Measure(
        'orientation_code',
        'Code of the matrix that tells where left and right are: of the sform or, where it is '
        'not set, of the qform.',
        review=(1, inf),
        low='no sform or qform: which side is left is a guess',
        compared=False,
    ),
    Measure(
        'sform_qform_distance_mm',
        'Largest distance between the places that sform and qform give to a corner of the image; '
        'n/a unless both are set. Programs that read one or the other then do not agree.',
        'mm',
        review=(-inf, 1),
        high='sform and qform lie up to {value} mm apart',
    ),
    Measure(
        'n_not_finite',
        'Voxels that are not a number or infinite; they are read as background.',
    ),
    Measure('n_negative', 'Voxels below 0.'),
)

_VIEW = tuple(
    Measure(
        f'cut_{side}',
        f'Area of brain (without brainstem and cerebrospinal fluid) in the {side} outermost plane '
        'of the image, divided by the area in the plane along the same axis that has most. The '
        'limit is the share of a brain-sized ball 5 mm below its top.',
        review=(-inf, 0.15),
        high=f'brain cut off at the {side} border',
    )
    for side in _SIDES
)

_INTENSITIES = (
    Measure(
        'background_value',
        'Value of a constant background outside of the range of intensities, such as -1024, which '
        'was not counted where the scan was rescaled; n/a if there is none.',
        compared=False,
    ),
    Measure(
        'zero_tissue',
        'Part of the brain tissue whose intensity is exactly 0, as where defacing, skull '
        'stripping or a repair of invalid voxels has cut into it.',
        review=(-inf, 0.02),
        fail=(-inf, 0.3),
        high='{value} of the brain tissue has intensity 0',
    ),
    Measure(
        'white_matter',
        'Whether the median of cerebral white matter is brighter or darker than that of the '
        f'cortex; equal below a contrast-to-noise ratio of {MIN_CONTRAST}.',
        compared=False,
    ),
    Measure(
        'csf',
        'Whether the median of the lateral ventricles is brighter than, darker than or between '
        'those of cerebral white matter and cortex.',
        compared=False,
    ),
    Measure(
        'contrast_guess',
        'Kind of contrast that the two rows above suggest: T1-like (white matter bright, fluid '
        'not), T2-like (dark, bright), FLAIR-like (dark, dark), PD-like (dark, between) or '
        'unclear; CT where the scan was segmented as such, clipped to 0 to 80 HU.',
        compared=False,
    ),
    Measure(
        'contrast_conflict',
        '1 if the contrast is not one that the suffix in the name stands for, 0 if it is; n/a '
        'where it is unclear. A scan may have the wrong name, or the segmentation missed. In '
        'infants T1w and T2w change places.',
        review=(-inf, 0),
        high='{detail}',
        compared=False,
    ),
    Measure(
        'snr',
        'Signal-to-noise ratio: median of cerebral white matter, one voxel of its border left '
        'out, divided by its standard deviation, estimated as 1.4826 times the median absolute '
        'deviation. The deviation holds noise and what is left of the bias field. n/a if the '
        'tissue has negative intensities.',
        review=(3, inf),
        low='white matter noisy or shaded (SNR {value})',
    ),
    Measure(
        'cnr',
        'Contrast-to-noise ratio: distance of the medians of cerebral white matter and cortex, '
        'divided by the root of the sum of their variances, estimated as for snr.',
        review=(0.1, inf),
        low='white matter and cortex look alike (CNR {value})',
    ),
)


def _model_limits(measure: str) -> tuple[float, float]:
    """Return the lowest values that pass, and that do not fail."""
    found = MODEL_LIMITS['limits'][measure]
    return found[REVIEW], found[FAIL]


_NOTE = f'The limits hold for the model {MODEL_LIMITS["origin"]["model"]} alone.'
_LOOKED = f'Measured for the model {MODEL_LIMITS["origin"]["model"]} alone.'


def _plain(group: str) -> str:
    return group.replace('hippocampus_', 'hippocampus and ').replace('_', ' ')


_CONFIDENCE = (
    *(
        Measure(
            f'confidence_{group}',
            'Mean posterior probability of a label over its voxels, averaged over the structures '
            f'of the group {_plain(group)}, each of which counts the same.',
            review=(review, inf),
            fail=(fail, inf),
            low=f'unsure of the {_plain(group)} (confidence {{value}})',
            note=_NOTE,
        )
        for group in QC_GROUPS
        for review, fail in [_model_limits(f'confidence_{group}')]
    ),
    Measure(
        'flip_dice',
        'Dice overlap of the segmentations of the scan and of its mirror image, averaged over '
        'the structures; n/a with --fast.',
        review=(_model_limits('flip_dice')[0], inf),
        fail=(_model_limits('flip_dice')[1], inf),
        low='segmented unlike its mirror image (Dice {value})',
        note=_NOTE,
    ),
)

_EXPECTED = tuple(
    Measure(
        f'expected_dice_{group}',
        f'Dice overlap with the truth, averaged over the structures of the group {_plain(group)}, '
        'that generated scans of the same confidence had; n/a for other models.',
        review=(MIN_EXPECTED_DICE, inf),
        low=f'expected Dice of the {_plain(group)} is {{value}}',
        compared=False,
    )
    for group in QC_GROUPS
)

_RANGES = ', '.join(
    f'{label.name.removeprefix("Left-")} {low:g} to {high:g}'
    for label in segmentation_labels()
    for low, high in [VOLUME_RANGES_ML.get(label.index, (0, 0))]
    if high
)

_ASYMMETRIES = ', '.join(
    f'{label.name.removeprefix("Left-")} {MAX_ASYMMETRY[label.index]:g}'
    for label in segmentation_labels()
    if label.index in MAX_ASYMMETRY
)

_VOLUMES = (
    Measure(
        'total_intracranial_ml',
        'Volume of all structures and of the cerebrospinal fluid around them.',
        'ml',
        review=(800, 2200),
        fail=(250, 3200),
        low='only {value} ml segmented in all (adults: more than {limit})',
        high='{value} ml segmented in all (adults: less than {limit})',
    ),
    Measure(
        'brain_tissue_ml',
        'Volume of all structures but ventricles and cerebrospinal fluid.',
        'ml',
        review=(700, 1900),
        fail=(200, 2800),
        low='only {value} ml of brain (adults: more than {limit})',
        high='{value} ml of brain (adults: less than {limit})',
    ),
    Measure(
        'n_missing_structures',
        'Structures without a voxel.',
        review=(-inf, 0),
        fail=(-inf, 8),
        high='not found: {detail}',
    ),
    Measure(
        'n_missing_parcels',
        'Parcels of the cortex, of 68, without a voxel; n/a without --parc.',
        review=(-inf, 0),
        high='parcels not found: {detail}',
    ),
    Measure(
        'n_implausible_volumes',
        'Structures that are present but smaller or larger than plausible.',
        review=(-inf, 0),
        high='unusual volume: {detail}',
        note=f'Plausible in ml, for either side: {_RANGES}.',
    ),
    Measure(
        'n_asymmetric_structures',
        'Pairs whose left and right volume differ by more, divided by their mean, than in healthy '
        'heads.',
        review=(-inf, 0),
        high='left and right differ: {detail}',
        note=f'Plausible up to: {_ASYMMETRIES}.',
    ),
)

_ANOMALIES = (
    Measure(
        'odd_intensity_ml',
        'Volume of the largest region whose intensity is more than four robust standard '
        'deviations from the median of the tissue that its label belongs to, after a quadratic '
        'bias field, and which is at least 4 mm and two voxels wide. Such regions are masses, '
        'cavities and bleedings, or the segmentation missed. Up to 1.5 in healthy scans and in '
        'multiple sclerosis.',
        'ml',
        review=(-inf, 2),
        high='{value} ml look unlike the structure that they are segmented as (mass, cavity?)',
    ),
    Measure(
        'fluid_pocket_ml',
        'Volume of the largest part of the fluid around the brain that a ball of 16 mm across '
        'fits into, as it does not in cisterns and sulci: a cavity or a cyst.',
        'ml',
        review=(-inf, 1),
        high='a pocket of {value} ml in the fluid around the brain (cavity, cyst?)',
    ),
    Measure(
        'unsure_difference_ml',
        'Difference of left and right in the volume of regions, at least 4 mm wide, whose '
        'posteriors have an entropy above 1.4 bits, between that of two and of three labels that '
        'are equally likely.',
        'ml',
        review=(-inf, MAX_UNSURE_ML),
        high='unsure of {value} ml more on the {detail} (mass, cavity?)',
        note=_NOTE,
    ),
    Measure(
        'axes_gain',
        'Mean confidence of the network in the best of the copies with axes exchanged or reversed '
        'minus that in the scan as it lies; left and right are not told apart. n/a where '
        'it is sure of the scan as it lies.',
        fail=(-inf, MAX_AXES_GAIN),
        high='axes in the header are wrong: {detail}',
        note=_LOOKED,
        compared=False,
    ),
)

#: All measures by topic.
SECTIONS: dict[str, tuple[Measure, ...]] = {
    'Header': _HEADER,
    'Field of view': _VIEW,
    'Intensities': _INTENSITIES,
    'Confidence': _CONFIDENCE,
    'Expected Dice': _EXPECTED,
    'Volumes': _VOLUMES,
    'Anomalies': _ANOMALIES,
}

#: All measures in the order of the table.
MEASURES: tuple[Measure, ...] = tuple(m for section in SECTIONS.values() for m in section)
