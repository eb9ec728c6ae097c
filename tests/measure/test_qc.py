"""Judging a segmented scan."""

from __future__ import annotations

import re
import runpy
from dataclasses import asdict, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from qc_limits import find_limits, shuffle_blocks

from synthseg_bids.files import read_table
from synthseg_bids.inference.memory_estimate import describe_model
from synthseg_bids.interfaces import AssessQuality
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.measure.network_report import NetworkReport
from synthseg_bids.measure.qc import Header, assess, judge
from synthseg_bids.measure.qc_limits import MODEL_LIMITS, QC_GROUPS, VOLUME_RANGES_ML
from synthseg_bids.measure.qc_measures import MEASURES
from synthseg_bids.measure.qc_rules import FAIL, PASS, REVIEW

AFFINE = np.diag([4.0, 4, 4, 1])
#: Of the network that the limits of confidence were found for.
SHIPPED = MODEL_LIMITS['origin']['model_sha256']
LABELS = segmentation_labels()
N_CHANNELS = len(LABELS)
DOCS = Path(__file__).parents[2] / 'docs'

#: Typical volumes in ml: between the limits of every structure.
TYPICAL = {label: (low * high) ** 0.5 for label, (low, high) in VOLUME_RANGES_ML.items()}


def brain(scale: float = 1.0, shape=(50, 52, 46), leave_out=(), **changes: float) -> np.ndarray:
    """Fill every structure to its typical volume, slice by slice, with an empty border."""
    values = []
    for label in LABELS:
        if label.index in (0, *leave_out):
            continue
        ml = TYPICAL.get(label.mirror if label.side == 'right' else label.index, 300)
        ml = changes.get(label.abbreviation.replace('-', '_'), ml) * scale
        values += [label.index] * round(ml * 1000 / 64)
    inner = np.zeros(np.prod([n - 4 for n in shape]), np.int16)
    # In the middle slices.
    start = (len(inner) - len(values)) // 2
    inner[start : start + len(values)] = values
    return np.pad(inner.reshape([n - 4 for n in shape]), 2)


def scan(labels: np.ndarray, rng, white=100.0, grey=80.0, fluid=30.0, noise=5.0) -> np.ndarray:
    image = np.full(labels.shape, 60.0)
    for values, level in (((2, 41), white), ((3, 42), grey), ((4, 43), fluid)):
        image[np.isin(labels, values)] = level
    return image + rng.normal(0, noise, labels.shape)


def measured(rows):
    return {row['measure']: row for row in rows}


def sure(value: float, model_sha256: str = '') -> NetworkReport:
    same = (value,) * N_CHANNELS
    return NetworkReport(model_sha256, confidence=same, flip_dice=same)


GOOD_HEADER = Header(AFFINE, AFFINE, 1, 1)


def test_a_usual_scan_passes(rng):
    labels = brain()
    seen = scan(labels, rng), labels, AFFINE, GOOD_HEADER
    rows = assess(*seen, sure(0.9, SHIPPED))
    assert [row['measure'] for row in rows] == [*(m.name for m in MEASURES), 'verdict']
    assert rows[-1] == {'measure': 'verdict', 'value': PASS, 'flag': PASS, 'reason': ''}
    found = {name: row['value'] for name, row in measured(rows).items()}
    assert found['voxel_size_x_mm'] == 4
    assert found['field_of_view_y_mm'] == 208
    assert found['sform_qform_distance_mm'] == 0
    assert found['contrast_guess'] == 'T1-like'
    assert found['confidence_cortex'] == found['flip_dice'] == pytest.approx(0.9)
    total = sum((labels == label.index).sum() for label in LABELS[1:]) * 64 / 1000
    assert found['total_intracranial_ml'] == pytest.approx(total)


def test_noise_is_measured_robustly(rng):
    labels = brain()
    image = scan(labels, rng, white=100, grey=70, noise=5)
    image.flat[np.flatnonzero(labels == 2)[:20]] = 1e6
    found = measured(assess(image, labels, AFFINE, GOOD_HEADER))
    assert found['snr']['value'] == pytest.approx(100 / 5, rel=0.05)
    assert found['cnr']['value'] == pytest.approx(30 / (5 * 2**0.5), rel=0.05)
    # Where 0 is not the absence of signal, there is no ratio to it.
    found = measured(assess(image - 100, labels, AFFINE, GOOD_HEADER))
    assert found['snr']['value'] is found['snr']['flag'] is None
    assert found['n_negative']['value'] == (image < 100).sum()


