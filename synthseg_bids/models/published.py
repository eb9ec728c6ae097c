"""Import published SynthSeg weights.

The authors' networks come in two forms: Keras HDF5 files (``synthseg_1.0.h5`` and
``synthseg_2.0.h5``, as in FreeSurfer's ``models`` folder), and a PyTorch state dict of DIPY's
``dipy.nn.torch.synthseg.Model``. Nothing is downloaded or unpickled.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..labels import CSF, channel_labels
from .card import ModelCard, ModelFileError, save_model, sha256
from .unet import NetworkConfig, UNet3D

#: File types of published weights: Keras' and DIPY's.
SUFFIXES = ('.h5', '.pth')
#: Release of the reference implementation by its number of output channels.
RELEASES = {32: '1.0', 33: '2.0'}
#: Logit of a label that is not segmented: its probability is exactly 0, also in half precision.
NEVER = -1e4

#: Keras' names of a convolution's and of a normalisation's tensors.
CONV_TENSORS = {'weight': 'kernel', 'bias': 'bias'}
NORM_TENSORS = {
    'weight': 'gamma',
    'bias': 'beta',
    'running_mean': 'moving_mean',
    'running_var': 'moving_variance',
}
#: Path of a weight in a Keras file. Training checkpoints have it below ``model_weights``, and
#: Keras appends numbers to layer names that occur again.
KERAS_PATH = re.compile(r'(model_weights/)?(?P<layer>[^/]+)/(?P=layer)(_\d+)?/(?P<tensor>[^/]+):0')


class MisfitError(ValueError):
    """A file does not hold the expected weights."""


class Name(NamedTuple):
    """Names of one tensor: ours, Keras' (layer/tensor) and DIPY's."""

    ours: str
    keras: str
    dipy: str


def tensor_names(levels: int = 5) -> Iterator[Name]:
    """Yield the names of every tensor of the network, the output layer last.

    Parameters
    ----------
    levels : int
        Levels of the U-Net, with two convolutions each.

    Yields
    ------
    Name
    """

    def layer(tensors: Mapping[str, str], ours: str, keras: str, dipy: str) -> Iterator[Name]:
        for tensor, theirs in tensors.items():
            yield Name(f'{ours}.{tensor}', f'{keras}/{theirs}', f'{dipy}.{tensor}')

    for i in range(2 * levels - 1):
        down = i < levels
        ours = f'down.{i}' if down else f'up.{i - levels}'
        keras = f'unet_conv_downarm_{i}' if down else f'unet_conv_uparm_{i}'
        norm = f'unet_bn_down_{i}' if down else f'unet_bn_up_{i - levels}'
        # DIPY counts the up-sampling as a layer of its own.
        first = 0 if down else 1
        dipy = [f'block_list.{i}.layer_list.{first + n}' for n in range(3)]
        for n in range(2):
            yield from layer(CONV_TENSORS, f'{ours}.convs.{n}', f'{keras}_{n}', f'{dipy[n]}.conv')
        yield from layer(NORM_TENSORS, f'{ours}.norm', norm, dipy[2])
    yield from layer(CONV_TENSORS, 'likelihood', 'unet_likelihood', 'conv_pred')


def official_models() -> dict[str, Path]:
    """Return the published weights that FreeSurfer and DIPY have installed here, by name.

    Returns
    -------
    dict of str to Path
        The names are those of the files without suffix: ``synthseg_2.0`` and the like of
        ``$FREESURFER_HOME/models``, and what is in DIPY's folder (``~/.dipy/synthseg``, or
        ``synthseg`` in ``$DIPY_HOME``). DIPY's file holds release 2.0, and stands for
        ``synthseg_2.0`` where FreeSurfer's is missing.
    """
    # Path.home() raises in a container whose user has no home.
    dipy = Path(os.environ.get('DIPY_HOME') or os.path.expanduser('~/.dipy'), 'synthseg')
    found = {path.stem: path for path in sorted(dipy.glob('synthseg*.pth'))}
    if 'synthseg_model_weights' in found:
        found['synthseg_2.0'] = found['synthseg_model_weights']
    if freesurfer := os.environ.get('FREESURFER_HOME'):
        # The pattern leaves out SynthSeg's other networks, which differ in inputs and outputs.
        models = sorted(Path(freesurfer, 'models').glob('synthseg_[0-9]*.h5'))
        found |= {path.stem: path for path in models}
    return found


def import_model(path: Path, config: NetworkConfig | None = None) -> tuple[UNet3D, ModelCard]:
    """Read published weights.

    Parameters
    ----------
    path : Path
        Keras weights or checkpoint (``.h5``), or a state dict of DIPY's model (``.pth``).
    config : NetworkConfig, optional
        Architecture (default: the published one). There are always 33 output channels: release
        1.0, which does not segment the cerebrospinal fluid around the brain, gets a channel for
        it whose probability is 0.

    Returns
    -------
    network : UNet3D
        In float32, on the CPU, in eval mode.
    card : ModelCard
        Its checksum is that of `path`.

    Raises
    ------
    ModelFileError
        If the file cannot be read, or does not hold SynthSeg 1.0 or 2.0.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ModelFileError(f'{path}: not published weights; give a .h5 or a .pth file')
    if not path.is_file():
        raise ModelFileError(f'{path}: no such file; give one that exists')
    # First, so that missing permissions are not reported as damage.
    checksum = sha256(path)
    labels = channel_labels()
    with torch.device('meta'):
        network = UNet3D(replace(config or NetworkConfig(), out_channels=len(labels)))
    is_keras = path.suffix.lower() == '.h5'
    names = tensor_names(network.config.levels)
    ours = {name.keras if is_keras else name.dipy: name.ours for name in names}
    try:
        state = _read_keras(path, ours) if is_keras else _read_dipy(path, ours)
        release = _check(state, network, {ours[theirs]: theirs for theirs in ours})
    except MisfitError as error:
        raise ModelFileError(
            f'{path}: not the weights of SynthSeg 1.0 or 2.0 ({error}); give synthseg_1.0.h5, '
            "synthseg_2.0.h5 or DIPY's synthseg_model_weights.pth"
        ) from error
    missing = len(labels) - len(state['likelihood.bias'])
    if missing:
        _insert_channel(state, labels.index(CSF))
    network.load_state_dict(state, assign=True)
    training = {
        'source': path.name,
        'sha256': checksum,
        'release': f'SynthSeg {release}',
        'labels_not_segmented': [CSF] * missing,
    }
    name = f'synthseg_{release}'
    card = ModelCard(name, network.config, 1.0, None, labels, checksum, training)
    return network.eval(), card


