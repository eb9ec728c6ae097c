from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from app import save_tiny_model
from bad_inputs import noise
from parcel_brain import brain, posteriors_of
from torch.nn import functional

from synthseg_bids import Segmenter
from synthseg_bids.images.geometry import Grid
from synthseg_bids.inference.hemispheres import HemisphereGrid, hemisphere_input
from synthseg_bids.inference.parcels import (
    HemisphereLogits,
    Parcellator,
    ParcelPosteriors,
    interpolate,
    label_parcels,
)
from synthseg_bids.inference.speckles import remove_speckles
from synthseg_bids.labels import mirror_channels, network_labels
from synthseg_bids.models.card import ModelFileError
from synthseg_bids.parcels import PARCEL_NUMBERS, SIDES, parcel_labels

LABELS = network_labels()


@pytest.fixture(scope='module')
def parcellate():
    return Parcellator()


def parcels_of(parcellate, posteriors, spacing_mm=1.0):
    """Name the parcels of posteriors on a whole network grid; return labels and parcels."""
    found = parcellate(posteriors, LABELS, spacing_mm)
    labels = np.array(LABELS, dtype=np.int16)[posteriors.argmax(0).numpy()]
    box = tuple(slice(0, n) for n in labels.shape)
    return labels, label_parcels(found, labels, box, labels.shape, np.ones(3), spacing_mm**3)


def assert_only_cortex_changed(labels, parcels):
    for cortex, first in SIDES.values():
        assert set(np.unique(parcels[labels == cortex])) <= {*range(first + 1, first + 36)}
    other = ~np.isin(labels, [cortex for cortex, _ in SIDES.values()])
    assert np.array_equal(parcels[other], labels[other])


def test_every_cortex_voxel_has_a_parcel_of_its_side_and_no_other(parcellate):
    labels, parcels = parcels_of(parcellate, posteriors_of(brain()))
    assert_only_cortex_changed(labels, parcels)
    assert (labels == 3).any()


def test_parcels_on_a_grid_of_thick_slices_outside_the_box(parcellate):
    posteriors = posteriors_of(brain())
    found = parcellate(posteriors, LABELS, 1.0)
    labels = np.full((30, 70, 12), 3, dtype=np.int16)
    labels[15:] = 42
    box = tuple(slice(5, 5 + n) for n in posteriors.shape[1:])
    parcels = label_parcels(found, labels, box, (56, 70, 44), np.array([2.0, 1.0, 5.0]), 10.0)
    assert_only_cortex_changed(labels, parcels)


def test_a_mirrored_brain_has_mirrored_parcels(parcellate):
    posteriors = posteriors_of(brain())
    # Larger on one side, so that it is not its own mirror image.
    posteriors[:, 2:6, 20:40] = posteriors[:, 6:10, 20:40]
    _, parcels = parcels_of(parcellate, posteriors)
    _, mirrored = parcels_of(parcellate, posteriors.flip(1)[mirror_channels(LABELS)])
    mirror = {label.index: label.mirror for label in parcel_labels()}
    cortex = parcels >= 1000
    expected = np.vectorize(mirror.get)(parcels[cortex])
    assert (mirrored[::-1][cortex] == expected).mean() > 0.999


@pytest.mark.parametrize('step', [1.0, 0.5, 3.0])
def test_parcels_are_where_the_logits_are(step):
    """The n-th plane of logits along y is of the n-th parcel."""
    grid = HemisphereGrid((slice(4, 20), slice(10, 42), slice(0, 16)), 2.0, (8, 16, 8))
    distance = torch.arange(16.0)[:, None] - torch.arange(len(PARCEL_NUMBERS))
    logits = (-(distance**2)).expand(8, 8, -1, -1).transpose(1, 2).contiguous()
    found = ParcelPosteriors({'left': HemisphereLogits(logits, grid)})
    shape, start = (30, 60, 20), 3
    n = round(60 / step)
    labels = np.full((10, n, 8), 3, dtype=np.int16)
    box = (slice(0, 30), slice(start, 60), slice(0, 20))
    parcels = label_parcels(found, labels, box, shape, np.array([3.0, step, 2.5]), 100.0)
    centre_mm = start + (10 + 41) / 2 - 59 / 2
    plane = ((np.arange(n) - (n - 1) / 2) * step - centre_mm) / 2 + 15 / 2
    # Half-way between planes either parcel is right.
    sure = abs(plane - np.floor(plane) - 0.5) > 1e-3
    expected = np.array(PARCEL_NUMBERS)[plane.round().clip(0, 15).astype(int)] + 1000
    assert (parcels == parcels[:1, :, :1]).all()
    assert np.array_equal(parcels[0, sure, 0], expected[sure])


