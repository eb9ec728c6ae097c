"""Filter files: which images of a suffix are wanted, by their entities.

The file is JSON, as for fMRIPrep: ``{"t1w": {"acquisition": "hires", "ceagent": null}}``. Keys are
suffixes in any case, with entities by their long or short names; a value is a label, a list of
labels, ``null`` (the entity must be absent) or ``"*"`` (it must be present). The enums of pybids
may be spelled as fMRIPrep saves them, such as ``"<Query.NONE: 1>"``. pybids does the query, see
:mod:`synthseg_bids.bids.layout`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import read_text
from .errors import QueryError

logger = logging.getLogger(__name__)

#: Queries of fMRIPrep that are not about anatomical images.
_OTHER_QUERIES = ('bold', 'sbref', 'fmap', 'roi')
_LONG_NAMES = {
    'subject': 'sub',
    'session': 'ses',
    'acquisition': 'acq',
    'ceagent': 'ce',
    'reconstruction': 'rec',
    'direction': 'dir',
    'modality': 'mod',
    'inversion': 'inv',
    'processing': 'proc',
    'staining': 'stain',
    'tracer': 'trc',
}
_SHORT_NAMES = (
    *('task', 'run', 'echo', 'flip', 'inv', 'mt', 'part', 'chunk', 'sample', 'space'),
    *_LONG_NAMES.values(),
)
#: Keys of a query that are not entities.
_OTHER_KEYS = ('datatype', 'suffix', 'extension', 'regex_search')
#: The enums of pybids, and how we write them. OPTIONAL is missing, since it is no filter.
_ENUMS = {'NONE': None, 'ANY': '*', 'REQUIRED': '*'}
_ENUM = re.compile(r'<?Query\.([A-Za-z]+)(?:: ?\d+>)?')

#: Wanted values of entities and other keys, by suffix.
Filters = Mapping[str, Mapping[str, Any]]


def read_filters(path: Path, suffixes: Sequence[str]) -> Filters:
    """Read a filter file.

    Parameters
    ----------
    path : Path
    suffixes : sequence of str
        That may be filtered.

    Returns
    -------
    mapping of str to mapping

    Raises
    ------
    QueryError
        If the file cannot be read, or names a suffix or an entity that does not exist.
    """
    try:
        content = json.loads(read_text(path))
    except OSError as error:
        raise QueryError(f'{path}: cannot be read ({error.strerror}); give a JSON file') from None
    except ValueError as error:
        raise QueryError(f'{path}: not JSON ({error}); correct it') from None
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise QueryError(f'{path}: give {{"SUFFIX": {{"ENTITY": VALUE}}}}')
    by_lower = {suffix.lower(): suffix for suffix in suffixes}
    filters: dict[str, dict[str, Any]] = {}
    for key, query in content.items():
        if key.lower() in _OTHER_QUERIES:
            logger.info('%s: %s is not about anatomical images; ignored', path, key)
        elif key.lower() not in by_lower:
            raise QueryError(
                f'{path}: unknown query {key}; there are: {", ".join(sorted(by_lower))}'
            )
        else:
            values = {_short(key, path): _value(value, path) for key, value in query.items()}
            filters[by_lower[key.lower()]] = {k: v for k, v in values.items() if v != 'OPTIONAL'}
    return filters


def _value(value: Any, path: Path) -> Any:
    """Check a value and replace the enums of pybids in it."""
    if isinstance(value, list):
        choices = [_value(choice, path) for choice in value]
        return 'OPTIONAL' if 'OPTIONAL' in choices else choices
    if isinstance(value, dict | float):
        raise QueryError(f'{path}: {json.dumps(value)} is not a label; give a text, or null')
    enum = _ENUM.fullmatch(value) if isinstance(value, str) else None
    if enum is None or enum[1] == 'OPTIONAL':
        return enum[1] if enum else value
    if enum[1] not in _ENUMS:
        raise QueryError(f'{path}: unknown {value}; there are: NONE, ANY, REQUIRED, OPTIONAL')
    return _ENUMS[enum[1]]


def _short(entity: str, path: Path) -> str:
    short = _LONG_NAMES.get(entity, entity)
    if short not in (*_SHORT_NAMES, *_OTHER_KEYS):
        known = sorted({*_LONG_NAMES, *_SHORT_NAMES, *_OTHER_KEYS})
        raise QueryError(f'{path}: unknown entity {entity}; there are: {", ".join(known)}')
    return short


def mismatch(
    filters: Filters, entities: Mapping[str, str], suffix: str, extension: str
) -> str | None:
    """Return the entity that excludes an image; None if the filters select it.

    Examples
    --------
    >>> mismatch({'T1w': {'run': [1, None]}}, {'sub': '1', 'run': '02'}, 'T1w', '.nii')
    'run-02'
    >>> mismatch({'T1w': {'run': [1, None]}}, {'sub': '1'}, 'T1w', '.nii')
    >>> mismatch({'T1w': {'acq': '*'}}, {'sub': '1'}, 'T1w', '.nii')
    'no acq'
    """
    present = {**entities, 'datatype': 'anat', 'suffix': suffix, 'extension': extension}
    for key, wanted in filters.get(suffix, {}).items():
        if key == 'regex_search':
            continue
        choices = wanted if isinstance(wanted, list) else [wanted]
        found = present.get(key)
        if not any(_fits(found, choice) for choice in choices):
            return f'no {key}' if found is None else f'{key}-{found}'
    return None


def _fits(found: str | None, wanted: Any) -> bool:
    if wanted is None or found is None:
        return wanted is None and found is None
    if wanted == '*' or found.lstrip('.') == str(wanted).lstrip('.'):
        return True
    # run-1 and run-01 are one run.
    return found.isdigit() and str(wanted).isdigit() and int(found) == int(wanted)
