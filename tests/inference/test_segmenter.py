"""Segmentations come back on the scan's grid, at the right place, whatever the grid.

Stub networks stand in for a trained one: they turn intensities into known posteriors, so that
where a structure is in mm is known exactly.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from grids import ORIENTATIONS, centre_of_mass_mm, oriented_affine
from stub_networks import HIPPOCAMPI, LABELS, LabelStub, SideStub, StubEngine, ball
from torch import Tensor, nn

from synthseg_bids.hardware.memory import LOW_MEMORY_BYTES
from synthseg_bids.inference.engine import Engine
from synthseg_bids.inference.label_weights import LARGEST
from synthseg_bids.inference.options import ComputeOptions, SegmentOptions
from synthseg_bids.inference.original_spacing import independence
from synthseg_bids.inference.preprocess import prepare
from synthseg_bids.inference.segmenter import Segmenter, cached_segmenter
from synthseg_bids.labels import mirror_channels
from synthseg_bids.models.card import ModelCard, ModelFileError, save_model
from synthseg_bids.models.unet import NetworkConfig, UNet3D


def segmenter(
    network: nn.Module,
    spacing: float,
    crop_mm: tuple[float, float, float] | None = None,
    flip: bool = True,
) -> Segmenter:
    card = ModelCard('stub', NetworkConfig(levels=3), spacing, crop_mm)
    engine = StubEngine(network, card.network)
    return Segmenter.from_engine(engine, card, flip, spare=lambda: engine)


def scan_shape(codes: str, size_mm: float, spacing: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(round(size_mm / s) for s in spacing)


@pytest.mark.parametrize('tilt', [0, 12])
@pytest.mark.parametrize('codes', ORIENTATIONS)
def test_structures_return_to_their_place(codes, tilt):
    """In every orientation, side and centre are right to a tenth of a voxel."""
    spacing = (1.1, 1.4, 2.3)
    affine = oriented_affine(codes, spacing, tilt)
    shape = scan_shape(codes, 42, spacing)
    # Off the image's centre by more than the radius, so that it lies on one side only.
    for label, side in ((17, -1), (53, 1)):
        data, centre = ball(shape, affine, (side * 9.7, 3.1, -2.2), 8)
        found = segmenter(SideStub(), 1.7).segment(data * 900 + 50, affine)
        assert found.labels.shape == shape
        assert found.labels.dtype == np.int16
        assert set(np.unique(found.labels)) == {0, label}
        error = centre_of_mass_mm(found.labels == label, affine) - centre
        in_voxels = np.linalg.solve(affine[:3, :3], error)
        assert abs(in_voxels).max() < 0.1


@pytest.mark.parametrize(
    'spacing', [(0.5, 0.5, 5.0), (1, 1, 1), (0.7, 4, 0.7), (2.5, 2.5, 2.5), (1.5, 1.5, 1.5)]
)
@pytest.mark.parametrize('network_spacing', [1.0, 1.5, 3.0])
def test_any_resolution_gives_the_same_place_and_volume(spacing, network_spacing):
    affine = oriented_affine('LAS', spacing, 7)
    shape = scan_shape('LAS', 44, spacing)
    data, centre = ball(shape, affine, (-10.6, 2.3, 1.4), 8.5, edge_mm=4)
    found = segmenter(SideStub(), network_spacing).segment(data, affine)
    error = np.linalg.solve(affine[:3, :3], centre_of_mass_mm(found.labels == 17, affine) - centre)
    assert abs(error).max() < 0.1
    true_volume = 4 / 3 * np.pi * 8.5**3
    hard_volume = (found.labels == 17).sum() * np.prod(spacing)
    # Linear interpolation cuts the corners of what is few voxels wide.
    tolerance = 0.08 if max(network_spacing, *spacing) < 2 else 0.2
    assert hard_volume == pytest.approx(true_volume, rel=tolerance)
    soft = found.volumes_mm3[HIPPOCAMPI[0]]
    assert soft == pytest.approx(true_volume, rel=0.12)
    assert found.volumes_mm3[HIPPOCAMPI[1]] == pytest.approx(0, abs=1e-3)
    covered = np.prod(np.ceil(np.array(shape) * spacing / network_spacing - 1e-3))
    assert found.volumes_mm3.sum() == pytest.approx(covered * network_spacing**3, rel=1e-4)


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('codes', ['RAS', 'LIA', 'PSR'])
def test_labels_return_voxel_by_voxel(codes, flip):
    """At the network's spacing, an image made of labels is its own segmentation."""
    truth = np.zeros((14, 14, 14), dtype=np.int16)
    blocks = [LABELS.index(v) for v in (60, 2, 41, 3, 16, 10, 42, 24)]
    for block, channel in enumerate(blocks):
        corner = [2 + 5 * ((block >> bit) & 1) for bit in range(3)]
        truth[tuple(slice(c, c + 5) for c in corner)] = LABELS[channel]
    data = np.vectorize(LABELS.index)(truth) * 7.0
    network = LabelStub()
    if flip:  # a mirrored scan shows mirrored labels, which this stub cannot know
        mirror = mirror_channels()
        original = network.forward
        calls = iter([False, True])
        network.forward = lambda x: original(x)[:, mirror] if next(calls) else original(x)
    found = segmenter(network, 1.0, flip=flip).segment(data, oriented_affine(codes, (1, 1, 1)))
    np.testing.assert_array_equal(found.labels, truth)
    expected = [(truth == value).sum() for value in LABELS]
    expected[0] = truth.size - sum(expected[1:])
    np.testing.assert_allclose(found.volumes_mm3, expected, atol=1e-2)


