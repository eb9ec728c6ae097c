"""Judge one segmented scan: header, field of view, intensities, confidence and volumes.

:func:`assess` gives a row for every measure of :mod:`.qc_measures` and a last one with
the verdict: the worst of all flags, and why.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ..images.background import far_background
from ..images.ct import CT_RANGE
from ..images.geometry import (
    bounding_box,
    largest_distance_mm,
    orientation,
    spacing_mm,
    to_ras,
)
from ..images.header import Header
from ..images.morphology import interior
from ..labels import CSF, Label, channels_of, segmentation_labels
from ..parcels import CORTEX, parcel_labels
from .anomalies import measure_anomalies
from .expected_dice import expected_dice
from .network_report import NO_REPORT, NetworkReport
from .overlap import total_intracranial, volumes_from_labels
from .qc_limits import (
    CONTRASTS_OF,
    MAX_ASYMMETRY,
    MIN_CONTRAST,
    MODEL_LIMITS,
    QC_GROUPS,
    VOLUME_RANGES_ML,
    limits_hold,
)
from .qc_measures import MEASURES
from .qc_rules import FAIL, PASS, REVIEW, VERDICT
from .stats import median_and_deviation

_BRAIN_STEM = 16
_WHITE_MATTER, _LATERAL_VENTRICLES = (2, 41), (4, 43)
_FLUID = (CSF, *QC_GROUPS['ventricles'])
#: Least number of voxels to estimate noise from, and to erode a mask to.
_MIN_VOXELS = 100
#: Largest part of the tissue below 0 in scans whose 0 means "no signal"; standardised images have
#: more.
_MAX_NEGATIVE = 0.01

UNCLEAR, CT = 'unclear', 'CT'

Values = dict[str, Any]


def assess(
    data: np.ndarray,
    labels: np.ndarray,
    affine: np.ndarray,
    header: Header,
    network: NetworkReport = NO_REPORT,
    suffix: str = '',
    parcels: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Judge a scan and its segmentation.

    Parameters
    ----------
    data : (x, y, z) array
        The scan.
    labels : (x, y, z) integer array
        Its segmentation labels.
    affine : (4, 4) array
    header : Header
    network : NetworkReport
        Its confidence is compared with limits only if they were measured for this very network;
        the contrast of a scan segmented as CT is measured in the window of the brain.
    suffix : str
        Contrast that the scan should have: ``T1w``, ``T2w``, ...
    parcels : (x, y, z) integer array, optional
        Its aparc+aseg map.

    Returns
    -------
    list of dict
        With the keys ``measure``, ``value``, ``error`` (None where there is none), ``flag``
        (``pass``, ``review``, ``fail``; None where there are no limits or no value) and
        ``reason``; the last one is the verdict.
    """
    volumes, details = _volume_values(volumes_from_labels(labels, affine))
    values = {
        **_header_values(header, labels.shape, affine),
        'n_negative': int((data < 0).sum()),
        **_cuts(to_ras(labels, orientation(affine))),
        **_intensity_values(data, labels, network.ct),
        **confidence_values(network.confidence, network.flip_dice),
        **volumes,
        **measure_anomalies(np.clip(data, *CT_RANGE) if network.ct else data, labels, affine),
    }
    if parcels is not None:
        present = {*np.flatnonzero(np.bincount(parcels.ravel())).tolist()}
        missing = [label.name for label in parcel_labels() if label.index not in present]
        values['n_missing_parcels'] = len(missing)
        details['n_missing_parcels'] = _some(missing)
    if network.unsure_mm3 is not None:
        left, right = network.unsure_mm3
        values['unsure_difference_ml'] = abs(left - right) / 1000
        details['unsure_difference_ml'] = 'left' if left > right else 'right'
    if network.turned is not None:
        code, values['axes_gain'] = network.turned
        details['axes_gain'] = (
            f'where it says R, A and S the scan runs to {", ".join(code)}, but for left and right'
        )
    guess = values.get('contrast_guess', UNCLEAR)
    if suffix in CONTRASTS_OF and guess != UNCLEAR:
        values['contrast_conflict'] = int(guess not in CONTRASTS_OF[suffix])
        details['contrast_conflict'] = f'looks {guess}, but is named {suffix}'
    of_shipped = (*MODEL_LIMITS['limits'], 'unsure_difference_ml')
    expected = expected_dice(values, network.model_sha256)
    values |= {name: dice for name, (dice, _) in expected.items()}
    errors = {name: error for name, (_, error) in expected.items()}
    return judge(values, details, () if limits_hold(network.model_sha256) else of_shipped, errors)


