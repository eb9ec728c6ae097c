"""Trained networks on disk: safetensors weights with a JSON model card beside them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from .labels import segmentation_labels
from .network import NetworkConfig, UNet3D

#: What every command asks for unless told otherwise, and the shipped model that it stands for.
DEFAULT_MODEL = 'default'
BEST_SHIPPED = 'fast'


class ModelFileError(ValueError):
    """A model's weights or card cannot be used."""


@dataclass(frozen=True)
class ModelCard:
    """What one needs to know to run a network, and to trust it.

    Attributes
    ----------
    name : str
    network : NetworkConfig
    labels : tuple of int
        Segmentation label of each channel.
    spacing_mm : float
        Spacing of the grid it was trained on.
    crop_mm : tuple of float or None
        Field of view it was trained on.
    sha256 : str
        Checksum of the weights file.
    training, validation : dict
        How it was trained, and what it reached on held-out label maps.
    """

    name: str
    network: NetworkConfig
    spacing_mm: float
    crop_mm: tuple[float, float, float] | None = None
    labels: tuple[int, ...] = field(
        default_factory=lambda: tuple(label.index for label in segmentation_labels())
    )
    sha256: str = ''
    training: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)


def model_path(name_or_path: str | Path) -> Path:
    """Return the weights file of a shipped model's name or of a path.

    Parameters
    ----------
    name_or_path : str or Path
        ``default``, the name of another shipped model, or a ``.safetensors`` file.

    Returns
    -------
    Path

    Raises
    ------
    ModelFileError
        If there is no such model; the message lists the shipped ones.
    """
    folder = Path(str(files('synthseg_bids').joinpath('data/models')))
    path = Path(name_or_path)
    if path.suffix != '.safetensors':
        name = BEST_SHIPPED if name_or_path == DEFAULT_MODEL else name_or_path
        path = folder / f'{name}.safetensors'
    if not path.is_file():
        shipped = ', '.join(sorted(p.stem for p in folder.glob('*.safetensors'))) or 'none'
        raise ModelFileError(
            f'{name_or_path}: no such model; give a .safetensors file or one of: {shipped}'
        )
    return path


def load_model(
    name_or_path: str | Path = DEFAULT_MODEL, device: torch.device | str = 'cpu'
) -> tuple[UNet3D, ModelCard]:
    """Load a network in float32, ready for inference.

    Parameters
    ----------
    name_or_path : str or Path
        See :func:`model_path`; the card has the same name with the suffix ``.json``.
    device : torch.device or str

    Returns
    -------
    network : UNet3D
    card : ModelCard

    Raises
    ------
    ModelFileError
        If a file is missing, damaged, or does not fit its card.
    """
    path = model_path(name_or_path)
    card = read_card(path)
    if card.sha256 and card.sha256 != sha256(path):
        raise ModelFileError(f'{path}: checksum differs from its card; copy the file again')
    network = UNet3D(card.network)
    try:
        state = load_file(path, device='cpu')
        network.load_state_dict({key: value.float() for key, value in state.items()})
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelFileError(f'{path}: not the weights its card describes ({reason})') from error
    return network.place(device).eval().requires_grad_(False), card


def read_card(path: Path) -> ModelCard:
    """Read the model card beside a weights file."""
    card_path = path.with_suffix('.json')
    try:
        content = json.loads(card_path.read_text(encoding='utf-8'))
        content['network'] = NetworkConfig(**content['network'])
        content['labels'] = tuple(content['labels'])
        if content.get('crop_mm'):
            content['crop_mm'] = tuple(content['crop_mm'])
        return ModelCard(**content)
    except FileNotFoundError as error:
        raise ModelFileError(f'{card_path}: model card is missing beside {path.name}') from error
    except (ValueError, TypeError, KeyError) as error:
        raise ModelFileError(f'{card_path}: not a model card ({error})') from error


def save_model(path: Path, network: UNet3D, card: ModelCard) -> ModelCard:
    """Write weights (float16) and model card.

    Parameters
    ----------
    path : Path
        Ends in ``.safetensors``.
    network : UNet3D
    card : ModelCard
        Its checksum is filled in.

    Returns
    -------
    ModelCard
        The card as written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        # batch counters stay integers
        key: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for key, value in network.state_dict().items()
    }
    temporary = path.with_suffix('.tmp')
    # Not save_file, whose files only their owner may read.
    temporary.write_bytes(save(state))
    card = ModelCard(**{**vars(card), 'sha256': sha256(temporary)})
    text = json.dumps(asdict(card), indent=2)
    card_temporary = path.with_suffix('.json.tmp')
    card_temporary.write_text(text + '\n', encoding='utf-8')
    temporary.replace(path)
    card_temporary.replace(path.with_suffix('.json'))
    return card


def sha256(path: Path) -> str:
    """Return a file's SHA-256 checksum in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
