"""The Dice that the confidence of the network lets expect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np

#: Nodes of the fit of each group: ``confidence``, ``dice`` and ``error``; and how they were found.
#: Written by ``benchmarks/expected_dice.py``, for one network.
FITTED: dict[str, Any] = json.loads(
    files('synthseg_bids').joinpath('data/expected_dice.json').read_text(encoding='utf-8')
)


def expected_dice(values: Mapping[str, Any], model_sha256: str) -> dict[str, tuple[float, float]]:
    """Look up the Dice that scans of the same confidence had.

    Parameters
    ----------
    values : mapping of str to float or None
        ``confidence_`` and the group's name: mean confidence of each group of structures.
    model_sha256 : str
        Checksum of the network's weights.

    Returns
    -------
    dict of str to (float, float)
        Dice and its error, from 0 to 1, by ``expected_dice_`` and the group's name. Empty for
        networks other than the one that the fit was made for; groups of unknown confidence are
        left out.
    """
    if model_sha256 != FITTED['origin']['model_sha256']:
        return {}
    found = {}
    for group, nodes in FITTED['groups'].items():
        confidence = values.get(f'confidence_{group}')
        if confidence is not None:
            found[f'expected_dice_{group}'] = interpolate(nodes, confidence)
    return found


def interpolate(nodes: Mapping[str, list[float]], confidence: float) -> tuple[float, float]:
    """Interpolate Dice and error linearly; outside of the nodes they are those of the nearest.

    Examples
    --------
    >>> interpolate({'confidence': [0.5, 0.7], 'dice': [0.4, 0.8], 'error': [0.1, 0.1]}, 0.6)
    (0.6, 0.1)
    """
    dice, error = (
        float(np.interp(confidence, nodes['confidence'], nodes[key])) for key in ('dice', 'error')
    )
    return round(dice, 4), round(error, 4)