def summarise(reasons: str, most: int = 2) -> str:
    """Shorten the reasons for a verdict to one line.

    Parameters
    ----------
    reasons : str
        Of the verdict; see :func:`assess`.
    most : int
        Reasons that are said; the others are counted.

    Returns
    -------
    str

    Examples
    --------
    >>> summarise('no brain; no signal; no header; no hope')
    'no brain; no signal; 2 more'
    """
    said = reasons.split('; ')
    return '; '.join([*said[:most], *([f'{len(said) - most} more'] if len(said) > most else [])])


def judge(
    values: Mapping[str, Any],
    details: Mapping[str, str],
    unlimited: Collection[str] = (),
    errors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Compare measured values with their limits.

    Parameters
    ----------
    values : mapping of str to number, str or None
        By name of the measure.
    details : mapping of str to str
        Which structures a measure is about.
    unlimited : collection of str
        Measures whose limits do not hold.
    errors : mapping of str to float, optional
        Standard errors of values that are estimates.

    Returns
    -------
    list of dict
        See :func:`assess`.
    """
    rows: list[dict[str, Any]] = []
    for measure in MEASURES:
        value = values.get(measure.name)
        flag: str | None = None
        reason = ''
        limited = measure.limits and measure.name not in unlimited
        if limited and value is not None and not np.isnan(value):
            flag, reason = measure.judge(value, details.get(measure.name, ''))
        error = (errors or {}).get(measure.name)
        row = {'measure': measure.name, 'value': value, 'error': error, 'flag': flag}
        rows.append({**row, 'reason': reason or None})
    flags = {row['flag'] for row in rows}
    verdict = next(flag for flag in (FAIL, REVIEW, PASS) if flag in flags or flag == PASS)
    # Reasons to fail come before reasons to review.
    flagged = sorted((row for row in rows if row['reason']), key=lambda row: row['flag'] != FAIL)
    reason = '; '.join(row['reason'] for row in flagged)
    return [*rows, {'measure': VERDICT, 'value': verdict, 'flag': verdict, 'reason': reason}]


def _header_values(header: Header, shape: tuple[int, ...], affine: np.ndarray) -> Values:
    values: Values = {}
    spacing, axes = spacing_mm(affine), orientation(affine).axes
    for name, axis in zip('xyz', axes, strict=True):
        values[f'voxel_size_{name}_mm'] = float(spacing[axis])
        values[f'field_of_view_{name}_mm'] = float(spacing[axis] * shape[axis])
    values['sform_code'], values['qform_code'] = header.sform_code, header.qform_code
    if header.sform_code is not None:
        values['orientation_code'] = header.sform_code or header.qform_code
    if header.sform is not None and header.qform is not None:
        distance = largest_distance_mm(header.sform, header.qform, shape)
        values['sform_qform_distance_mm'] = distance
    values['n_not_finite'] = header.n_not_finite
    return values


def _cuts(labels: np.ndarray) -> Values:
    """Compare the outermost planes of a RAS label map with the planes that hold most brain."""
    brain = (labels != 0) & (labels != CSF) & (labels != _BRAIN_STEM)
    values: Values = {}
    sides = (('left', 'right'), ('posterior', 'anterior'), ('inferior', 'superior'))
    for axis, pair in enumerate(sides):
        areas = brain.sum(tuple(a for a in range(3) if a != axis))
        for side, area in zip(pair, (areas[0], areas[-1]), strict=True):
            values[f'cut_{side}'] = float(area / areas.max()) if areas.max() else None
    return values


def _intensity_values(data: np.ndarray, labels: np.ndarray, ct: bool) -> Values:
    background = far_background(data)
    values: Values = {} if background is None else {'background_value': background}
    if ct:
        values['contrast_guess'] = CT
    box = bounding_box(labels > 0)
    if box is None:
        return values
    data, labels = data[box], labels[box]
    tissue = data[(labels > 0) & ~np.isin(labels, _FLUID)]
    if not tissue.size:
        return values
    values['zero_tissue'] = float((tissue == 0).mean())
    if ct:
        data, tissue = (np.clip(part, *CT_RANGE) for part in (data, tissue))
    # The cortex is too thin to leave out its border.
    grey = data[np.isin(labels, CORTEX)]
    white, fluid = (
        data[interior(np.isin(labels, sides), _MIN_VOXELS, beyond=True)]
        for sides in (_WHITE_MATTER, _LATERAL_VENTRICLES)
    )
    if min(white.size, grey.size) < _MIN_VOXELS:
        return values
    (white_median, white_sd), (grey_median, grey_sd) = (
        median_and_deviation(sample) for sample in (white, grey)
    )
    if white_sd > 0 and (tissue < 0).mean() <= _MAX_NEGATIVE:
        values['snr'] = white_median / white_sd
    if noise := float(np.hypot(white_sd, grey_sd)):
        values['cnr'] = abs(white_median - grey_median) / noise
    apart = values.get('cnr', 0) >= MIN_CONTRAST
    bright = white_median > grey_median
    values['white_matter'] = ('bright' if bright else 'dark') if apart else 'equal'
    if fluid.size:
        median = float(np.median(fluid))
        low, high = sorted((white_median, grey_median))
        values['csf'] = 'dark' if median < low else 'bright' if median > high else 'between'
        kinds = {
            ('bright', 'dark'): 'T1-like',
            ('bright', 'between'): 'T1-like',
            ('dark', 'bright'): 'T2-like',
            ('dark', 'dark'): 'FLAIR-like',
            ('dark', 'between'): 'PD-like',
        }
        kind = kinds.get((values['white_matter'], values['csf']), UNCLEAR)
        values.setdefault('contrast_guess', kind)
    return values


def confidence_values(confidence: Sequence[float], flip_dice: Sequence[float]) -> Values:
    """Average the confidence of a network over groups of structures; see :func:`assess`."""
    values: Values = {}
    if confidence:
        labels = channels_of(len(confidence))
        by_label = {label.index: c for label, c in zip(labels, confidence, strict=True)}
        for group, members in QC_GROUPS.items():
            values[f'confidence_{group}'] = _mean([by_label[label] for label in members])
    if flip_dice:
        by_channel = zip(channels_of(len(flip_dice)), flip_dice, strict=True)
        values['flip_dice'] = _mean([dice for label, dice in by_channel if label.index != 0])
    return values


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else None


def _volume_values(volumes: Mapping[int, tuple[int, float]]) -> tuple[Values, dict[str, str]]:
    """Return the values and which structures the counts are about."""
    ml = {label: volume / 1000 for label, (_, volume) in volumes.items()}
    labels = [label for label in segmentation_labels() if label.index not in (0, CSF)]
    missing = [label.name for label in labels if ml[label.index] == 0]
    unusual = [text for label in labels if (text := _unusual(label, ml[label.index]))]
    uneven = [text for label in labels if label.side == 'left' and (text := _uneven(label, ml))]
    total = total_intracranial(volumes) / 1000
    values: Values = {
        # Not known to a network that does not segment the fluid around the brain (SynthSeg 1.0).
        'total_intracranial_ml': None if total and not ml[CSF] else total,
        'brain_tissue_ml': total - sum(ml[label] for label in _FLUID),
        'n_missing_structures': len(missing),
        'n_implausible_volumes': len(unusual),
        'n_asymmetric_structures': len(uneven),
    }
    details = {
        'n_missing_structures': _some(missing),
        'n_implausible_volumes': _some(unusual),
        'n_asymmetric_structures': _some(uneven),
    }
    return values, details


def _some(names: Sequence[str], most: int = 3) -> str:
    """List the first few of many names."""
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more


def _unusual(label: Label, ml: float) -> str:
    """Describe an implausible volume; empty if it is plausible, or 0."""
    low, high = VOLUME_RANGES_ML[label.mirror if label.side == 'right' else label.index]
    if ml == 0 or low <= ml <= high:
        return ''
    return f'{label.name} ({ml:.3g} ml, usually {low:g} to {high:g})'


def _uneven(label: Label, ml: Mapping[int, float]) -> str:
    """Describe an implausible asymmetry; empty if it is plausible, or if a side is missing."""
    left, right = ml[label.index], ml[label.mirror]
    limit = MAX_ASYMMETRY[label.index]
    if min(left, right) == 0 or abs(left - right) <= limit * (left + right) / 2:
        return ''
    return f'{label.name.removeprefix("Left-")} ({left:.3g} and {right:.3g} ml)'