def test_posteriors_return_on_the_grid():
    affine = oriented_affine('PIR', (1, 1.3, 2))
    data, centre = ball((32, 30, 18), affine, (8, 1, -2), 6)
    found = segmenter(SideStub(), 1.5).segment(data, affine, posteriors=True)
    assert found.posteriors is not None
    assert found.posteriors.shape == (33, 32, 30, 18)
    assert found.posteriors.dtype == np.uint8
    assert abs(found.posteriors.sum(0, dtype=int) - 255).max() <= 2
    posterior = found.posteriors[HIPPOCAMPI[1]] / 255
    error = np.linalg.solve(affine[:3, :3], centre_of_mass_mm(posterior, affine) - centre)
    assert abs(error).max() < 0.1
    sure = abs(posterior - 0.5) > 0.01
    np.testing.assert_array_equal((found.labels == 53)[sure], (posterior > 0.5)[sure])


@pytest.mark.parametrize('offset', [(0, 0, 0), (-40, 20, 10), (55, -48, 50)])
def test_the_brain_is_found_anywhere(offset):
    affine = oriented_affine('LPS', (2, 2, 2))
    data, centre = ball((84, 80, 72), affine, offset, 20)
    data[:8, :8, :8] = 0.45  # brighter than background, smaller than the brain
    network = SideStub()
    found = segmenter(network, 2, crop_mm=(64, 64, 64)).segment(data, affine)
    assert network.seen == [(44, 40, 36), *[(32, 32, 32)] * 2]
    assert found.grid_shape == (32, 32, 32)
    brain = found.labels > 0
    assert abs(centre_of_mass_mm(brain, affine) - centre).max() < 0.2
    assert brain.sum() * 8 == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.1)
    # What lies outside the crop is background, and counted.
    assert found.volumes_mm3.sum() == pytest.approx(data.size * 8, rel=1e-4)


def test_one_pass_where_the_scan_is_no_larger_than_the_crop():
    affine = oriented_affine('RAS', (2, 2, 2))
    data, _ = ball((32, 30, 20), affine, (12, 0, 0), 9)
    network = SideStub()
    segmenter(network, 2, crop_mm=(64, 64, 64), flip=False).segment(data, affine)
    assert network.seen == [(32, 32, 20)]


def test_no_brain_is_all_background(caplog):
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.zeros((1, 33, *x.shape[2:]))
            logits[:, 0] = 20
            return logits

    data = np.random.default_rng(0).normal(size=(20, 20, 20))
    for crop in (None, (24.0, 24.0, 24.0)):
        found = segmenter(Nothing(), 1.5, crop).segment(data, np.eye(4), posteriors=True)
        assert not found.labels.any()
        assert found.posteriors is not None
        assert (found.posteriors[0] == 255).all()
        assert not found.posteriors[1:].any()
        assert found.volumes_mm3[0] == pytest.approx(14**3 * 1.5**3)
    assert 'no brain found' in caplog.text


