"""Section of a participant's report on the change between visits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synthseg_bids.bids.longitudinal import change_file, percent_change, read_visits
from synthseg_bids.external.methods import LONGITUDINAL, OURS

from .charts import lines
from .structures import Structure, structures_of
from .tree import read_json

#: Least range of the charts, in percent to both sides of the mean.
LEAST_RANGE = 2.0

Volumes = Mapping[str, tuple[list[str], Mapping[str, float]]]


def read_changes(out_dir: Path, participant: str) -> dict[str, Any]:
    """Gather what ``changes.html.j2`` shows; empty unless visits were segmented together.

    Parameters
    ----------
    out_dir : Path
        The output dataset.
    participant : str
        With ``sub-``.
    """
    sidecar = read_json((out_dir / change_file(participant)).with_suffix('.json'))
    times = {visit['Session']: float(visit['Time']) for visit in sidecar.get('Visits', [])}
    together = read_visits(out_dir, participant, LONGITUDINAL.seg)
    if len(times) < 2 or not times.keys() <= together.keys():
        return {}
    apart = read_visits(out_dir, participant, OURS)
    names = {name for _, volumes in together.values() for name in volumes}
    rows = [_row(structure, times, together, apart) for structure in structures_of(names)]
    return {
        'unit': sidecar.get('TimeUnit', 'visit'),
        'sessions': list(times),
        'span': max(times.values()) - min(times.values()),
        'rows': [row for row in rows if row],
    }


def _row(
    structure: Structure, times: Mapping[str, float], together: Volumes, apart: Volumes
) -> dict[str, Any]:
    """Describe one structure, left and right together; empty if it has no volume."""
    ml = _ml(structure, times, together)
    if ml is None or not min(ml):
        return {}
    single = _ml(structure, times, apart)
    mean = float(np.mean(ml))
    where = list(times.values())
    series = [('apart', single), ('together', ml)]
    shown = [(name, _percent(values)) for name, values in series if values and min(values)]
    most = max([LEAST_RANGE, *(abs(v) for _, values in shown for v in values)])
    return {
        'structure': structure,
        'volumes': ml,
        'change': percent_change(where, ml),
        'apart': percent_change(where, single) if single and min(single) else None,
        'chart': lines(where, shown, most, f'{structure.title}: mean {mean:.2f} ml'),
    }


def _ml(
    structure: Structure, sessions: Mapping[str, float], visits: Volumes
) -> list[float] | None:
    """Return the volume of each visit in ml; None if one lacks it."""
    names = [label.name for label in structure.labels]
    if not all(s in visits and all(n in visits[s][1] for n in names) for s in sessions):
        return None
    return [sum(visits[s][1][n] for n in names) / 1000 for s in sessions]


def _percent(values: Sequence[float]) -> list[float]:
    """Return the deviation of each value from their mean."""
    mean = float(np.mean(values))
    return [100 * (value / mean - 1) for value in values]
