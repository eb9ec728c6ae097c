"""Files with what the network alone predicts for an image, for segmentations of several images."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


def prior_file(folder: str, image: str, inputs: Any, ct: bool | None) -> Path:
    """Name the file that keeps the posteriors of an image, by all that they depend on.

    Parameters
    ----------
    folder : str
    image : str
    inputs
        Of the interface that segments it: its version, its model and their settings.
    ct : bool, optional
        Whether it is segmented as CT.
    """
    from synthseg_bids.files import sha256

    about = (
        inputs.software_version, inputs.model, inputs.model_sha256, inputs.flip,
        inputs.autocrop, ct, sha256(Path(image)),
    )  # fmt: skip
    return Path(folder) / f'{hashlib.sha256(repr(about).encode()).hexdigest()[:24]}.npz'