def test_one_hemisphere_is_missing(parcellate):
    posteriors = posteriors_of(np.where(np.isin(brain(), (41, 49)) | (brain() > 2000), 0, brain()))
    found = parcellate(posteriors, LABELS, 1.0)
    assert list(found.sides) == ['left']
    labels, parcels = parcels_of(parcellate, posteriors)
    assert_only_cortex_changed(labels, parcels)


def test_input_of_the_right_hemisphere_is_that_of_the_mirrored_left_one():
    posteriors = posteriors_of(brain())
    left, grid = hemisphere_input(posteriors, LABELS, 'left', 1.0, 4)
    right, _ = hemisphere_input(posteriors, LABELS, 'right', 1.0, 4)
    assert torch.allclose(left, right, atol=1e-6)
    assert left[:, :5].min() >= 0
    assert left[:, :5].sum(1).max() <= 1 + 1e-5
    ends = [grid.located(torch.tensor(part.start - 0.5), i) for i, part in enumerate(grid.box)]
    places = [left[0, 5 + i].movedim(i, 0)[:, 0, 0] for i in range(3)]
    for end, place in zip(ends, places, strict=True):
        # Linear, with -1 at the face of the box.
        assert float(place[0] + (place[1] - place[0]) * end) == pytest.approx(-1, abs=1e-4)


def test_interpolation_is_that_of_grid_sample():
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, 6, 7, generator=source)
    points = torch.rand(50, 3, generator=source) * torch.tensor([6.0, 7.0, 8.0]) - 1
    scale = torch.tensor([2 / 3, 2 / 4, 2 / 5])
    where = (points * scale - 1).flip(1)[None, :, None, None]
    expected = functional.grid_sample(
        logits.movedim(-1, 0)[None], where, padding_mode='border', align_corners=True
    )
    found = interpolate(logits, points.unbind(1))
    assert torch.allclose(found.T, expected[0, :, :, 0, 0], atol=1e-5)


def test_speckles_go_to_the_parcel_around_them():
    parcels = np.zeros((12, 12, 6), dtype=np.int16)
    parcels[1:6, :, 1:5], parcels[6:11, :, 1:5] = 1003, 2003
    parcels[2:4, 2:4, 2] = 1010
    # A part of the left side among the right one has no neighbour of its own side.
    parcels[9, 6, 3] = 1012
    before = parcels.copy()
    remove_speckles(parcels, 1.0, 50)
    assert not (parcels == 1010).any()
    assert (parcels[before == 1010] == 1003).all()
    assert parcels[9, 6, 3] == 1012
    assert np.array_equal(parcels[before == 2003], before[before == 2003])
    assert (before == 1010).sum() == 4


def test_large_parts_are_kept():
    parcels = np.zeros((12, 12, 6), dtype=np.int16)
    parcels[:6], parcels[6:] = 1003, 1010
    before = parcels.copy()
    assert np.array_equal(remove_speckles(parcels, 1.0, 50), before)
    assert not remove_speckles(np.zeros((3, 3, 3), np.int16), 1.0).any()


def test_segmenter_adds_parcels_on_both_grids(tmp_path):
    model = save_tiny_model(tmp_path / 'tiny.safetensors')
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    segment = Segmenter(model, device='cpu', parcels=True)
    found = segment.segment(noise((24, 26, 12)), affine, labels_1mm=True)
    assert_only_cortex_changed(found.labels, found.parcels)
    assert_only_cortex_changed(found.isotropic.labels, found.isotropic.parcels)
    assert (
        found.isotropic.parcels.shape == Grid((24, 26, 12), affine).in_ras().resampled(1.0).shape
    )
    image = nib.Nifti1Image(noise((24, 26, 12)), affine)
    assert Segmenter(model, device='cpu')(image).segmentation.parcels is None


def test_another_network_is_refused():
    with pytest.raises(ModelFileError, match='not a network of cortical parcels'):
        Parcellator('fast')
