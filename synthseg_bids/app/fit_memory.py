"""Memory that was promised is compared with what the images take, before anything runs."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from synthseg_bids.errors import UsageError

from .config import RunConfig
from .method import Segmenter

if TYPE_CHECKING:
    from synthseg_bids.bids.plan import ImageTask

logger = logging.getLogger(__name__)


def fit_memory(
    config: RunConfig, pending: Sequence[ImageTask], segmenter: Segmenter
) -> tuple[float, bool]:
    """Choose how images are segmented within ``--mem-gb``.

    Parameters
    ----------
    config : RunConfig
    pending : sequence of ImageTask
    segmenter : Segmenter

    Returns
    -------
    mem_gb : float
        What a process takes that segments them.
    low_memory : bool
        Whether they are kept small: because that was asked for, or because they fit then, are as
        exact as otherwise, and do not fit without.

    Raises
    ------
    UsageError
        If they do not fit; the message names the least that suffices.
    """
    usual = segmenter.mem_gb(config, pending)
    allowed = config.mem_gb
    if not pending or not allowed or usual <= allowed:
        return usual, config.low_mem
    small = replace(config, low_mem=True)
    least = min(usual, segmenter.mem_gb(small, pending))
    if least <= allowed and segmenter.is_exact(small, pending):
        logger.info('--mem-gb %g: images are kept small, as exact and slower', allowed)
        return least, True
    how = ', with --low-mem' if least < usual and not segmenter.is_exact(small, pending) else ''
    raise UsageError(
        f'--mem-gb {allowed:g}: an image takes {usual:.1f} GB here; give at least '
        f'{math.ceil(10 * least) / 10:.1f}{how}, and ask the batch system for as much'
    )