@pytest.mark.parametrize(
    ('levels', 'guess'),
    [
        ((100, 80, 30), 'T1-like'),
        ((60, 80, 200), 'T2-like'),
        ((60, 80, 20), 'FLAIR-like'),
        ((60, 80, 70), 'PD-like'),
        ((80, 80, 200), 'unclear'),
    ],
)
def test_contrast_is_guessed(rng, levels, guess):
    labels = brain()
    found = measured(assess(scan(labels, rng, *levels), labels, AFFINE, GOOD_HEADER))
    assert found['contrast_guess']['value'] == guess


@pytest.mark.parametrize(
    ('suffix', 'levels', 'conflict'),
    [
        ('T1w', (100, 80, 30), 0),
        ('T1w', (60, 80, 200), 1),
        ('T2w', (60, 80, 200), 0),
        ('T2w', (100, 80, 30), 1),
        ('FLAIR', (60, 80, 20), 0),
        ('FLAIR', (100, 80, 30), 1),
        ('T1w', (80, 80, 200), None),
        ('T2starw', (100, 80, 30), None),
        ('', (100, 80, 30), None),
    ],
)
def test_contrast_that_is_not_that_of_the_name(rng, suffix, levels, conflict):
    labels = brain()
    image = scan(labels, rng, *levels)
    rows = assess(image, labels, AFFINE, GOOD_HEADER, sure(0.9), suffix)
    found = measured(rows)['contrast_conflict']
    assert found['value'] == conflict
    if conflict:
        assert rows[-1]['value'] == REVIEW
        assert rows[-1]['reason'].endswith(f'-like, but is named {suffix}')
    else:
        assert found['reason'] is None


def test_tissue_without_signal(rng):
    labels = brain()
    image = scan(labels, rng)
    image[:22] = 0
    rows = assess(image, labels, AFFINE, GOOD_HEADER)
    tissue = (labels > 0) & ~np.isin(labels, (24, *QC_GROUPS['ventricles']))
    share = (image[tissue] == 0).mean()
    assert measured(rows)['zero_tissue']['value'] == pytest.approx(share)
    assert 0.02 < share < 0.3
    assert rows[-1]['value'] == REVIEW
    assert 'intensity 0' in rows[-1]['reason']


@pytest.mark.parametrize(
    ('index', 'side'),
    [
        ((0, 0), 'left'), ((0, -1), 'right'), ((1, 0), 'posterior'),
        ((1, -1), 'anterior'), ((2, 0), 'inferior'), ((2, -1), 'superior'),
    ],
)  # fmt: skip
def test_cut_brain_is_named_by_side(rng, index, side):
    labels = np.zeros((40, 44, 48), np.int16)
    labels[8:32, 8:36, 8:40] = 2
    axis, end = index
    plane = np.moveaxis(labels, axis, 0)
    # Brainstem and fluid may leave the image; a tip of the brain may touch its border.
    plane[end, 20:, 20:] = 16
    plane[end, :20, :20] = 24
    plane[end, :2, :2] = 3
    # In an image whose first axis runs to the left and whose last two are swapped.
    affine = np.array([[-2.0, 0, 0, 0], [0, 0, 2, 0], [0, 2, 0, 0], [0, 0, 0, 1]])
    turned = labels[::-1].transpose(0, 2, 1)
    found = measured(assess(scan(turned, rng), turned, affine, Header()))
    assert all(row['flag'] == PASS for name, row in found.items() if name.startswith('cut_'))
    plane[end] = plane[20]
    found = measured(assess(scan(turned, rng), turned, affine, Header()))
    cut = [name for name, row in found.items() if name.startswith('cut_') and row['reason']]
    assert cut == [f'cut_{side}']
    assert found[f'cut_{side}']['value'] == 1


