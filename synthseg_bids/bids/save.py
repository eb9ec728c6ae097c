"""Writing the outputs of one image, and telling whether they are up to date."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .atomic import copy_file, write_json
from .metadata import label_map_sidecar, posteriors_sidecar
from .tables import DICE_COLUMNS, MORPH_COLUMNS

EXTENSIONS = {'dseg': '.nii.gz', 'probseg': '.nii.gz', 'morph': '.tsv', 'dice': '.tsv'}
#: Fields of the label map's sidecar that say whether another run would give the same.
_IDENTITY = ('SoftwareVersion', 'ModelSHA256', 'FlipAveraging', 'InputSHA256')


def output_files(stem: str, kinds: Sequence[str]) -> list[str]:
    """List the files of one image, relative to the output dataset.

    Parameters
    ----------
    stem : str
        Relative path up to the suffix, e.g. ``sub-01/anat/sub-01_seg-synthseg_desc-T1w``.
    kinds : sequence of str
        Of ``dseg``, ``probseg``, ``morph``, ``dice``.

    Examples
    --------
    >>> output_files('sub-01/anat/sub-01_desc-T1w', ['morph'])
    ['sub-01/anat/sub-01_desc-T1w_morph.tsv', 'sub-01/anat/sub-01_desc-T1w_morph.json']
    """
    return [f'{stem}_{kind}{end}' for kind in kinds for end in (EXTENSIONS[kind], '.json')]


def save_image_outputs(
    out_dir: str | Path,
    stem: str,
    files: Mapping[str, str | Path],
    source: str,
    reference_uris: Sequence[str],
    provenance: Mapping[str, Any],
) -> list[str]:
    """Copy the results of one image to the output dataset, each with its sidecar.

    Parameters
    ----------
    out_dir : path-like
    stem : str
        See :func:`output_files`.
    files : mapping of str to path-like
        Results by kind; ``dseg`` and ``morph`` at least.
    source : str
        BIDS URI of the image.
    reference_uris : sequence of str
        BIDS URIs of the references in the ``dice`` table.
    provenance : mapping
        Fields for the label map's sidecar.

    Returns
    -------
    list of str
        Absolute paths of all files written. The label map's sidecar is written last: where it
        exists, the other files do too.
    """
    root = Path(out_dir)
    sidecars: dict[str, dict[str, Any]] = {
        'dseg': label_map_sidecar(source, provenance),
        'probseg': posteriors_sidecar(source, provenance),
        'morph': {'Sources': [source], **MORPH_COLUMNS},
        'dice': {'Sources': [source, *reference_uris], **DICE_COLUMNS},
    }
    marker = root / f'{stem}_dseg.json'
    outdated = _differs(_read(marker), provenance)
    marker.unlink(missing_ok=True)
    if outdated:
        # What an earlier model or image left must not stand beside the new label map.
        for name in output_files(stem, [kind for kind in EXTENSIONS if kind not in files]):
            (root / name).unlink(missing_ok=True)
    written = []
    for kind in sorted(files, key=lambda kind: kind == 'dseg'):
        data, sidecar = (root / name for name in output_files(stem, [kind]))
        copy_file(Path(files[kind]), data)
        write_json(sidecar, sidecars[kind])
        written += [str(data), str(sidecar)]
    return written


def is_up_to_date(
    out_dir: Path,
    stem: str,
    kinds: Sequence[str],
    reference_uris: Sequence[str],
    expected: Mapping[str, Any],
) -> bool:
    """Tell whether an image's outputs exist and another run would give the same.

    Parameters
    ----------
    out_dir : Path
    stem : str
    kinds : sequence of str
        What is wanted.
    reference_uris : sequence of str
        References that the ``dice`` table should hold, where one is wanted.
    expected : mapping
        ``SoftwareVersion``, ``ModelSHA256``, ``FlipAveraging`` and ``InputSHA256`` of a new run.
    """
    if not all((out_dir / name).is_file() for name in output_files(stem, kinds)):
        return False
    if _differs(_read(out_dir / f'{stem}_dseg.json'), expected):
        return False
    if 'dice' not in kinds:
        return True
    return {*reference_uris} <= {*_read(out_dir / f'{stem}_dice.json').get('Sources', [])}


def _differs(sidecar: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    return any(sidecar.get(field) != expected.get(field) for field in _IDENTITY)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
