"""Write the outputs of one image, and find out whether they are up to date."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from synthseg_bids.external.methods import OURS

from ..files import copy_file, write_json, write_text
from .damage import damage, read_marker
from .metadata import label_map_sidecar, posteriors_sidecar
from .names import TISSUE_SEG, parcels_seg
from .records import record, seal
from .tables import APARC_STATS, ASEG_STATS, DICE_COLUMNS, MORPH_COLUMNS, QC_COLUMNS
from .tissues import tissue_sidecars

#: Suffix and extension of every kind of output.
_ENDS = {
    'dseg': 'dseg.nii.gz',
    'dseg1mm': 'dseg.nii.gz',
    'probseg': 'probseg.nii.gz',
    'probseg1mm': 'probseg.nii.gz',
    'brain_mask': 'mask.nii.gz',
    'intracranial_mask': 'mask.nii.gz',
    'tissues': 'dseg.nii.gz',
    'gm': 'probseg.nii.gz',
    'wm': 'probseg.nii.gz',
    'csf': 'probseg.nii.gz',
    'five_tissue': 'probseg.nii.gz',
    'parcels': 'dseg.nii.gz',
    'parcels1mm': 'dseg.nii.gz',
    'morph': 'morph.tsv',
    'aseg': 'aseg.stats',
    'aparc': 'aparc.stats',
    'qc': 'qc.tsv',
    'dice': 'dice.tsv',
}
#: Entities of kinds that share a suffix with others.
_ENTITIES = {
    'dseg1mm': '_res-1mm',
    'probseg1mm': '_res-1mm',
    'parcels1mm': '_res-1mm',
    'brain_mask': '_label-brain',
    'intracranial_mask': '_label-intracranial',
    'gm': '_label-GM',
    'wm': '_label-WM',
    'csf': '_label-CSF',
}
#: What kinds of another division append to the name of the segmentation.
_DIVISIONS = {'tissues': TISSUE_SEG, 'five_tissue': '5tt'}
#: Kinds that are named after their division alone.
_PARCELS = ('parcels', 'parcels1mm')
#: Kinds that there are with parcels alone.
_OF_PARCELS = (*_PARCELS, 'aparc')
#: Field of the sidecar that identifies the network of parcels.
PARCEL_MODEL_FIELD = 'ParcelModelSHA256'
#: Kinds of figures.
FIGURES = ('scan', 'dseg', 'parcels')
#: The files of each image that was segmented together with others.
TOGETHER_KINDS = ('dseg', 'morph', 'qc')
#: Fields of the sidecar of a single segmentation that hold for one with others, too.
SHARED_FIELDS = (
    'SoftwareVersion', 'ModelName', 'ModelSHA256', 'FlipAveraging', 'Autocrop', 'CT', 'Lesions',
    'LesionLabel', 'HounsfieldWindow', 'InputSHA256',
)  # fmt: skip
#: Fields of the label map's sidecar that decide the result, and their names in messages.
_IDENTITY = {
    'SoftwareVersion': 'version',
    'ModelSHA256': 'model',
    'FlipAveraging': '--fast',
    'Autocrop': '--autocrop',
    'CT': '--ct',
    'Lesions': '--lesions',
    'MethodVersion': 'version of the method',
    'MethodOptions': 'options of the method',
    'InputSHA256': 'image',
}


def output_files(stem: str, kinds: Sequence[str]) -> list[str]:
    """List the files of one image, relative to the output dataset.

    Parameters
    ----------
    stem : str
        Relative path up to the suffix, e.g. ``sub-01/anat/sub-01_seg-synthseg_desc-T1w``.
    kinds : sequence of str
        See :meth:`synthseg_bids.bids.image_record.ImageRecord.kinds`.

    Examples
    --------
    >>> output_files('sub-01/anat/sub-01_desc-T1w', ['morph'])
    ['sub-01/anat/sub-01_desc-T1w_morph.tsv', 'sub-01/anat/sub-01_desc-T1w_morph.json']
    >>> output_files('sub-01_desc-T1w', ['dseg1mm'])[0]
    'sub-01_res-1mm_desc-T1w_dseg.nii.gz'
    >>> output_files('sub-01_seg-synthseg_desc-T1w', ['brain_mask', 'tissues'])[::2]
    ['sub-01_label-brain_desc-T1w_mask.nii.gz', 'sub-01_seg-synthsegtissue_desc-T1w_dseg.nii.gz']
    >>> output_files('sub-01_seg-synthseg_desc-T1w', ['parcels1mm'])[0]
    'sub-01_seg-aparcaseg_res-1mm_desc-T1w_dseg.nii.gz'
    """
    names = []
    for kind in kinds:
        start, _, contrast = stem.rpartition('_desc-')
        if kind.endswith('_mask'):  # BIDS allows no seg there
            start = start.partition('_seg-')[0]
        elif kind in _PARCELS:
            start, _, seg = start.partition('_seg-')
            start = f'{start}_seg-{parcels_seg(seg)}'
        start += _DIVISIONS.get(kind, '') + _ENTITIES.get(kind, '')
        name = f'{start}_desc-{contrast}_{_ENDS[kind]}'
        names += [name, f'{name.partition(".")[0]}.json']
    return names


def _marker(kinds: Collection[str]) -> str:
    """Choose the kind whose sidecar is written last, and records how all were made."""
    return 'dseg' if 'dseg' in kinds else 'dseg1mm'


def _kinds_of(stem: str) -> list[str]:
    """List the kinds that may be named after a stem: those that name no method are ours."""
    masks, parcels = f'_seg-{OURS}_' in stem, f'_seg-{OURS}' in stem
    return [
        kind
        for kind in _ENDS
        if (masks or not kind.endswith('_mask')) and (parcels or kind not in _PARCELS)
    ]


def figure_files(stem: str) -> dict[str, str]:
    """Name the figures of one image, relative to the output dataset.

    Parameters
    ----------
    stem : str
        See :func:`output_files`.

    Returns
    -------
    dict of str to str
        ``scan``: slices of the image; ``dseg``: the same slices of its label map; ``parcels``:
        the same of the one with parcels, if there is one.

    Examples
    --------
    >>> figure_files('sub-01/ses-a/anat/sub-01_ses-a_desc-T1w')['scan']
    'sub-01/figures/sub-01_ses-a_desc-T1w_scan.png'
    """
    path = PurePosixPath(stem)
    folder = PurePosixPath(path.parts[0], 'figures')
    return {kind: str(folder / f'{path.name}_{kind}.png') for kind in FIGURES}


def save_image_outputs(
    out_dir: str | Path,
    stem: str,
    files: Mapping[str, str | Path],
    source: str,
    references: Mapping[str, str],
    compared: Collection[str],
    provenance: Mapping[str, Any],
    figures: Mapping[str, str | Path] | None = None,
) -> list[str]:
    """Copy the results of one image to the output dataset, each with its sidecar.

    Parameters
    ----------
    out_dir : path-like
    stem : str
        See :func:`output_files`.
    files : mapping of str to path-like
        Results by kind; a label map and ``morph`` at least.
    source : str
        BIDS URI of the image.
    references : mapping of str to str
        Checksums of all references of the image, by BIDS URI.
    compared : collection of str
        Those in the ``dice`` table; the others could not be used.
    provenance : mapping
        Fields for the label map's sidecar.
    figures : mapping of str to path-like, optional
        By kind; see :func:`figure_files`.

    Returns
    -------
    list of str
        Absolute paths of all files written. The sidecar of the label map, on the grid of the
        image if that is written, comes last: where it exists, the other files do too.
    """
    root = Path(out_dir)
    tried = [
        {'URI': uri, 'SHA256': checksum, 'Used': uri in compared}
        for uri, checksum in references.items()
    ]
    provenance = {**provenance, **({'References': tried} if tried else {})}
    sidecars: dict[str, dict[str, Any]] = {
        'dseg': label_map_sidecar(source, provenance),
        'dseg1mm': label_map_sidecar(source, provenance, on_1mm_grid=True),
        'probseg': posteriors_sidecar(source, provenance),
        'probseg1mm': posteriors_sidecar(source, provenance, on_1mm_grid=True),
        'parcels': label_map_sidecar(source, provenance),
        'parcels1mm': label_map_sidecar(source, provenance, on_1mm_grid=True),
        **tissue_sidecars(source),
        'morph': {'Sources': [source], **MORPH_COLUMNS},
        'aseg': {'Sources': [source], 'Description': ASEG_STATS},
        'aparc': {'Sources': [source], 'Description': APARC_STATS},
        'qc': {'Sources': [source], **QC_COLUMNS},
        'dice': {'Sources': [source, *compared], **DICE_COLUMNS},
    }
    markers = {kind: root / output_files(stem, [kind])[1] for kind in ('dseg', 'dseg1mm')}
    found = {kind: read_marker(marker) for kind, marker in markers.items() if marker.exists()}
    outdated = any(_changes(sidecar, provenance) for sidecar in found.values())
    for kind in markers.keys() & files.keys():
        markers[kind].unlink(missing_ok=True)
    # What an earlier model, image or reference left must not stand beside the new label map.
    stale = _kinds_of(stem) if outdated else ['dice'] if tried else []
    # The new tables say nothing of parcels that this run does not find.
    stale += [kind for kind in _kinds_of(stem) if kind in _OF_PARCELS]
    stale += [kind for kind in found if not found[kind]]  # whose sidecar is damaged
    for name in output_files(stem, [kind for kind in stale if kind not in files]):
        (root / name).unlink(missing_ok=True)
    written: list[str] = []
    # What an earlier run has written and this one does not is still what it was.
    records = _earlier(root, found)
    try:
        for kind, name in figure_files(stem).items():
            if figures and kind in figures:
                copy_file(Path(figures[kind]), root / name)
                written.append(str(root / name))
                records[name] = record(Path(figures[kind]))
            else:
                # No figure is better than that of another label map.
                (root / name).unlink(missing_ok=True)
                records.pop(name, None)
        for kind in sorted(files, key=lambda kind: kind == _marker(files)):
            data, sidecar = (root / name for name in output_files(stem, [kind]))
            copy_file(Path(files[kind]), data)
            written.append(str(data))
            # From the source file, so that an incomplete copy is noticed.
            records[data.relative_to(root).as_posix()] = record(Path(files[kind]))
            if kind not in markers:
                write_json(sidecar, sidecars[kind])
                written.append(str(sidecar))
                records[sidecar.relative_to(root).as_posix()] = record(sidecar)
        kept = {
            kind: found[kind] for kind in found if kind not in files and markers[kind].exists()
        }
        told = {kind: sidecars[kind] for kind in files if kind in markers}
        written += _write_markers(markers, {**kept, **told}, records, _marker(files))
    except OSError:
        # Half the files of an image would take the space of the status table on a full disk.
        for name in written:
            Path(name).unlink(missing_ok=True)
        raise
    return written


def _earlier(root: Path, sidecars: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the records by earlier runs of files that still exist."""
    return {
        name: noted
        for sidecar in sidecars.values()
        for name, noted in sidecar.get('Outputs', {}).items()
        if (root / name).exists()
    }


