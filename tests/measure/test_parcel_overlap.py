"""Parcels are compared where both maps can have them."""

from __future__ import annotations

import numpy as np
import pytest

from synthseg_bids.labels import segmentation_labels
from synthseg_bids.measure.parcel_overlap import (
    MEAN_OF_PARCELS,
    compare_parcels,
    not_in_scheme,
)
from synthseg_bids.measure.summary import scan_rows, summarise, summarise_parcels
from synthseg_bids.parcels import NOT_IN_DKT, PARCEL_NUMBERS, SIDES, parcel_label, parcel_labels

AFFINE = np.diag([2.0, 2, 2, 1])
#: Middle temporal gyrus, into which DKT puts a part of the banks of the superior temporal sulcus.
NEIGHBOUR = 15


#: A comparison of structures, of which only names matter here.
STRUCTURES = [
    {'index': label.index, 'name': label.name, 'dice': 1.0}
    for label in segmentation_labels()
    if label.index
]


@pytest.fixture
def parcels(rng):
    """Every parcel at random, with white matter."""
    labels = [label.index for label in parcel_labels()]
    return rng.choice([2, 41, *labels], size=(12, 12, 12)).astype(np.int16)


@pytest.fixture
def dkt(parcels):
    """The same map in the scheme of DKT."""
    merged = parcels.copy()
    for side in SIDES:
        left_out = [parcel_label(side, number) for number in NOT_IN_DKT]
        merged[np.isin(parcels, left_out)] = parcel_label(side, NEIGHBOUR)
    return merged


def test_all_of_one_scheme_are_compared(parcels):
    *rows, mean = compare_parcels(parcels, AFFINE, parcels, AFFINE)
    assert [row['index'] for row in rows] == [label.index for label in parcel_labels()]
    assert {row['dice'] for row in (*rows, mean)} == {1.0}
    assert mean['name'] == MEAN_OF_PARCELS
    assert all(row['volume_mm3'] == row['reference_volume_mm3'] > 0 for row in rows)


def test_with_dkt_what_both_have(parcels, dkt):
    assert not_in_scheme(parcels) == ()
    assert not_in_scheme(dkt) == NOT_IN_DKT
    for ours, theirs in ((parcels, dkt), (dkt, parcels)):
        *rows, mean = compare_parcels(ours, AFFINE, theirs, AFFINE)
        assert len(rows) == 2 * (len(PARCEL_NUMBERS) - len(NOT_IN_DKT))
        wrong = {row['index'] for row in rows if row['dice'] < 1}
        assert wrong == {parcel_label(side, NEIGHBOUR) for side in SIDES}
        assert mean['dice'] < 1


def test_without_parcels_nothing_is_compared(parcels):
    assert compare_parcels(parcels, AFFINE, np.where(parcels > 2, 3, 2), AFFINE) == []
    assert not_in_scheme(np.zeros(3, int)) == PARCEL_NUMBERS


def test_on_the_grid_of_the_reference(parcels):
    fine = parcels.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = -0.5
    *rows, mean = compare_parcels(fine, affine, parcels, AFFINE)
    assert mean['dice'] == 1
    assert rows[0]['reference_volume_mm3'] == 8 * (parcels == rows[0]['index']).sum()


def test_summary_of_volumes_that_differ_by_a_factor(parcels, rng):
    rows = []
    for scan in range(5):
        theirs = np.where(rng.random(parcels.shape) < 0.1 * scan, 2, parcels)
        found = compare_parcels(theirs, 2 * AFFINE, theirs, 2 * AFFINE)
        for row in found[:-1]:
            row['volume_mm3'] *= 0.9
        rows += scan_rows(f'scan {scan}', 'T1w', 'fs', STRUCTURES, found)
    table = summarise_parcels(rows)
    assert len(table) == 2 * 68  # of T1w, and of all contrasts
    for row in table:
        assert row['n'] == 5
        assert row['volume_ratio'] == pytest.approx(0.9)
        assert row['volume_r'] == pytest.approx(1)
        assert 0 < row['volume_icc'] < 1
    means = {row['structure'] for row in summarise(rows) if row['kind'] == 'mean'}
    assert MEAN_OF_PARCELS in means
