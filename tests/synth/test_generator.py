from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_scans import PLAIN

from synthseg_bids.labels import generation_labels, segmentation_labels
from synthseg_bids.synth.deform import DeformationConfig
from synthseg_bids.synth.generator import apply
from synthseg_bids.synth.intensity import IntensityConfig
from synthseg_bids.synth.parameters import GeneratorConfig, draw
from synthseg_bids.synth.presets import PRESETS

ROWS = {label.index: row for row, label in enumerate(generation_labels())}
STILL = DeformationConfig(rotation_deg=0, scaling=0, shear=0, translation=0, svf_std=(0, 0))


def make(labels, config, seed=0, **options):
    parameters = draw(config, tuple(labels.shape), torch.Generator().manual_seed(seed))
    return apply(labels, parameters, config, **options)


@pytest.fixture
def labels():
    """Return a head of boxes: soft tissue around fluid around two hemispheres."""
    head = torch.zeros(32, 32, 32, dtype=torch.uint8)
    for label, box in ((507, (2, 30)), (24, (6, 26))):
        head[box[0] : box[1], box[0] : box[1], box[0] : box[1]] = ROWS[label]
    head[16:24, 8:24, 8:24], head[8:16, 8:24, 8:24] = ROWS[2], ROWS[41]
    head[18:20, 12:16, 12:16] = ROWS[17]
    return head


@pytest.mark.parametrize('preset', PRESETS)
@pytest.mark.parametrize('downsampling', [1, 2, 3])
def test_image_and_target_are_well_formed(labels, preset, downsampling):
    config = replace(PRESETS[preset], size=(18, 24, 18), downsampling=downsampling)
    image, target = make(labels, config)
    assert (
        image.shape == target.shape == (18 // downsampling, 24 // downsampling, 18 // downsampling)
    )
    assert image.dtype == torch.float32
    assert image.min() >= 0
    assert image.max() <= 1
    assert target.dtype == torch.uint8
    assert target.max() < len(segmentation_labels())


@pytest.mark.parametrize('seed', range(8))
def test_crops_follow_the_brain(seed):
    where = (slice(34, 46), slice(30, 42), slice(20, 32))
    labels = torch.zeros(64, 64, 64, dtype=torch.uint8)
    labels[where] = ROWS[2]
    config = GeneratorConfig(
        size=(24, 24, 24),
        crop_jitter=3,
        deformation=DeformationConfig(translation=6, svf_std=(0, 0), flip_probability=0.5),
    )
    parameters = draw(
        config, (64, 64, 64), torch.Generator().manual_seed(seed), centre=(39.5, 35.5, 25.5)
    )
    _, target = apply(labels, parameters, config)
    inside = target.nonzero().float()
    # Nothing is cut off, and the centre is where it shall be.
    assert len(inside) > 0.6 * 12**3
    assert inside.min() > 0
    assert inside.max() < 23
    assert ((inside.mean(0) - 11.5).abs() < 3 + 1.5).all()


def test_the_same_draw_gives_the_same_image(labels):
    config = replace(PRESETS['synthseg2023'], size=None)
    first, second, other = (make(labels, config, seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_targets_are_the_channels_of_the_labels(labels):
    config = GeneratorConfig(size=None, deformation=STILL, skull_strip_probability=0)
    target = make(labels, config)[1]
    values = torch.tensor([label.index for label in segmentation_labels()])[target.long()]
    assert set(values.unique().tolist()) == {0, 2, 17, 24, 41}
    assert torch.equal(values == 17, labels == ROWS[17])
    assert (values[labels == ROWS[507]] == 0).all()


def test_skull_stripping_and_missing_fluid(labels):
    config = GeneratorConfig(
        size=None,
        deformation=STILL,
        intensity=IntensityConfig(bias_std=(0, 0), std=(0, 0), gamma=0),
        blur=(0, 0),
        skull_strip_probability=1,
        no_csf_probability=1,
    )
    image, target = make(labels, config)
    outside = (labels == ROWS[507]) | (labels == ROWS[24])
    assert (image[outside] == image[0, 0, 0]).all()
    assert (target[outside] == 0).all()


def test_partial_volume_at_half_resolution(labels):
    config = GeneratorConfig(
        size=None,
        downsampling=2,
        deformation=STILL,
        intensity=IntensityConfig(bias_std=(0, 0), std=(0, 0), gamma=0),
        blur=(0, 0),
        skull_strip_probability=0,
    )
    whole = make(labels, replace(config, downsampling=1))[0]
    half = make(labels, config)[0]
    expected = torch.nn.functional.avg_pool3d(whole[None, None], 2)[0, 0]
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    torch.testing.assert_close(half, expected, atol=1e-5, rtol=0)


def test_blur_is_drawn_between_its_bounds_and_smooths(labels):
    config = replace(PLAIN, blur=(0.2, 1.0))
    blurs, roughness = [], []
    for seed in range(12):
        parameters = draw(config, tuple(labels.shape), torch.Generator().manual_seed(seed))
        image, _ = apply(labels, parameters, config)
        blurs.append(parameters.blur)
        roughness.append(float(image.diff(dim=0).std() / image.std()))
    assert 0.2 <= min(blurs) < 0.5 < 0.7 < max(blurs) <= 1.0
    assert np.corrcoef(blurs, roughness)[0, 1] < -0.9
