"""Memory that was promised is compared with what the images take, before anything runs."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from synthseg_bids.errors import UsageError

from .config import RunConfig
from .method import ChosenMethod

if TYPE_CHECKING:
    from synthseg_bids.bids.image_record import ImageRecord

logger = logging.getLogger(__name__)


def fit_memory(
    config: RunConfig, pending: Sequence[ImageRecord], chosen: ChosenMethod
) -> tuple[float, int | None]:
    """Choose how images are segmented within ``--mem-gb``.

    Parameters
    ----------
    config : RunConfig
    pending : sequence of ImageRecord
    chosen : ChosenMethod

    Returns
    -------
    mem_gb : float
        What a process takes that segments them.
    memory_limit : int or None
        Bytes that a forward pass may plan with; none where as many as it takes are allowed.

    Raises
    ------
    UsageError
        If they do not fit; the message names the least that suffices.
    """
    usual = chosen.mem_gb(config, pending)
    allowed = config.mem_gb
    if not pending or not allowed or usual <= allowed:
        return usual, None
    limit = None if config.low_mem else chosen.least_pass_bytes(config, pending)
    exact = min(usual, chosen.mem_gb(config, pending, limit)) if limit else usual
    if exact <= allowed:
        logger.info('--mem-gb %g: images are kept small, as exact and slower', allowed)
        return exact, limit
    small = chosen.mem_gb(replace(config, low_mem=True), pending)
    how = f' (or {_up(small)} with --low-mem)' if small < exact else ''
    raise UsageError(
        f'--mem-gb {allowed:g}: an image takes {usual:.1f} GB here; give at least '
        f'{_up(exact)}{how}, and ask the batch system for as much'
    )


def _up(gigabytes: float) -> str:
    return f'{math.ceil(10 * gigabytes) / 10:.1f}'