def test_header_is_judged():
    moved = AFFINE.copy()
    moved[0, 3] += 3
    labels = brain()
    image = np.ones(labels.shape)

    def found(header):
        return measured(assess(image, labels, AFFINE, header))

    rows = found(Header(AFFINE, moved, 1, 2, n_not_finite=7))
    assert rows['sform_qform_distance_mm']['value'] == 3
    assert rows['sform_qform_distance_mm']['flag'] == REVIEW
    assert (rows['n_not_finite']['value'], rows['qform_code']['value']) == (7, 2)
    assert rows['orientation_code']['flag'] == PASS
    assert found(Header(None, AFFINE, 0, 1))['orientation_code']['flag'] == PASS
    assert 'guess' in found(Header(None, None, 0, 0))['orientation_code']['reason']
    # Formats without forms.
    assert found(Header())['orientation_code']['flag'] is None


def test_empty_segmentation_fails(rng):
    rows = assess(rng.random((9, 9, 9)), np.zeros((9, 9, 9), np.int16), AFFINE, Header())
    assert rows[-1]['value'] == FAIL
    assert rows[-1]['reason'].startswith('only 0 ml')


@pytest.mark.parametrize(
    ('labels', 'verdict', 'reason'),
    [
        (brain(scale=0.1), FAIL, 'only'),
        # A child of three months, a brain that has lost a third.
        (brain(scale=0.5), REVIEW, 'only'),
        (brain(L_WM=120, R_WM=120, L_LV=150, R_LV=150, L_HIP=0.5, R_HIP=0.5), REVIEW, '0.512 ml'),
        (brain(L_HIP=4, R_HIP=1), REVIEW, 'Hippocampus (3.97 and 1.02 ml)'),
        (brain(leave_out=[26]), REVIEW, 'not found: Left-Accumbens-area'),
        (brain(leave_out=[7, 8, 10, 11, 46, 47, 49, 50, 16]), FAIL, 'Left-Thalamus and 6 more'),
    ],
    ids=['tiny', 'child', 'atrophied', 'asymmetric', 'missing', 'much missing'],
)
def test_volumes_are_judged(rng, labels, verdict, reason):
    rows = assess(scan(labels, rng), labels, AFFINE, GOOD_HEADER, sure(0.9))
    assert rows[-1]['value'] == verdict, rows[-1]
    assert reason in rows[-1]['reason']


def test_confidence_of_groups(rng):
    labels = brain()
    confidence = np.full(N_CHANNELS, 0.9)
    channel = {label.index: i for i, label in enumerate(LABELS)}
    confidence[channel[17]] = np.nan
    confidence[[channel[i] for i in (18, 53, 54)]] = 0.1, 0.2, 0.3
    flip = np.full(N_CHANNELS, 0.6)
    flip[0], flip[1] = 0.0, np.nan
    seen = scan(labels, rng), labels, AFFINE, GOOD_HEADER
    report = NetworkReport(SHIPPED, False, tuple(confidence), tuple(flip))
    rows = assess(*seen, report)
    found = measured(rows)
    assert found['confidence_hippocampus_amygdala']['value'] == pytest.approx(0.2)
    assert found['confidence_hippocampus_amygdala']['flag'] in (REVIEW, FAIL)
    assert found['flip_dice']['value'] == pytest.approx(0.6)
    assert 'hippocampus and amygdala (confidence 0.2)' in rows[-1]['reason']
    rows = assess(*seen)
    assert measured(rows)['flip_dice']['flag'] is None
    # Of another network the values are the same, but there are no limits.
    for row in assess(*seen, replace(report, model_sha256='another')):
        name = row['measure']
        assert row['value'] == found[name]['value'] or name == 'verdict' or row['value'] is None
        assert name not in MODEL_LIMITS['limits'] or row['flag'] is row['reason'] is None


def test_verdict_is_the_worst_flag_and_names_it_first():
    rows = judge({'voxel_size_x_mm': 9.0, 'flip_dice': 0.0}, {})
    assert rows[-1]['value'] == FAIL
    assert [part.split()[0] for part in rows[-1]['reason'].split('; ')] == ['segmented', '9']
    assert judge({}, {})[-1]['value'] == PASS


def test_limits_of_confidence_are_those_of_the_shipped_model():
    names = {f'confidence_{group}' for group in QC_GROUPS} | {'flip_dice'}
    assert {*MODEL_LIMITS['limits']} == names
    for measure in MEASURES:
        if measure.name in names:
            limits = MODEL_LIMITS['limits'][measure.name]
            assert (measure.review[0], measure.fail[0]) == (limits[REVIEW], limits[FAIL])
            assert 0 <= limits[FAIL] <= limits[REVIEW] < limits['good_median'] < 1
    card = describe_model('default')
    found = MODEL_LIMITS['origin']['model_sha256']
    assert found == card.sha256, 'run benchmarks/qc_limits.py, then docs/build.py qc'


