"""The generator against the MIDL 2020 paper: every random parameter, 10,000 draws of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from synthseg_bids.labels import generation_labels, mirror_channels
from synthseg_bids.synth.deform import Deformation, location_field
from synthseg_bids.synth.generator import apply, deformed_labels
from synthseg_bids.synth.parameters import draw
from synthseg_bids.synth.presets import MIDL2020, PRESETS

DRAWS = 10_000
SHAPE = (256, 256, 256)
LABELS = generation_labels()
#: Chance that a distribution which is right is called wrong; the draws are the same in every run.
LEVEL = 1e-4


def affine_parameters(matrices):
    """Take ``A = scaling * shear * rotation`` apart: columns are x, y, z, or xy, xz, yz.

    Scaling times shear is upper triangular, so that this is an RQ decomposition: the QR
    decomposition of the matrix with its rows reversed and transposed.
    """
    reverse = np.eye(3)[::-1]
    q, r = np.linalg.qr((reverse @ matrices).transpose(0, 2, 1))
    triangle, rotation = reverse @ r.transpose(0, 2, 1) @ reverse, reverse @ q.transpose(0, 2, 1)
    signs = np.sign(np.diagonal(triangle, axis1=1, axis2=2))
    triangle, rotation = triangle * signs[:, None, :], rotation * signs[:, :, None]
    scaling = np.diagonal(triangle, axis1=1, axis2=2)
    shear = (triangle / scaling[:, :, None])[:, [0, 0, 1], [1, 2, 2]]
    angles = [
        np.arctan2(-rotation[:, 1, 2], rotation[:, 2, 2]),
        np.arcsin(rotation[:, 0, 2]),
        np.arctan2(-rotation[:, 0, 1], rotation[:, 0, 0]),
    ]
    return {'rotation': np.degrees(angles).T, 'scaling': scaling, 'shear': shear}


@pytest.fixture(scope='module')
def drawn():
    """Every random parameter, a row per draw."""
    generator = torch.Generator().manual_seed(0)
    columns = {}
    for _ in range(DRAWS):
        one = draw(MIDL2020, SHAPE, generator)
        assert one.deformation.svf.shape == (3, 10, 10, 10)
        assert one.intensities.log_bias.shape == (4, 4, 4)
        assert not one.deformation.flip
        assert one.resolution is None
        for name, value in (
            ('matrix', one.deformation.matrix),
            ('translation', one.deformation.translation),
            # a node at a corner, one inside, one at the other corner, of each component
            ('velocity', one.deformation.svf[:, [0, 4, 9], [0, 5, 9], [0, 6, 9]].flatten()),
            ('velocities', one.deformation.svf.std()[None]),
            ('mean', one.intensities.means),
            ('std', one.intensities.stds),
            ('bias', one.intensities.log_bias.flatten()),
            ('gamma', torch.tensor([np.log(one.intensities.gamma)])),
            ('start', torch.tensor(one.start)),
            ('stripped', torch.tensor([one.skull_strip])),
        ):
            columns.setdefault(name, []).append(value.numpy())
    arrays = {name: np.array(rows, dtype=float) for name, rows in columns.items()}
    return arrays | affine_parameters(arrays.pop('matrix'))


@pytest.mark.parametrize(
    ('name', 'count', 'low', 'high'),
    [
        ('rotation', 3, -10, 10),
        ('scaling', 3, 0.9, 1.1),
        ('shear', 3, -0.01, 0.01),
        ('translation', 3, -20, 20),
        ('mean', len(LABELS), 25, 225),
        ('std', len(LABELS), 5, 25),
        ('gamma', 1, -0.3, 0.3),
    ],
)
def test_uniform_parameters(drawn, name, count, low, high):
    assert drawn[name].shape == (DRAWS, count)
    for values in drawn[name].T:
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > LEVEL / count
        assert abs(values.mean() - (low + high) / 2) < 0.02 * (high - low)
        assert abs(values.std() - (high - low) / 12**0.5) < 0.01 * (high - low)


@pytest.mark.parametrize(('name', 'count', 'std'), [('velocity', 9, 3), ('bias', 64, 0.5)])
def test_normal_parameters(drawn, name, count, std):
    assert drawn[name].shape == (DRAWS, count)
    for values in drawn[name].T:
        assert stats.kstest(values, stats.norm(0, std).cdf).pvalue > LEVEL / count
        assert abs(values.mean()) < 0.05 * std
        assert abs(values.std() / std - 1) < 0.05


def test_velocities_have_one_standard_deviation_in_all_draws(drawn):
    # of 3000 values: 3 within the error of an estimate, not a distribution of its own
    assert np.abs(drawn['velocities'] - 3).max() < 5 * 3 / (2 * 3000) ** 0.5


def test_crops_are_anywhere_in_the_map(drawn):
    room = SHAPE[0] - MIDL2020.size[0] + 1
    for starts in drawn['start'].T:
        counts = np.bincount(starts.astype(int), minlength=room)
        assert len(counts) == room
        assert stats.chisquare(counts).pvalue > LEVEL


def test_a_fifth_is_skull_stripped(drawn):
    stripped = int(drawn['stripped'].sum())
    assert stats.binomtest(stripped, DRAWS, 0.2).pvalue > LEVEL


def test_parameters_are_independent(drawn):
    names = [name for name in drawn if name != 'velocities']
    table = np.hstack([drawn[name] for name in names])
    correlation = np.corrcoef(table, rowvar=False)
    np.fill_diagonal(correlation, 0)
    pairs = len(correlation) * (len(correlation) - 1) / 2
    assert np.abs(correlation).max() < stats.norm.isf(LEVEL / 2 / pairs) / DRAWS**0.5


def one_draw(seed, **changes):
    config = replace(MIDL2020, size=None, **changes)
    return draw(config, SHAPE, torch.Generator().manual_seed(seed)), config


def test_hardly_a_voxel_is_folded():
    folded = 0
    for seed in range(2):
        parameters, config = one_draw(seed)
        step = config.deformation.field_step
        field = location_field(parameters.deformation, config.deformation, SHAPE)
        # Within a cell of the field's grid phi is trilinear: its derivatives are those along the
        # edges, mixed by where in the cell a voxel is. Offsets of voxels reach from 0 to 1.
        for x in np.arange(step) / step:
            for y in np.arange(step) / step:
                for z in np.arange(step) / step:
                    folded += int((jacobian(field / step, x, y, z) <= 0).sum())
    assert folded / (2 * np.prod(SHAPE)) < 0.001


def jacobian(field, x, y, z):
    """Return the Jacobian of phi at one place in each cell of its grid."""
    gradients = []
    for axis, (first, second) in ((1, (y, z)), (2, (x, z)), (3, (x, y))):
        slope = field.diff(dim=axis)
        for other, part in zip((a for a in (1, 2, 3) if a != axis), (first, second), strict=True):
            near, far = (slope.narrow(other, i, slope.shape[other] - 1) for i in (0, 1))
            slope = torch.lerp(near, far, float(part))
        gradients.append(slope)
    dx, dy, dz = gradients
    return (torch.linalg.cross(dx, dy, dim=0) * dz).sum(0)


def test_the_negated_velocities_give_the_inverse():
    parameters, config = one_draw(0)
    still = Deformation(torch.eye(3), torch.zeros(3), parameters.deformation.svf, flip=False)
    step = config.deformation.field_step
    forth, back = (
        location_field(replace(still, svf=sign * still.svf), config.deformation, SHAPE)
        for sign in (1, -1)
    )
    nodes = torch.arange(forth.shape[1]) * float(step)
    identity = torch.stack(torch.meshgrid(nodes, nodes, nodes, indexing='ij'))
    where = (back / nodes[-1] * 2 - 1).flip(0).permute(1, 2, 3, 0)[None]
    there_and_back = torch.nn.functional.grid_sample(forth[None], where, align_corners=True)[0]
    # where the way does not lead out of the map
    inside = (slice(None), *[slice(4, -4)] * 3)
    error = (there_and_back - identity)[inside].norm(dim=0)
    moved = (forth - identity)[inside].norm(dim=0)
    assert moved.mean() > 2
    assert error.mean() < 0.1
    assert error.max() < 1


@pytest.fixture(scope='module')
def head():
    """A map with every label, each in a slab of its own."""
    rows = torch.arange(len(LABELS), dtype=torch.uint8)
    return rows.repeat_interleave(2)[:, None, None].expand(-1, 64, 64).contiguous()


def test_intensities_follow_their_gaussians_before_the_blur(head):
    seen = {}
    parameters = draw(MIDL2020, tuple(head.shape), torch.Generator().manual_seed(1))
    config = replace(MIDL2020, size=None)
    apply(head, parameters, config, on_step=lambda name, image: seen.update({name: image.clone()}))
    labels = deformed_labels(head, parameters, config)
    rows = labels.unique().tolist()
    assert len(rows) > len(LABELS) / 2
    for row in rows:
        gaussian = stats.norm(parameters.intensities.means[row], parameters.intensities.stds[row])
        values = seen['gaussians'][labels == row].numpy()
        assert stats.kstest(values, gaussian.cdf).pvalue > LEVEL / len(rows)


def test_a_flip_keeps_every_label_and_swaps_its_side(head):
    still = replace(
        MIDL2020.deformation, rotation_deg=0, scaling=0, shear=0, translation=0, svf_std=(0, 0)
    )
    config = replace(MIDL2020, size=None, deformation=still, skull_strip_probability=0)
    parameters = draw(config, tuple(head.shape), torch.Generator().manual_seed(0))
    flipped = replace(parameters, deformation=replace(parameters.deformation, flip=True))
    straight, mirrored = (deformed_labels(head, one, config) for one in (parameters, flipped))
    assert torch.equal(straight, head)
    counts = torch.bincount(head.flatten())
    assert torch.equal(counts, torch.bincount(mirrored.flatten().int(), minlength=len(LABELS)))
    row_of = {label.index: row for row, label in enumerate(LABELS)}
    mirror = torch.tensor([row_of[label.mirror] for label in LABELS])
    assert torch.equal(mirrored.long(), mirror[head.flip(0).long()])
    targets = [apply(head, one, config)[1].long() for one in (parameters, flipped)]
    assert torch.equal(targets[1], torch.from_numpy(mirror_channels())[targets[0].flip(0)])


@pytest.mark.gpu
@pytest.mark.parametrize('preset', PRESETS)
def test_cpu_and_gpu_agree(head, preset):
    config = replace(PRESETS[preset], size=None)
    parameters = draw(config, tuple(head.shape), torch.Generator().manual_seed(0))
    noise = torch.randn(head.shape, generator=torch.Generator().manual_seed(0))
    image, target = apply(head, parameters, config, noise=noise)
    on_gpu, target_gpu = apply(head.cuda(), parameters, config, noise=noise.cuda())
    assert (target != target_gpu.cpu()).float().mean() < 1e-3
    assert (image - on_gpu.cpu()).abs().mean() < 1e-3
