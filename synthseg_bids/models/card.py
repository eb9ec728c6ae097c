"""Read and write trained networks: safetensors weights with a JSON model card beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..errors import UsageError
from ..files import read_text, sha256, write_json, write_whole
from ..labels import CSF, channel_labels, segmentation_labels
from .unet import NetworkConfig, UNet3D


class ModelFileError(UsageError):
    """A model's weights or card cannot be used."""


@dataclass(frozen=True)
class ModelCard:
    """Everything needed to run a network and to judge it.

    Attributes
    ----------
    name : str
    network : NetworkConfig
    labels : tuple of int
        Segmentation label of each channel.
    spacing_mm : float
        Voxel size of the training grid.
    crop_mm : tuple of float or None
        Field of view in training.
    sha256 : str
        Checksum of the weights file.
    training, validation : dict
        Settings of the training, and results on held-out label maps.
    intensity_weight : float
        Exponent of the likelihood in :func:`synthseg_bids.inference.refine.refine`; 0 disables
        the refinement.
    """

    name: str
    network: NetworkConfig
    spacing_mm: float
    crop_mm: tuple[float, float, float] | None = None
    labels: tuple[int, ...] = field(default_factory=channel_labels)
    sha256: str = ''
    training: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)
    intensity_weight: float = 0.0

    def trained_on(self, label_maps: Iterable[Path]) -> list[str]:
        """Return the names of those label maps that the network was trained on."""
        return sorted({p.name for p in label_maps} & {*self.training.get('label_maps', [])})

    @property
    def unknown_channels(self) -> list[int]:
        """Channels whose label the network does not segment; see :mod:`.published`."""
        unknown = self.training.get('labels_not_segmented', [])
        return [i for i, label in enumerate(self.labels) if label in unknown]

    @property
    def outside_channels(self) -> list[int]:
        """Channels outside the brain: background, and the CSF around it, down to the spine."""
        return [i for i, label in enumerate(self.labels) if label in (0, CSF)]

    @property
    def topology_groups(self) -> tuple[int, ...]:
        """Topology group of each channel, for the removal of components."""
        labels = segmentation_labels(lesions=True)
        group_of = {label.index: label.topology_group for label in labels}
        return tuple(group_of[label] for label in self.labels)

    @property
    def total_steps(self) -> int:
        """Training steps, including those of the network that the training started from."""
        before = self.training.get('started_from', {})
        return int(self.training.get('steps', 0)) + int(before.get('steps', 0))


def load_safetensors(path: Path) -> tuple[UNet3D, ModelCard]:
    """Read a network and its card; see :func:`synthseg_bids.models.registry.load_model`."""
    card = check_card(path, sha256(path))
    network = UNet3D(card.network)
    try:
        state = load_file(path, device='cpu')
        network.load_state_dict({key: value.float() for key, value in state.items()})
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelFileError(f'{path}: not the weights its card describes ({reason})') from error
    return network, card


def check_card(path: Path, checksum: str) -> ModelCard:
    """Read the model card beside a weights file, whose checksum must be that on the card."""
    card = read_card(path)
    if card.sha256 not in ('', checksum):
        raise ModelFileError(f'{path}: checksum differs from its card; copy the file again')
    return card


def read_card(path: Path) -> ModelCard:
    """Read the model card beside a weights file."""
    card_path = path.with_suffix('.json')
    try:
        content = json.loads(read_text(card_path))
        content['network'] = NetworkConfig(**content['network'])
        content['labels'] = tuple(content['labels'])
        if content.get('crop_mm'):
            content['crop_mm'] = tuple(content['crop_mm'])
        return ModelCard(**content)
    except FileNotFoundError as error:
        raise ModelFileError(f'{card_path}: model card is missing beside {path.name}') from error
    except (ValueError, TypeError, KeyError) as error:
        raise ModelFileError(f'{card_path}: not a model card ({error})') from error


def number_format(network: UNet3D) -> torch.dtype:
    """Return float16 if it represents a network's weights exactly, else float32."""
    exact = all((value.half() == value).all() for value in network.state_dict().values())
    return torch.float16 if exact else torch.float32


def _in_format(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a floating-point tensor whose values fit the format; others stay as they are."""
    if not value.is_floating_point() or float(value.abs().max()) > torch.finfo(dtype).max:
        return value
    return value.to(dtype)


def save_model(
    path: Path, network: UNet3D, card: ModelCard, dtype: torch.dtype = torch.float16
) -> ModelCard:
    """Write weights and model card.

    Parameters
    ----------
    path : Path
        Ends in ``.safetensors``.
    network : UNet3D
    card : ModelCard
        Its checksum is filled in.
    dtype : torch.dtype
        Number format of the file; half precision does not change the results of our networks.

    Returns
    -------
    ModelCard
        The card as written.
    """
    state = {
        key: _in_format(value, dtype).cpu().contiguous()
        for key, value in network.state_dict().items()
    }
    # save_file would write a file that only its owner may read.
    content = save(state)
    path.parent.mkdir(parents=True, exist_ok=True)
    card = replace(card, sha256=hashlib.sha256(content).hexdigest())
    write_whole(path, lambda temporary: temporary.write_bytes(content))
    write_json(path.with_suffix('.json'), asdict(card))
    return card