def _write_markers(
    markers: Mapping[str, Path],
    sidecars: Mapping[str, Mapping[str, Any]],
    records: Mapping[str, Any],
    last: str,
) -> list[str]:
    """Write the sidecars that record the outputs, a given one last; return their paths."""
    noted = {'Outputs': dict(sorted(records.items()))}
    kinds = sorted(sidecars, key=lambda kind: kind == last)
    for kind in kinds:
        write_text(markers[kind], seal({**sidecars[kind], **noted}))
    return [str(markers[kind]) for kind in kinds]


def single_sidecar(
    out_dir: Path, stem: str, keys: Sequence[str] = SHARED_FIELDS
) -> dict[str, Any]:
    """Read how an image was segmented on its own: what holds for it with others, too."""
    sidecars = (out_dir / output_files(stem, [kind])[1] for kind in ('dseg', 'dseg1mm'))
    content = next((found for path in sidecars if (found := read_marker(path))), {})
    return {key: content[key] for key in keys if key in content}


def has_outputs(out_dir: Path, stem: str, kinds: Collection[str]) -> bool:
    """Return whether an image was segmented before, with any model."""
    return (out_dir / output_files(stem, [_marker(kinds)])[1]).is_file()


def why_outdated(
    out_dir: Path,
    stem: str,
    kinds: Collection[str],
    references: Mapping[str, str],
    expected: Mapping[str, Any],
    verify: bool = False,
) -> str:
    """Return the reason why outputs are outdated; empty if they are up to date.

    Parameters
    ----------
    out_dir : Path
    stem : str
    kinds : collection of str
        What is wanted.
    references : mapping of str to str
        Checksums by BIDS URI of the references that it should have been compared with.
    expected : mapping
        What the sidecar of a new run would say: version, model or method, options, image.
    verify : bool
        Whether to read the outputs, and not only look at their sizes.
    """
    path = out_dir / output_files(stem, [_marker(kinds)])[1]
    marker = read_marker(path)
    if not marker:
        return f'{path.name} is damaged' if path.exists() else 'no outputs yet'
    for other in (out_dir / output_files(stem, [kind])[1] for kind in ('dseg', 'dseg1mm')):
        if other.exists() and not read_marker(other):
            return f'{other.name} is damaged'
    if changes := _changes(marker, expected) or _why_other_parcels(marker, expected):
        return changes
    tried = {entry['URI']: entry for entry in marker.get('References', [])}
    for uri, checksum in references.items():
        if tried.get(uri, {}).get('SHA256') != checksum:
            return f'{uri} changed' if uri in tried else f'not compared with {uri}'
    # There is no table where no reference could be used.
    used = any(tried[uri]['Used'] for uri in references)
    needed = [kind for kind in kinds if kind != 'dice' or used]
    for name in output_files(stem, needed):
        if not (out_dir / name).is_file():
            return f'{name.rpartition("/")[2]} is missing'
    wrong = damage(out_dir, path, verify)
    for name in [*output_files(stem, needed), *figure_files(stem).values()]:
        if name in wrong:
            return f'{name.rpartition("/")[2]} {wrong[name]}'
    return ''


def _why_other_parcels(sidecar: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    known, wanted = sidecar.get(PARCEL_MODEL_FIELD), expected.get(PARCEL_MODEL_FIELD)
    # A run that is not to name parcels leaves those that there are.
    if wanted in (None, known):
        return ''
    return 'model of parcels changed' if known else 'no parcels yet'


def _changes(sidecar: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    changed = [what for key, what in _IDENTITY.items() if sidecar.get(key) != expected.get(key)]
    return f'{" and ".join(changed)} changed' if changed else ''
