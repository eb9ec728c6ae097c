"""The method that segments the images of a run: our network, or an external program."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthseg_bids.errors import UsageError
from synthseg_bids.external.methods import METHODS, OURS, Method
from synthseg_bids.images.ct import ct_setting, describe_ct

from .config import RunConfig

if TYPE_CHECKING:
    from synthseg_bids.bids.image_record import ImageRecord
    from synthseg_bids.external.methods import Program

#: Settings of our network, each with its option and the values that go with other methods, too.
OF_OURS: dict[str, tuple[str, tuple[object, ...]]] = {
    'model': ('--model', ('default',)),
    'autocrop': ('--no-autocrop', (True,)),
    'ct': ('--ct', (None, False)),
    'lesions': ('--lesions', ('label',)),
    'output_grid': ('--output-grid (or --level full)', ('native',)),
    'posteriors': ('--posteriors (or --level full)', ('none',)),
    'parc': ('--parc (or --level full)', (False,)),
    'tissue_maps': ('--tissue-maps', (False,)),
    'five_tissue': ('--five-tissue', (False,)),
    'combine': ('--combine', ('none',)),
    'precomputed': ('--precomputed', (None,)),
    'longitudinal': ('--longitudinal', (False,)),
    'device': ('--device', ('auto', 'cpu')),
    'n_gpus': ('--n-gpus', (None, 0)),
    'low_mem': ('--low-mem', (False,)),
}


@dataclass(frozen=True)
class ChosenMethod:
    """The method of a run, with its weights or its program.

    Attributes
    ----------
    method : Method
    model : Path or None
        Weights of our network.
    model_sha256 : str
        Their checksum.
    parcels_sha256 : str
        Checksum of the weights that name parcels of the cortex; empty if they are not asked for.
    program : Program or None
        Of another method.
    """

    method: Method
    model: Path | None = None
    model_sha256: str = ''
    parcels_sha256: str = ''
    program: Program | None = None

    @property
    def parcel_fields(self) -> dict[str, str]:
        """Field of a sidecar that identifies the network of parcels, if they are asked for."""
        from synthseg_bids.bids.save import PARCEL_MODEL_FIELD

        return {PARCEL_MODEL_FIELD: self.parcels_sha256} if self.parcels_sha256 else {}

    def identity(self, config: RunConfig, suffix: str) -> dict[str, Any]:
        """Return the fields of a sidecar that identify the method, for images of one suffix."""
        if self.program:
            return self.program.identity(suffix, not config.fast)
        return {
            'ModelSHA256': self.model_sha256,
            'FlipAveraging': not config.fast,
            'Autocrop': config.autocrop,
            'CT': describe_ct(ct_setting(config.ct, suffix)),
            'Lesions': config.lesions,
            **self.parcel_fields,
        }

    def used(self) -> dict[str, Any]:
        """Return the description of the method that is saved with the logs."""
        if self.program:
            return {'program': self.program.path, 'program_version': self.program.version}
        return {'model_file': self.model}

    def about(self, config: RunConfig) -> dict[str, Any]:
        """Return the description of the method for the methods text."""
        if self.model is None:
            return {'program': self.program}
        from synthseg_bids.inference.memory_estimate import describe_model
        from synthseg_bids.labels import LESION

        card = describe_model(self.model)
        return {
            'model': card.name,
            'checksum': self.model_sha256,
            'lesions': LESION in card.labels and config.lesions == 'label',
            'spacing_mm': card.spacing_mm,
            'crop_mm': card.crop_mm,
            'intensity_weight': card.intensity_weight,
        }

    def mem_gb(
        self, config: RunConfig, images: Iterable[ImageRecord], memory_limit: int | None = None
    ) -> float:
        """Return the memory of a process that segments some images."""
        if self.model is None:
            return self.method.mem_gb
        from synthseg_bids.inference.memory_estimate import HEAD, describe_model, worker_gb

        # Workers do not return memory, and each may get the largest image.
        return worker_gb(
            describe_model(self.model),
            {image.grid or HEAD for image in images},
            flip=not config.fast,
            autocrop=config.autocrop,
            low_memory=config.low_mem,
            posteriors=config.posteriors,
            tissues=config.tissues,
            parcels=config.parc,
            memory_limit=memory_limit,
        )

    def least_pass_bytes(self, config: RunConfig, images: Iterable[ImageRecord]) -> int | None:
        """Return the least memory of an exact forward pass in bytes, if known."""
        if self.model is None:
            return None
        from synthseg_bids.inference.memory_estimate import HEAD, describe_model, least_pass_bytes

        grids = {image.grid or HEAD for image in images}
        card = describe_model(self.model)
        return least_pass_bytes(card, grids, flip=not config.fast, autocrop=config.autocrop)


def choose_method(config: RunConfig) -> ChosenMethod:
    """Find the weights or the program that the settings ask for.

    Parameters
    ----------
    config : RunConfig

    Returns
    -------
    ChosenMethod

    Raises
    ------
    UsageError
        If they are not there, or options do not go with them.
    """
    from synthseg_bids.external.methods import find_program
    from synthseg_bids.files import sha256

    method = METHODS[config.method]
    if config.method != OURS:
        for name, (option, possible) in OF_OURS.items():
            if getattr(config, name) not in possible:
                raise UsageError(f'{option}: not with --method {config.method}; leave it out')
        if config.fast and config.method == 'samseg':
            raise UsageError('--fast: not with --method samseg, which has no such step')
        return ChosenMethod(method, program=find_program(method))

    from synthseg_bids.models import PARCEL_MODEL
    from synthseg_bids.models.card import check_card
    from synthseg_bids.models.registry import model_path

    model = model_path(config.model, config.model_dir).absolute()
    checksum = sha256(model)
    if model.suffix == '.safetensors':
        check_card(model, checksum)
    parcels = sha256(model_path(PARCEL_MODEL)) if config.parc else ''
    return ChosenMethod(method, model, checksum, parcels)