def test_prepare_describes_the_network_grid():
    affine = oriented_affine('SLP', (1, 2, 0.5), 10)
    data = np.random.default_rng(0).normal(size=(20, 12, 30))
    prepared = prepare(data, affine, 1.25)
    assert prepared.image.shape == (20, 12, 16)
    assert prepared.image.dtype == np.float32
    assert prepared.scan_grid.shape == (12, 30, 20)
    np.testing.assert_allclose(prepared.steps, [1.6, 0.4, 0.8])
    assert np.diag(prepared.grid.affine[:3, :3]).min() > 0


class TestRealNetwork:
    """A real network of random weights, as large as a test may be."""

    affine: ClassVar = oriented_affine('RSA', (3, 4, 5), 10)
    data: ClassVar = np.random.default_rng(1).normal(size=(16, 12, 10))

    def test_segments(self, tiny_model):
        found = Segmenter(tiny_model, 'cpu').segment(self.data, self.affine, posteriors=True)
        assert found.labels.shape == self.data.shape
        assert set(np.unique(found.labels)) <= set(LABELS)
        assert found.posteriors is not None
        assert found.posteriors.shape == (33, 16, 12, 10)
        assert found.device == 'cpu'
        assert found.seconds > 0
        assert np.isfinite(found.volumes_mm3).all()

    def test_repeats_itself(self, tiny_model):
        first, second = (
            Segmenter(tiny_model, 'cpu').segment(self.data, self.affine) for _ in range(2)
        )
        np.testing.assert_array_equal(first.labels, second.labels)
        np.testing.assert_array_equal(first.volumes_mm3, second.volumes_mm3)

    def test_gain_and_offset_do_not_matter(self, tiny_model):
        segment = Segmenter(tiny_model, 'cpu').segment
        first = segment(self.data, self.affine)
        second = segment(self.data * 512 + 1024, self.affine)
        np.testing.assert_allclose(first.volumes_mm3, second.volumes_mm3, rtol=0.02)

    def test_mirrored_scans_give_mirrored_labels(self, tiny_model):
        segment = Segmenter(tiny_model, 'cpu', flip=True).segment
        affine = np.diag([4.0, 4, 4, 1])
        found = segment(self.data, affine, posteriors=True).posteriors
        mirrored = segment(self.data[::-1], affine, posteriors=True).posteriors
        assert found is not None
        assert mirrored is not None
        expected = found[mirror_channels()][:, ::-1].astype(int)
        assert np.percentile(abs(mirrored - expected), 99) <= 2

    @pytest.mark.parametrize('shape', [(1, 1, 2), (3, 1, 40), (5, 33, 2)])
    def test_tiny_and_odd_shapes(self, tiny_model, shape, rng):
        data = rng.normal(size=shape)
        found = Segmenter(tiny_model, 'cpu').segment(data, self.affine)
        assert found.labels.shape == shape

    def test_all_levels_of_the_default_network(self, rng):
        config = NetworkConfig(features=2, norm='instance')
        card = ModelCard('deep', config, 2.0, (32.0, 32.0, 32.0))
        engine = Engine(UNet3D(config), torch.device('cpu'))
        found = Segmenter.from_engine(engine, card).segment(
            rng.normal(size=(18, 20, 21)), np.diag([2.0, 2, 2, 1])
        )
        assert found.labels.shape == (18, 20, 21)


def test_the_whole_scan_is_segmented_on_request(tmp_path, rng, monkeypatch):
    config = NetworkConfig(features=2, levels=2, norm='instance')
    card = ModelCard('crops', config, 4.0, (32.0, 32.0, 32.0))
    path = tmp_path / 'crops.safetensors'
    torch.manual_seed(0)
    save_model(path, UNet3D(config), card)
    scan = rng.normal(size=(20, 22, 24)), np.diag([4.0, 4, 4, 1])
    # A network that was not trained finds brain everywhere.
    monkeypatch.setattr(
        'synthseg_bids.inference.localise.find_brain', lambda _: (slice(4, 6),) * 3
    )
    whole = Segmenter(path, 'cpu', autocrop=False, low_memory=True)
    assert whole.segment(*scan).grid_shape == (20, 22, 24)
    assert Segmenter(path, 'cpu').segment(*scan).grid_shape == (8, 8, 8)
    assert whole.engine.memory_limit == LOW_MEMORY_BYTES


