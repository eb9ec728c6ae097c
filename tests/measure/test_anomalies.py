"""Regions of odd intensity and pockets of fluid, on a simple brain with things drawn into it."""

from __future__ import annotations

import numpy as np
import pytest

from synthseg_bids.measure.anomalies import measure_anomalies

#: Half axes in mm of white matter, cortex and the fluid around it.
WHITE, CORTEX, FLUID = (44, 58, 46), (50, 64, 52), (53, 67, 55)
T1W = {0: 0.0, 24: 30.0, 3: 70.0, 2: 100.0, 4: 30.0}
FLAIR = {0: 0.0, 24: 15.0, 3: 100.0, 2: 85.0, 4: 15.0}


def grid(spacing: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of each voxel in mm, the middle being 0, and the affine."""
    sides = [
        np.arange(-d / 2 + mm / 2, d / 2, mm)
        for d, mm in zip((120, 148, 124), spacing, strict=True)
    ]
    affine = np.diag([*spacing, 1.0])
    return np.stack(np.meshgrid(*sides, indexing='ij')), affine


def make_brain(rng, levels=T1W, spacing=(1.5, 1.5, 1.5), noise=4.0):
    """Return scan, labels, affine, and the place of each voxel."""
    place, affine = grid(spacing)

    def inside(axes):
        return sum((x / half) ** 2 for x, half in zip(place, axes, strict=True)) < 1

    labels = np.zeros(place.shape[1:], int)
    for label, axes in ((24, FLUID), (3, CORTEX), (2, WHITE)):
        labels[inside(axes)] = label
    labels[(labels == 2) & (place[0] > 0)] = 41
    labels[(labels == 3) & (place[0] > 0)] = 42
    labels[abs(place[0]) < 8] = np.where(
        inside((20, 30, 12)), np.where(place[0] < 0, 4, 43), labels
    )[abs(place[0]) < 8]
    shade = 1 + 0.3 * place[1] / 70 - 0.1 * (place[2] / 60) ** 2
    left = {41: 2, 42: 3, 43: 4}
    scan = np.vectorize(lambda label: levels[left.get(label, label)])(labels) * shade
    return scan + rng.normal(0, noise, labels.shape), labels, affine, place


def ball(place, radius, centre=(-25, 20, 15)):
    return sum((x - c) ** 2 for x, c in zip(place, centre, strict=True)) < radius**2


@pytest.mark.parametrize('levels', [T1W, FLAIR], ids=['T1w', 'FLAIR'])
@pytest.mark.parametrize('spacing', [(1.5, 1.5, 1.5), (1, 1, 5), (0.8, 3, 0.8)], ids=str)
def test_a_whole_brain_has_neither(rng, levels, spacing):
    scan, labels, affine, _ = make_brain(rng, levels, spacing)
    found = measure_anomalies(scan, labels, affine)
    assert found['odd_intensity_ml'] < 0.2
    assert found['fluid_pocket_ml'] == 0


@pytest.mark.parametrize(
    ('kind', 'level'), [('bright', 180), ('dark', 35), ('bleeding', 5)], ids=lambda v: str(v)
)
@pytest.mark.parametrize('spacing', [(1.5, 1.5, 1.5), (1, 1, 5)], ids=str)
def test_masses_are_measured(rng, kind, level, spacing):
    scan, labels, affine, place = make_brain(rng, spacing=spacing)
    mass = ball(place, 15)
    scan[mass] = level + rng.normal(0, 4, int(mass.sum()))
    found = measure_anomalies(scan, labels, affine)['odd_intensity_ml']
    volume = mass.sum() * np.prod(spacing) / 1000
    assert 0.6 * volume < found < 1.3 * volume


def test_a_bright_rim_is_measured(rng):
    scan, labels, affine, place = make_brain(rng)
    scan[ball(place, 18)] = 180
    scan[ball(place, 10)] = 100
    found = measure_anomalies(scan, labels, affine)['odd_intensity_ml']
    assert found == pytest.approx(4 / 3 * np.pi * (1.8**3 - 1.0**3), rel=0.35)


def test_thin_lesions_and_borders_are_not(rng):
    scan, labels, affine, place = make_brain(rng)
    scan[ball(place, 18) & (abs(place[2] - 15) < 1)] = 180
    assert measure_anomalies(scan, labels, affine)['odd_intensity_ml'] < 0.2


def test_a_cavity_that_is_called_fluid(rng):
    scan, labels, affine, place = make_brain(rng)
    cavity = ball(place, 14, (-30, 30, 20))
    scan[cavity], labels[cavity] = 30, 24
    found = measure_anomalies(scan, labels, affine)
    assert found['odd_intensity_ml'] < 0.2
    assert found['fluid_pocket_ml'] == pytest.approx(4 / 3 * np.pi * 1.4**3, rel=0.35)


def test_without_a_brain_there_is_nothing_to_measure(rng):
    found = measure_anomalies(rng.normal(size=(9, 9, 9)), np.zeros((9, 9, 9), int), np.eye(4))
    assert found == {'odd_intensity_ml': None, 'fluid_pocket_ml': 0}
