"""Posteriors of an image: padding, flip averaging, and plans that fit the memory."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch

from synthseg_bids.hardware import device, memory
from synthseg_bids.hardware.processes import TUNABLES, VARIABLE
from synthseg_bids.inference.engine import Engine
from synthseg_bids.inference.forward import predict
from synthseg_bids.inference.memory_plan import (
    MAX_TILES,
    TILE_OVERLAP,
    Plan,
    choose_plan,
    predicted_bytes,
    tile_slices,
)
from synthseg_bids.inference.preprocess import rescale_intensities
from synthseg_bids.labels import mirror_channels
from synthseg_bids.models.unet import NetworkConfig, UNet3D

CPU = torch.device('cpu')


@pytest.fixture(scope='module', params=['plain', 'sub-voxels'])
def engine(request) -> Engine:
    torch.manual_seed(0)
    config = NetworkConfig(features=2, levels=3)
    if request.param == 'sub-voxels':  # blocks of four voxels at the deepest level, as above
        config = NetworkConfig(features=2, levels=2, sub_voxels=2, output_features=3)
    return Engine(UNet3D(config), CPU, torch.float32)


@pytest.fixture
def image(rng) -> np.ndarray:
    return rng.random((30, 21, 18), dtype=np.float32)


def test_flip_averages_both_sides(engine, image):
    mirror = mirror_channels()
    straight = predict(engine, image).posteriors
    # Padding is the same on both sides of an even image, so that its mirror image is padded alike.
    flipped = predict(engine, np.ascontiguousarray(image[::-1])).posteriors
    found = predict(engine, image, mirror)
    expected = (straight + flipped[torch.as_tensor(mirror)].flip(1)) / 2
    torch.testing.assert_close(found.posteriors, expected)
    torch.testing.assert_close(found.posteriors.sum(0), torch.ones(image.shape))


def test_some_channels_are_those_of_all(engine, image):
    mirror = mirror_channels()
    every = predict(engine, image, mirror).posteriors
    some = predict(engine, image, mirror, channels=[0, 16]).posteriors
    assert torch.equal(some, every[[0, 16]])
    tiled = predict(engine, image, mirror, Plan(tiles=2), [0, 16]).posteriors
    assert tiled.shape == some.shape


def test_flip_dice_is_that_of_the_two_label_maps(engine, image):
    mirror = mirror_channels()
    # No padding, which would be counted as well.
    image = np.ascontiguousarray(image[:28, :20, :16])
    found = predict(engine, image, mirror).flip_dice
    assert found is not None
    one = predict(engine, image).posteriors.argmax(0)
    flipped = predict(engine, np.ascontiguousarray(image[::-1])).posteriors
    other = flipped[torch.as_tensor(mirror)].flip(1).argmax(0)
    step = engine.config.sub_voxels  # the first voxel of each block is counted
    one, other = (labels[::step, ::step, ::step] for labels in (one, other))
    for channel in range(33):
        sizes = int((one == channel).sum() + (other == channel).sum())
        both = int(((one == channel) & (other == channel)).sum())
        assert (
            found[channel] == pytest.approx(2 * both / sizes)
            if sizes
            else np.isnan(found[channel])
        )
    assert np.isfinite(found).sum() > 1


def test_without_flip_there_is_no_flip_dice(engine, image):
    assert predict(engine, image).flip_dice is None


def test_half_precision_and_tiles_hardly_differ(engine, rng):
    # Long enough that the inner halves of the tiles see what they see in the whole.
    image = rng.random((16, 16, 200), dtype=np.float32)
    whole = predict(engine, image, plan=Plan()).posteriors
    half = predict(engine, image, plan=Plan(torch.float16)).posteriors
    tiled = predict(engine, image, plan=Plan(torch.float16, 3)).posteriors
    assert half.dtype == tiled.dtype == torch.float16
    assert (half.float() - whole).abs().max() < 1e-3
    # Without normalisation a voxel sees its surroundings only, here less than the overlap; what
    # differs is where the coarser levels' voxels lie.
    assert (tiled.float() - whole).abs().max() < 5e-3


def test_rows_give_the_same_posteriors(rng, monkeypatch):
    monkeypatch.setattr('synthseg_bids.inference.forward.ROWS', 16)
    engine = Engine(UNet3D(NetworkConfig(features=2, levels=3)), CPU, torch.float32)
    image, mirror = rng.random((70, 21, 18), dtype=np.float32), mirror_channels()
    whole = predict(engine, image, mirror, Plan())
    rows = predict(engine, image, mirror, Plan(by_rows=True))
    torch.testing.assert_close(rows.posteriors, whole.posteriors, atol=1e-6, rtol=0)
    np.testing.assert_array_equal(rows.flip_dice, whole.flip_dice)


@pytest.mark.parametrize('tiles', [1, 2, 5])
@pytest.mark.parametrize('step', [16, 32])
def test_tiles_cover_every_row_once(tiles, step):
    found = tile_slices(224, tiles, step)
    assert [i for _, kept in found for i in range(kept.start, kept.stop)] == list(range(224))
    for seen, kept in found:
        assert seen.start == max(kept.start - TILE_OVERLAP, 0)
        assert seen.stop == min(kept.stop + TILE_OVERLAP, 224)
        assert seen.start % step == seen.stop % step == 0


def test_plans_shrink_with_the_memory(caplog):
    case = NetworkConfig(), (192, 224, 192), 2, True
    by_rows = [Plan(torch.float16, n, by_rows=True) for n in (1, MAX_TILES)]
    plans = [Plan(), Plan(torch.float16), *by_rows]
    needed = [predicted_bytes(*case, plan) for plan in plans]
    assert needed == sorted(needed, reverse=True)
    assert choose_plan(*case, needed[0]) == Plan()
    assert choose_plan(*case, needed[0] - 1) == Plan(torch.float16)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert choose_plan(*case, needed[2]) == by_rows[0]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    found = choose_plan(*case, needed[3])
    assert found.by_rows
    assert f'in {found.tiles} tiles' in caplog.text
    assert choose_plan(*case, 0) == by_rows[1]
    # Statistics of the whole scan are not those of a slab.
    instance = NetworkConfig(norm='instance'), *case[1:]
    assert choose_plan(*instance, needed[2]).tiles > 1
    assert not choose_plan(*instance, 0).by_rows


def test_the_paper_network_fits_into_four_gigabytes():
    for itemsize in (2, 4):
        needed = predicted_bytes(NetworkConfig(), (192, 224, 192), itemsize, True, Plan())
        assert needed < 3.4 * 2**30


def test_says_when_it_saves_memory(engine, image, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    needed = predicted_bytes(engine.config, image.shape, 4, False, Plan(torch.float16))
    monkeypatch.setattr('synthseg_bids.inference.forward.available_bytes', lambda device: needed)
    assert predict(engine, image).posteriors.dtype == torch.float16
    assert 'half precision' in caplog.text


def test_a_limit_counts_as_the_memory_there_is(engine, image, monkeypatch):
    assert predict(engine, image).posteriors.dtype == torch.float32
    needed = predicted_bytes(engine.config, image.shape, 4, False, Plan(torch.float16))
    monkeypatch.setattr(engine, 'memory_limit', needed)
    assert predict(engine, image).posteriors.dtype == torch.float16


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='another C library')
def test_memory_is_given_back_where_it_is_scarce():
    """In a process that keeps memory: what a scan leaves is not the next one's loss."""
    code = (
        'import torch\n'
        'from pathlib import Path\n'
        'from synthseg_bids.hardware.memory import release\n'
        'def resident(): return int(Path("/proc/self/statm").read_text().split()[1]) * 4096\n'
        'def use(): return [torch.ones(2**24) for _ in range(3)][0]\n'
        'before = resident()\n'
        'last = use()\n'
        'kept = resident()\n'
        'release()\n'
        'given_back = resident()\n'
        'use()\n'
        'print(kept - before, given_back - before, resident() - before)\n'
    )
    settings = ':'.join(f'{name}={value}' for name, value in TUNABLES.items())
    environment = {**os.environ, VARIABLE: settings}
    done = subprocess.run(
        [sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=True
    )
    kept, given_back, later = (int(n) / 2**26 for n in done.stdout.split())
    assert kept > 2.5
    assert given_back < 1.5
    assert later < 1.5


def test_intensities_are_clipped_to_percentiles(rng):
    image = rng.normal(size=(20, 20, 20)).astype(np.float32)
    image[0, 0, 0] = 1e6
    scaled = rescale_intensities(image)
    assert scaled.dtype == np.float32
    assert scaled.min() == 0
    assert scaled.max() == 1
    assert 0.4 < np.median(scaled) < 0.6
    np.testing.assert_array_equal(rescale_intensities(np.ones((3, 3, 3), np.float32)), 0)


@pytest.mark.parametrize('factor', [1e-30, 1, 3e38])
def test_intensities_may_be_of_any_size(rng, factor):
    image = rng.uniform(-1, 1, size=(20, 20, 20)).astype(np.float32)
    with np.errstate(all='raise', under='ignore'):
        scaled = rescale_intensities(image * np.float32(factor))
    np.testing.assert_allclose(scaled, rescale_intensities(image), atol=1e-5)


def test_available_memory_obeys_control_groups(tmp_path):
    free = device.available_bytes(CPU)
    assert 2**20 < free < 2**44
    files = memory.VERSION_2
    for name, text in (
        (files.limit, '1000000'),
        (files.usage, '600000'),
        (files.statistics, 'anon 500000\ninactive_file 50000\nactive_file 25000\n'),
    ):
        (tmp_path / name).write_text(text)
    assert memory.group_bytes(tmp_path, files) == 475000
    (tmp_path / files.limit).write_text('max')
    assert memory.group_bytes(tmp_path, files) is None


@pytest.mark.parametrize(
    ('line', 'folder', 'files'),
    [
        ('0::/slurm/job_7/step_0', '', memory.VERSION_2),
        ('4:cpu,memory:/slurm/job_7/step_0', 'memory', memory.VERSION_1),
    ],
)
def test_the_limit_of_a_job_counts_in_its_steps(line, folder, files, tmp_path, monkeypatch):
    own = tmp_path / 'own'
    own.write_text(f'3:cpuset:/elsewhere\n{line}\n')
    job = tmp_path / folder / 'slurm/job_7'
    (job / 'step_0').mkdir(parents=True)
    contents = {files.limit: '5000', files.usage: '4000', files.statistics: 'anon 4000\n'}
    for name, text in contents.items():
        (job / name).write_text(text)
    (job / 'step_0' / files.limit).write_text('max')
    found = [group for group, _ in memory.control_groups(tmp_path, own)]
    assert found == [job / 'step_0', job, job.parent, job.parent.parent]
    monkeypatch.setattr(memory.control_groups, '__defaults__', (tmp_path, own))
    assert memory.total_bytes() == 5000
    assert memory.free_bytes() == 1000
    assert not list(memory.control_groups(tmp_path, tmp_path / 'none'))
