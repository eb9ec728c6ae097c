"""What tells about masks and tissue maps: their sidecars, and the table of the three tissues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synthseg_bids.measure.tissues import CLOSING_MM, FIVE_TISSUES, TISSUES

from ..files import write_json, write_table

_NAMES = ('grey matter', 'white matter', 'cerebrospinal fluid')
_COLORS = ('#cd3e4e', '#f5f5f5', '#3c3c3c')
_FOLDED = (
    'Cerebellar cortex, deep grey nuclei, hippocampus and amygdala are grey matter; brainstem, '
    'ventral diencephalon and lesions are white matter; ventricles are cerebrospinal fluid'
)


def tissue_sidecars(source: str) -> dict[str, dict[str, Any]]:
    """Describe the masks and tissue maps of an image.

    Parameters
    ----------
    source : str
        BIDS URI of the image.

    Returns
    -------
    dict of str to dict
        By kind; see :data:`synthseg_bids.bids.names.TISSUE_KINDS`.
    """
    own: dict[str, dict[str, Any]] = {
        'brain_mask': {
            'Type': 'Brain',
            'Description': 'Brain and ventricles, with the fluid in sulci and cisterns up to '
            f'{2 * CLOSING_MM:g} mm wide, without holes',
        },
        'intracranial_mask': {
            'Type': 'ROI',
            'Description': 'Brain and all cerebrospinal fluid around it, without holes',
        },
        'tissues': {},  # as the table of the tissues says
        'five_tissue': {
            'Manual': False,
            'Description': 'Five tissues in the order of MRtrix; they sum to 1 where the label '
            'map has a label, and are 0 elsewhere',
            'LabelMap': [*FIVE_TISSUES],
        },
    }
    for tissue, name in zip(TISSUES, _NAMES, strict=True):
        what = f'Probability of {name}, 0 to 1. {_FOLDED}'
        own[tissue.lower()] = {'Manual': False, 'Description': what}
    where = {'Sources': [source], 'SpatialReference': source}
    return {kind: {**where, **content} for kind, content in own.items()}


def write_tissue_lookup(path: Path) -> None:
    """Write the table of the three tissues, and what all their label maps share.

    Parameters
    ----------
    path : Path
        ``..._dseg.tsv``, at the root of a dataset.
    """
    rows = [
        {'index': number, 'name': name, 'abbreviation': tissue, 'color': color, 'mapping': number}
        for number, (name, tissue, color) in enumerate(
            zip(('background', *_NAMES), ('BG', *TISSUES), ('#000000', *_COLORS), strict=True)
        )
    ]
    write_table(path, list(rows[0]), rows)
    write_json(
        path.with_suffix('.json'), {'Description': f'Three tissues. {_FOLDED}', 'Manual': False}
    )
