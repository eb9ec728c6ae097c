"""Label maps of brains are converted to label maps of heads."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from synthseg_bids.cli.main import main
from synthseg_bids.labels import CSF, LabelSchemeError, generation_labels
from synthseg_bids.synth.heads import add_head, closed, donor_from_labels
from synthseg_bids.synth.label_maps import load_label_map
from synthseg_bids.synth.prepare_labels import (
    fill_inside,
    fold_codes,
    merged_labels,
    prepare_map,
    resampled,
)

OUTSIDE = [label.index for label in generation_labels() if label.extracerebral]


def ball(shape, centre, radius):
    grid = np.indices(shape) - np.array(centre)[:, None, None, None]
    return ((grid / np.array(radius)[:, None, None, None]) ** 2).sum(0) <= 1


def brain(shape=(64, 72, 64), radius=(22, 27, 22), centre=(32, 36, 34)):
    """Return cortex around white matter, with a gap where the corpus callosum is."""
    labels = np.zeros(shape, np.int16)
    left = np.indices(shape)[0] < centre[0]
    whole, inner = ball(shape, centre, radius), ball(shape, centre, np.array(radius) - 5)
    labels[whole] = np.where(left, 3, 42)[whole]
    labels[inner] = np.where(left, 2, 41)[inner]
    gap = ball(shape, centre, (3, 12, 4))
    labels[gap] = 0
    return labels, gap


def head(shape=(90, 100, 90)):
    """Return a donor: a brain within fluid, skull and skin, as BrainWeb numbers them."""
    labels = np.zeros(shape, np.int16)
    for value, radius in ((6, 38), (7, 34), (1, 30), (2, 28), (3, 20)):
        labels[ball(shape, (45, 50, 45), (radius, radius * 1.15, radius))] = value
    return labels


@pytest.mark.parametrize(
    ('code', 'label'),
    [(1012, 3), (2030, 42), (11101, 3), (12175, 42), (78, 25), (31, 136), (63, 163), (174, 16),
     (257, CSF), (165, 515), (30, 30), (85, 85), (9, 10), (3007, 2)],
)  # fmt: skip
def test_codes_are_folded(code, label):
    assert (fold_codes(np.full((2, 2, 2), code)) == label).all()


@pytest.mark.parametrize(('code', 'left', 'right'), [(77, 25, 57), (251, 2, 41), (172, 8, 47)])
def test_codes_without_a_side_go_to_the_nearest(code, left, right):
    labels, gap = brain()
    folded = fold_codes(np.where(gap, code, labels))
    middle = np.indices(labels.shape)[0] < 32
    assert (folded[gap] == np.where(middle, left, right)[gap]).mean() > 0.85
    assert set(np.unique(folded[gap])) == {left, right}


def test_unknown_codes_are_named():
    with pytest.raises(LabelSchemeError, match=r'brain.mgz: labels \[666, 9999\]'):
        fold_codes(np.array([[[2, 666, 9999]]]), 'brain.mgz')


def test_the_corpus_callosum_is_filled_and_the_brain_has_fluid_around_it():
    labels, gap = brain()
    filled, inside, notes = fill_inside(labels)
    assert set(np.unique(filled[gap])) <= {2, 41}
    assert (filled[labels > 0] == labels[labels > 0]).all()
    assert ((filled > 0) == inside).all()
    assert notes['fluid_ml'] == pytest.approx((filled == CSF).sum() / 1000, abs=0.05)
    rim = closed(labels > 0, 0, 1) & (labels == 0) & ~gap
    assert (filled[rim] == CSF).all()


@pytest.mark.parametrize('scale', [0.7, 1.0, 1.2])
def test_a_head_leaves_neither_gap_nor_overlap(scale):
    labels, _ = brain((110, 116, 110), np.array((22, 27, 22)) * scale, (55, 58, 55))
    filled, inside, _ = fill_inside(labels)
    whole = add_head(filled, inside, donor_from_labels('donor', head()))
    assert (whole[inside] == filled[inside]).all()
    rim = closed(inside, 0, 1.5) & ~inside
    assert np.isin(whole[rim], [CSF, 515]).mean() > 0.95
    assert whole[rim].all()
    assert set(np.unique(whole[~inside])) <= {0, CSF, 515, 511}
    # The skull lies around the brain, about as thick as the donor's.
    thickness = ((whole[55:, 58, 55] == 515).sum()) / scale
    assert 2 <= thickness <= 6


def test_maps_of_heads_are_donors_too_and_brains_are_not():
    labels, _ = brain()
    filled, inside, _ = fill_inside(labels)
    around = closed(inside, 0, 4) & ~inside
    donor = donor_from_labels('sub-01', np.where(around, 507, filled))
    assert (donor.tissue == 507).sum() == around.sum()
    with pytest.raises(ValueError, match='no head around a brain'):
        donor_from_labels('sub-02', filled)


def test_what_a_map_lacks_is_merged_with_what_it_is_part_of():
    values = [label.index for label in generation_labels() if label.index not in (7, 46, 5, 137)]
    assert merged_labels(np.array(values)) == [[4, 5], [8, 7], [47, 46]] or merged_labels(
        np.array(values)
    ) == [[8, 7], [4, 5], [47, 46]]
    assert merged_labels(np.array([label.index for label in generation_labels()])) == []


@pytest.mark.parametrize('spacing', [0.5, 0.8, 1.0, 2.0])
def test_resampling_keeps_volume_and_place(spacing):
    shape = tuple(int(40 / spacing) for _ in range(3))
    affine = np.diag([spacing, spacing, spacing, 1])
    centre = (18.0, 20.0, 21.0)
    labels = np.where(ball(shape, np.array(centre) / spacing, [9 / spacing] * 3), 17, 0)
    found, new = resampled(labels.astype(np.int16), affine, np.full(3, spacing))
    volume = 4 / 3 * np.pi * 9**3
    assert (found == 17).sum() * abs(np.linalg.det(new)) == pytest.approx(volume, rel=0.04)
    middle = (new @ [*np.argwhere(found == 17).mean(0), 1])[:3]
    np.testing.assert_allclose(middle, centre, atol=0.15)


def test_the_command_writes_maps_that_can_be_trained_on(tmp_path):
    labels, _ = brain()
    (tmp_path / 'in').mkdir()
    (tmp_path / 'heads').mkdir()
    affine = np.diag([-1.0, 1, 1, 1])
    nib.save(nib.Nifti1Image(labels[::-1], affine), tmp_path / 'in' / 'baby_dseg.nii.gz')
    nib.save(nib.Nifti1Image(head(), np.eye(4)), tmp_path / 'heads' / 'donor.nii.gz')
    (tmp_path / 'table.tsv').write_text('name\tage\tlicence\nbaby\tinfant\tCC0\n')
    assert main([
        'prepare-labels', str(tmp_path / 'in'), str(tmp_path / 'out'),
        '--heads', str(tmp_path / 'heads'), '--table', str(tmp_path / 'table.tsv'),
    ]) == 0  # fmt: skip
    sidecar = json.loads((tmp_path / 'out' / 'baby_dseg.json').read_text())
    assert (sidecar['AgeGroup'], sidecar['License']) == ('infant', 'CC0')
    assert (tmp_path / 'out' / 'baby_dseg.png').stat().st_size > 1000
    found = load_label_map(tmp_path / 'out' / 'baby_dseg.nii.gz')
    assert found.age_group == 'infant'
    values = np.array([label.index for label in generation_labels()])[found.indices.numpy()]
    assert {2, 3, 41, 42, CSF, 511, 515} == set(np.unique(values)) - {0}
    # Left is where it was.
    left = (found.affine @ [*np.argwhere(values == 3).mean(0), 1])[0]
    right = (found.affine @ [*np.argwhere(values == 42).mean(0), 1])[0]
    assert left < right


def test_without_donors_a_brain_is_prepared_without_a_head(tmp_path):
    labels, _ = brain()
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / 'brain.nii.gz')
    prepared = prepare_map(tmp_path / 'brain.nii.gz')
    assert not np.isin(prepared.labels, OUTSIDE).any()
    assert (prepared.labels == CSF).any()