def test_limits_lie_between_good_and_spoiled_scans():
    found = find_limits([0.9] * 94 + [0.5] * 6, [0.3, 0.4, np.nan, 0.45])
    assert (found[REVIEW], found[FAIL]) == (0.5, 0.4)
    # What spoiled scans have as well as good ones says nothing.
    assert find_limits([0.6, 0.7, 0.8], [0.9] * 3)[FAIL] <= 0.6


def test_shuffled_blocks_hold_the_same_voxels(rng):
    image = rng.random((45, 60, 33))
    shuffled = shuffle_blocks(image, np.diag([2.0, 1, 2, 1]), seed=3)
    assert shuffled.shape == (40, 60, 30)
    np.testing.assert_array_equal(np.sort(shuffled.ravel()), np.sort(image[:40, :60, :30].ravel()))
    assert (shuffled != image[:40, :60, :30]).mean() > 0.5
    first = shuffled[:10, :20, :10]
    assert any(
        np.array_equal(first, image[x : x + 10, y : y + 20, z : z + 10])
        for x in range(0, 40, 10) for y in range(0, 60, 20) for z in range(0, 30, 10)
    )  # fmt: skip


def test_every_structure_has_a_group_and_a_range():
    indices = {label.index for label in LABELS} - {0, 24}
    assert sorted(i for members in QC_GROUPS.values() for i in members) == sorted(indices)
    assert {label.index for label in LABELS if label.side != 'right'} - {0, 24} == {
        *VOLUME_RANGES_ML
    }


def test_limits_are_documented():
    page = runpy.run_path(str(DOCS / 'build.py'))['page']('qc')
    assert page == (DOCS / 'qc.rst').read_text(), 'run docs/build.py qc'
    for measure in MEASURES:
        assert f'``{measure.name}``' in page
        # A measure with limits says what it means to pass them, in both directions.
        low, high = (
            any(np.isfinite(limits[side]) for limits in (measure.review, measure.fail))
            for side in (0, 1)
        )
        assert (bool(measure.low), bool(measure.high)) == (low, high), measure.name
        assert not re.search('[{}]', measure.judge(-1e9)[1] + measure.judge(1e9)[1])


def test_interface(tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = brain()
    image = scan(labels, rng).astype('f4')
    image[0, 0, :3] = np.nan
    picture = nib.Nifti1Image(image, AFFINE)
    picture.set_qform(np.diag([4, 4, 4.5, 1]), code=2)
    nib.save(picture, tmp_path / 'sub-1_T2w.nii.gz')
    nib.save(nib.Nifti1Image(labels, AFFINE), tmp_path / 'labels.nii.gz')
    node = AssessQuality(
        in_file=str(tmp_path / 'sub-1_T2w.nii.gz'),
        in_labels=str(tmp_path / 'labels.nii.gz'),
        network_report=asdict(NetworkReport(SHIPPED, confidence=(0.9,) * N_CHANNELS)),
    )
    outputs = node.run().outputs
    rows = {row['measure']: row for row in read_table(Path(outputs.out_table))}
    assert rows['confidence_cortex']['flag'] == PASS
    expected = rows['expected_dice_cortex']
    assert 0.8 < float(expected['value']) <= 1
    assert 0 < float(expected['error']) < 0.2
    assert expected['flag'] == PASS
    assert (rows['n_not_finite']['value'], rows['flip_dice']['value']) == ('3', 'n/a')
    assert (rows['sform_code']['value'], rows['qform_code']['value']) == ('2', '2')
    assert float(rows['sform_qform_distance_mm']['value']) == pytest.approx(0.5 * 45)
    assert (outputs.verdict, rows['verdict']['value']) == (REVIEW, REVIEW)
    reasons = [rows[name]['reason'] for name in ('sform_qform_distance_mm', 'contrast_conflict')]
    assert outputs.reasons == '; '.join(reasons)
    assert outputs.notes[0] == f'review: {outputs.reasons}'