@pytest.mark.parametrize(('step', 'expected'), [(1, 0.8), (4, 0.4)])
def test_intensities_count_less_in_coarse_scans(monkeypatch, step, expected):
    weights = []

    def refine(posteriors: Tensor, images, spacing: float, mirror, weight, steps, boxes):
        assert posteriors.shape[1:] == images[0].shape
        weights.append(weight * independence(steps[0]))
        return posteriors

    monkeypatch.setattr('synthseg_bids.inference.refine.refine', refine)
    card = ModelCard('stub', NetworkConfig(levels=3), 1.0, intensity_weight=0.8)
    engine = StubEngine(SideStub(), card.network)
    affine = np.diag([1, 1, step, 1.0])
    data, _ = ball((24, 24, 24 // step), affine, (5, 0, 0), 6)
    Segmenter.from_engine(engine, card).segment(data, affine)
    assert weights == [pytest.approx(expected)]


def test_a_prior_alone_needs_no_refinement(monkeypatch):
    card = ModelCard('stub', NetworkConfig(levels=3), 1.0, intensity_weight=0.8)
    network = Segmenter.from_engine(StubEngine(SideStub(), card.network), card)
    data, _ = ball((24, 20, 24), np.eye(4), (5, 0, 0), 6)
    expected = network.segment(data, np.eye(4), prior=True).prior
    monkeypatch.delattr('synthseg_bids.inference.clean_prediction.refine_alone')
    found = network.prior(data, np.eye(4))
    assert expected is not None
    torch.testing.assert_close(found.posteriors, expected.posteriors, atol=0, rtol=0)
    assert (found.box, found.grid.shape) == (expected.box, expected.grid.shape)
    np.testing.assert_array_equal(found.steps_mm, expected.steps_mm)
    with pytest.raises(NameError, match='refine_alone'):
        network.segment(data, np.eye(4))


def test_segmenters_are_cached(tiny_model):
    options, compute = SegmentOptions(str(tiny_model)), ComputeOptions('cpu')
    first = cached_segmenter(options, compute)
    assert cached_segmenter(SegmentOptions(str(tiny_model)), compute) is first
    assert cached_segmenter(replace(options, flip=False), compute) is not first
    cached_segmenter.cache_clear()


def test_unknown_models_are_refused():
    with pytest.raises(ModelFileError, match='no such model'):
        Segmenter('no-such-model', 'cpu')


def test_grid_of_1_mm(tiny_model, rng):
    affine = np.diag([-2.0, 3, 2, 1])[[0, 2, 1, 3]]
    data = rng.random((9, 10, 11))
    network = Segmenter(tiny_model, 'cpu')
    assert network.segment(data, affine).isotropic is None
    found = network.segment(data, affine, labels_1mm=True).isotropic
    assert found.posteriors is None
    assert found.labels.shape == (18, 22, 30)
    assert (np.diag(found.affine) > 0).all()
    centres = [a @ [*((np.array(s) - 1) / 2), 1]
               for a, s in ((affine, data.shape), (found.affine, found.labels.shape))]  # fmt: skip
    np.testing.assert_allclose(*centres, atol=1e-9)
    both = network.segment(data, affine, posteriors_1mm=True).isotropic
    np.testing.assert_array_equal(both.labels, found.labels)
    winner = np.array(network.card.labels)[both.posteriors.argmax(0)]
    # Where bytes are not too coarse to tell the two most likely labels apart, and weights of the
    # labels do not decide.
    first, second = -np.sort(-both.posteriors.astype(int), axis=0)[:2]
    clear = first > LARGEST**2 * second + 1
    assert clear.mean() > 0.1
    np.testing.assert_array_equal(winner[clear], both.labels[clear])
