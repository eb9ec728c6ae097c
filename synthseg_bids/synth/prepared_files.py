"""Write prepared label maps with a JSON sidecar each, and read tables of facts about them."""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ..files import read_text, write_json
from ..images.volume_io import write_image
from .prepare_labels import PreparedMap

#: Columns of the table that are copied to sidecars, by their key there.
COLUMNS = {'Source': 'dataset', 'License': 'licence', 'Remarks': 'remarks'}


def read_facts(path: Path) -> dict[str, dict[str, str]]:
    """Read a table of label maps.

    Parameters
    ----------
    path : Path
        Columns ``name``, ``age`` and, if known, ``dataset``, ``licence``, ``remarks``,
        separated by tabs.

    Returns
    -------
    dict of str to dict of str to str
        Rows by name, as cells by column.

    Raises
    ------
    EncodingError
        If it is neither UTF-8 nor UTF-16.
    """
    import pandas as pd

    table = pd.read_csv(StringIO(read_text(path)), sep='\t', dtype=str, keep_default_na=False)
    return {str(row['name']): row for row in table.to_dict('records')}


def find_facts(table: Mapping[str, dict[str, str]], source: Path) -> dict[str, str]:
    """Return the row of a table that is about a label map, named with or without ``_dseg``."""
    name = source.name.partition('.')[0]
    return next((table[key] for key in table if name in (key, f'{key}_dseg')), {})


def save_prepared(
    folder: Path, source: Path, prepared: PreparedMap, facts: Mapping[str, str], age_group: str
) -> tuple[Path, Path]:
    """Write a prepared label map and its sidecar.

    Parameters
    ----------
    folder : Path
    source : Path
        Original label map, whose name the result gets.
    prepared : PreparedMap
    facts : mapping of str to str
        Row of the table, see :func:`find_facts`; may be empty.
    age_group : str
        Used if the row has none.

    Returns
    -------
    labels, sidecar : Path
    """
    name = source.name.partition('.')[0]
    path, sidecar = folder / f'{name}.nii.gz', folder / f'{name}.json'
    write_image(path, prepared.labels, prepared.affine)
    content: dict[str, Any] = {
        'AgeGroup': facts.get('age') or age_group,
        'MergedLabels': prepared.merged,
        **{key: facts[column] for key, column in COLUMNS.items() if facts.get(column)},
        'Preparation': prepared.notes,
    }
    write_json(sidecar, content)
    return path, sidecar
