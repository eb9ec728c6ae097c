"""The time between the visits of a participant, as the raw dataset records it."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ..files import EncodingError, read_table

logger = logging.getLogger(__name__)

DAYS_PER_YEAR = 365.25


def years_between(raw: Path, participant: str, sessions: Sequence[str]) -> dict[str, float] | None:
    """Return when visits took place, in years after the first.

    Parameters
    ----------
    raw : Path
        The raw dataset.
    participant : str
        With ``sub-``.
    sessions : sequence of str
        With ``ses-``.

    Returns
    -------
    dict of str to float, or None
        By session; from ``acq_time`` in sessions.tsv or, if that does not tell all, in scans.tsv.
        None if that is not known of all sessions, or they were all at one time.
    """
    table = raw / participant / f'{participant}_sessions.tsv'
    rows = _read(table)
    listed = {f'ses-{row.get("session_id", "").removeprefix("ses-")}': row for row in rows}
    times = {one: _time(listed.get(one, {})) for one in sessions}
    if None in times.values():
        times = {one: _first_scan(raw, participant, one) for one in sessions}
    known = [time for time in times.values() if time is not None]
    if len(known) < len(sessions) or min(known) == max(known):
        return None
    first = min(known)
    return {
        one: (time - first).total_seconds() / 86400 / DAYS_PER_YEAR
        for one, time in times.items()
        if time is not None
    }


def _first_scan(raw: Path, participant: str, session: str) -> datetime | None:
    rows = _read(raw / participant / session / f'{participant}_{session}_scans.tsv')
    times = [time for row in rows if (time := _time(row)) is not None]
    return min(times, default=None)


def _read(path: Path) -> list[dict[str, str]]:
    try:
        return read_table(path)
    except (OSError, EncodingError) as error:
        logger.warning('%s; going on without it', error)
        return []


def _time(row: dict[str, str]) -> datetime | None:
    """Return the time of a row; only differences count, so that a time zone is left out."""
    try:
        text = row['acq_time'].strip().removesuffix('Z')
        # Python 3.10 reads fractions of three or six digits alone.
        text = re.sub(r'\.(\d+)', lambda found: f'.{found[1][:6]:0<6}', text)
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except (KeyError, ValueError):
        return None
