"""Find models by name, and load them."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from . import DEFAULT_MODEL
from .card import ModelCard, ModelFileError, load_safetensors
from .published import SUFFIXES, import_model, official_models
from .unet import UNet3D

#: The shipped model that the default stands for.
BEST_SHIPPED = 'fast'
#: Environment variable that names a folder with more models.
MODELS_VARIABLE = 'SYNTHSEG_BIDS_MODELS'


def model_path(name_or_path: str | Path, folder: Path | None = None) -> Path:
    """Return the weights file of a model's name or of a path.

    Parameters
    ----------
    name_or_path : str or Path
        ``default``, the name of another shipped model or of installed published weights such as
        ``synthseg_2.0`` (see :func:`synthseg_bids.models.published.official_models`); or a
        ``.safetensors`` file, or published weights (``.h5``, ``.pth``).
    folder : Path, optional
        Folder of more models to find by name (default: ``$SYNTHSEG_BIDS_MODELS``).

    Returns
    -------
    Path

    Raises
    ------
    ModelFileError
        If there is no such model; the message lists the known ones.
    """
    shipped = Path(str(files('synthseg_bids').joinpath('data/models')))
    known = official_models() | {p.stem: p for p in shipped.glob('*.safetensors')}
    if folder is None and os.environ.get(MODELS_VARIABLE):
        folder = Path(os.environ[MODELS_VARIABLE])
    if folder is not None:
        if not folder.is_dir():
            raise ModelFileError(f'{folder}: no such folder of models; give one that exists')
        known |= {p.stem: p for p in folder.iterdir() if p.suffix in ('.safetensors', *SUFFIXES)}
    if Path(name_or_path).suffix in ('.safetensors', *SUFFIXES):
        path: Path | None = Path(name_or_path)
    else:
        path = known.get(BEST_SHIPPED if name_or_path == DEFAULT_MODEL else str(name_or_path))
    if path is None or not path.is_file():
        raise ModelFileError(
            f'{name_or_path}: no such model; give a weights file (.safetensors, .h5, .pth) or one '
            f'of: {", ".join(sorted(known)) or "none"}{_where_published(str(name_or_path))}'
        )
    return path


def _where_published(name: str) -> str:
    """Explain how published networks are found, if the name is of one."""
    if not name.startswith('synthseg_'):
        return ''
    return "; FreeSurfer's are found if FREESURFER_HOME is set, DIPY's in its own folder"


def load_model(name_or_path: str | Path = DEFAULT_MODEL) -> tuple[UNet3D, ModelCard]:
    """Load a network in float32 on the CPU, ready for inference.

    Parameters
    ----------
    name_or_path : str or Path
        See :func:`model_path`; the card of a ``.safetensors`` file has the same name with the
        suffix ``.json``. Published weights are imported in memory.

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
    if path.suffix == '.safetensors':
        network, card = load_safetensors(path)
    else:
        network, card = import_model(path)
    return network.place('cpu').eval().requires_grad_(False), card
