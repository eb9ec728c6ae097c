"""Files laid out as the published weights are, with random numbers in them.

Written from the description of the layouts, not with the tables of the importer.
"""

from __future__ import annotations

import numpy as np


def random_weights(features: int, channels: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw the tensors of a 5-level network, by Keras layer and tensor (``layer/tensor``)."""
    # Doubles of this generator are the same in every version of NumPy.
    rng = np.random.Generator(np.random.PCG64(seed))
    weights = {}

    def draw(name, shape, low, high):
        weights[name] = (low + (high - low) * rng.random(shape)).astype(np.float32)

    def conv(layer, inputs, outputs, size=3):
        limit = np.sqrt(6 / (inputs * size**3))
        draw(f'{layer}/kernel', (size, size, size, inputs, outputs), -limit, limit)
        draw(f'{layer}/bias', (outputs,), -0.5, 0.5)

    def norm(layer, n):
        draw(f'{layer}/gamma', (n,), 0.5, 1.5)
        draw(f'{layer}/beta', (n,), -0.5, 0.5)
        draw(f'{layer}/moving_mean', (n,), -0.5, 0.5)
        draw(f'{layer}/moving_variance', (n,), 0.2, 1.5)

    sizes = [features * 2**level for level in range(5)]
    for level, (inputs, n) in enumerate(zip([1, *sizes], sizes, strict=False)):
        conv(f'unet_conv_downarm_{level}_0', inputs, n)
        conv(f'unet_conv_downarm_{level}_1', n, n)
        norm(f'unet_bn_down_{level}', n)
    for step, n in enumerate(sizes[3::-1]):
        conv(f'unet_conv_uparm_{5 + step}_0', 3 * n, n)
        conv(f'unet_conv_uparm_{5 + step}_1', n, n)
        norm(f'unet_bn_up_{step}', n)
    conv('unet_likelihood', features, channels, size=1)
    return weights


def random_scan(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Draw blobs of two sizes in [0, 1], float32, the same in every version of NumPy."""
    rng = np.random.Generator(np.random.PCG64(seed))
    scan = np.zeros(shape)
    for size in (8, 2):
        coarse = rng.random([-(-n // size) for n in shape])
        for axis, n in enumerate(shape):
            coarse = coarse.repeat(size, axis).take(range(n), axis)
        scan += coarse
    return (scan / 2).astype(np.float32)


def write_h5(path, weights, prefix='', inner_suffix=''):
    """Write as Keras 2 does: ``layer/layer/tensor:0``."""
    import h5py

    with h5py.File(path, 'w') as file:
        file.attrs['keras_version'] = '2.15.0'
        group = file.create_group(prefix) if prefix else file
        # Layers without weights have a group, too.
        for other in ('unet_input', 'unet_maxpool_0', 'unet_prediction'):
            group.create_group(other)
        names = {}
        for name, value in weights.items():
            layer, tensor = name.split('/')
            inner = f'{layer}{inner_suffix}/{tensor}:0'
            group[f'{layer}/{inner}'] = value
            names.setdefault(layer, []).append(inner)
        group.attrs['layer_names'] = [n.encode() for n in ['unet_input', *names]]
        group['unet_input'].attrs['weight_names'] = np.zeros(0, dtype='S1')
        for layer, inner in names.items():
            group[layer].attrs['weight_names'] = [n.encode() for n in inner]
    return path


def dipy_state(weights):
    """Return the state dict of ``dipy.nn.torch.synthseg.Model`` with these weights."""
    import torch

    tensors = {
        **dict.fromkeys(('kernel', 'gamma'), 'weight'),
        **dict.fromkeys(('bias', 'beta'), 'bias'),
        'moving_mean': 'running_mean',
        'moving_variance': 'running_var',
    }
    blocks = {f'unet_bn_down_{i}': f'block_list.{i}.layer_list.2' for i in range(5)}
    blocks |= {f'unet_bn_up_{i}': f'block_list.{5 + i}.layer_list.3' for i in range(4)}
    for conv in range(2):
        for i in range(5):
            blocks[f'unet_conv_downarm_{i}_{conv}'] = f'block_list.{i}.layer_list.{conv}.conv'
        for i in range(5, 9):
            blocks[f'unet_conv_uparm_{i}_{conv}'] = f'block_list.{i}.layer_list.{conv + 1}.conv'
    blocks['unet_likelihood'] = 'conv_pred'
    state = {}
    for name, value in weights.items():
        layer, tensor = name.split('/')
        value = torch.from_numpy(value)
        if tensor == 'kernel':
            value = value.permute(4, 3, 0, 1, 2).contiguous()
        state[f'{blocks[layer]}.{tensors[tensor]}'] = value
        if tensor == 'gamma':
            state[f'{blocks[layer]}.num_batches_tracked'] = torch.tensor(7)
    return state