def convert(path: Path, out: Path) -> ModelCard:
    """Convert published weights to our format.

    Parameters
    ----------
    path : Path
        See :func:`import_model`.
    out : Path
        ``.safetensors`` file; its card is written beside it.

    Returns
    -------
    ModelCard
        The card as written.

    Raises
    ------
    ModelFileError
        See :func:`import_model`.
    """
    # Full precision, to reproduce the published results.
    return save_model(out, *import_model(path), dtype=torch.float32)


def _read_keras(path: Path, wanted: Mapping[str, str]) -> dict[str, Tensor]:
    """Read a Keras file, with our names and order of axes."""
    try:
        import h5py
    except ImportError as error:
        raise ModelFileError(f'{path}: h5py is needed to read it; pip install h5py') from error
    state: dict[str, Tensor] = {}

    def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
        match = KERAS_PATH.fullmatch(name)
        key = match and wanted.get(f'{match["layer"]}/{match["tensor"]}')
        if key and isinstance(item, h5py.Dataset):
            value = torch.from_numpy(np.asarray(item, dtype=np.float32))
            state[key] = value.permute(4, 3, 0, 1, 2) if value.ndim == 5 else value

    try:
        with h5py.File(path, 'r') as file:
            file.visititems(visit)
    # The type of the exception depends on where the file is damaged.
    except Exception as error:
        raise _unreadable(path, 'damaged, incomplete, or no HDF5 file') from error
    return state


def _read_dipy(path: Path, wanted: Mapping[str, str]) -> dict[str, Tensor]:
    """Read a PyTorch state dict, with our names."""
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    # The type of the exception depends on where the file is damaged.
    except Exception as error:
        reason = 'damaged, incomplete, or no file of PyTorch with weights alone'
        raise _unreadable(path, reason) from error
    if not isinstance(content, dict):
        raise MisfitError('no state dict')
    return {
        wanted[key]: value.float()
        for key, value in content.items()
        if key in wanted and isinstance(value, Tensor)
    }


def _unreadable(path: Path, reason: str) -> ModelFileError:
    return ModelFileError(f'{path}: cannot be read ({reason}); copy or download it again')


def _check(state: dict[str, Tensor], network: UNet3D, theirs: Mapping[str, str]) -> str:
    """Complete what was read to a state dict, and return the release that it is of."""
    for key, name in theirs.items():
        if key not in state:
            raise MisfitError(f'no {name}')
    channels = state['likelihood.bias'].numel()
    if channels not in RELEASES:
        raise MisfitError(f'{channels} output channels instead of 32 or 33')
    for key, tensor in network.state_dict().items():
        if key not in theirs:
            # How many batches the running averages have seen, which only training would ask.
            state[key] = torch.tensor(0)
            continue
        shape = tuple(tensor.shape)
        if key.startswith('likelihood.'):
            shape = (channels, *shape[1:])
        if tuple(state[key].shape) != shape:
            raise MisfitError(f'{theirs[key]} is {tuple(state[key].shape)} instead of {shape}')
        if not state[key].isfinite().all():
            raise MisfitError(f'{theirs[key]} holds NaN or infinite values')
        if key.endswith('running_var') and (state[key] < 0).any():
            raise MisfitError(f'{theirs[key]} holds negative variances')
        state[key] = state[key].contiguous()
    return RELEASES[channels]


def _insert_channel(state: dict[str, Tensor], channel: int) -> None:
    """Add an output channel that never wins, so that the others are in our order."""
    for key, value in (('likelihood.weight', 0.0), ('likelihood.bias', NEVER)):
        given = state[key]
        row = torch.full_like(given[:1], value)
        state[key] = torch.cat([given[:channel], row, given[channel:]])
