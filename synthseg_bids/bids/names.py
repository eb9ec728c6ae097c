"""File names: taking BIDS names apart and naming derivatives after their source image.

A derivative keeps every entity of its source, so that no two images share an output, and names
the source's suffix in ``desc``: ``sub-01_run-2_T2w`` becomes
``sub-01_run-2_seg-synthseg_desc-T2w_dseg``. Entities that BIDS does not allow on a label map
(``inv``, ``flip``, ...) are appended to ``desc``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from synthseg_bids.external.methods import OURS

#: Entities that a source hands on to its derivatives, in the order BIDS wants.
SOURCE_ENTITIES = ('sub', 'ses', 'task', 'acq', 'ce', 'rec', 'run', 'echo', 'part', 'chunk')
#: Entities that say which processing, not which image, a derivative came from.
DERIVATIVE_ENTITIES = ('hemi', 'space', 'atlas', 'seg', 'scale', 'res', 'den', 'label', 'desc')
IMAGE_EXTENSIONS = ('.nii.gz', '.nii')
#: Kinds of masks and tissue maps, by the option that asks for them.
TISSUE_KINDS = {
    'masks': ('brain_mask', 'intracranial_mask'),
    'tissue_maps': ('tissues', 'gm', 'wm', 'csf'),
    'five_tissue': ('five_tissue',),
}
#: What the name of a segmentation ends with where it has three tissues, not structures.
TISSUE_SEG = 'tissue'
#: Name of the segmentation that has parcels in the place of the cortex; see :func:`parcels_seg`.
PARCELS_SEG = 'aparcaseg'

_ENTITY = re.compile(r'([a-zA-Z]+)-([a-zA-Z0-9+]+)')


def split_extension(name: str) -> tuple[str, str]:
    """Split ``name`` at its first dot.

    Examples
    --------
    >>> split_extension('sub-01_T1w.nii.gz')
    ('sub-01_T1w', '.nii.gz')
    """
    stem, dot, extension = name.partition('.')
    return stem, dot + extension


def parse_name(name: str) -> tuple[dict[str, str], str, str] | None:
    """Take a BIDS file name apart.

    Parameters
    ----------
    name : str
        File name without folders.

    Returns
    -------
    tuple of (entities, suffix, extension) or None
        None if the name does not follow BIDS.

    Examples
    --------
    >>> parse_name('sub-01_run-2_T1w.nii.gz')
    ({'sub': '01', 'run': '2'}, 'T1w', '.nii.gz')
    >>> parse_name('scan.nii') is None
    True
    """
    stem, extension = split_extension(name)
    *parts, suffix = stem.split('_')
    matches = [_ENTITY.fullmatch(part) for part in parts]
    entities = {match[1]: match[2] for match in matches if match}
    well_formed = len(entities) == len(parts) and suffix.isalnum()
    if not well_formed or next(iter(entities), None) != 'sub':
        return None
    return entities, suffix, extension


def has_tissues(name: str) -> bool:
    """Tell whether a label map, by its name, has three tissues instead of structures.

    Examples
    --------
    >>> has_tissues('sub-01_seg-synthsegtissue_desc-T1w_dseg.nii.gz')
    True
    """
    return re.search(f'_seg-[a-zA-Z0-9]*{TISSUE_SEG}_', name) is not None


def has_parcels(name: str) -> bool:
    """Tell whether a label map, by its name, has the parcels of our own network.

    Examples
    --------
    >>> has_parcels('sub-01_seg-aparcasegsession_desc-T1w_dseg.nii.gz')
    True
    """
    return f'_seg-{PARCELS_SEG}' in name


def parcels_seg(seg: str) -> str:
    """Name a segmentation of ours with parcels in the place of the cortex.

    Examples
    --------
    >>> [parcels_seg(seg) for seg in ('synthseg', 'synthsegsession', 'synthseglong')]
    ['aparcaseg', 'aparcasegsession', 'aparcaseglong']
    """
    return PARCELS_SEG + seg.removeprefix(OURS)


def derivative_stem(entities: Mapping[str, str], suffix: str, seg: str = 'synthseg') -> str:
    """Name the derivatives of one image, up to but without their own suffix.

    Parameters
    ----------
    entities : mapping of str to str
        Entities of the source image.
    suffix : str
        Suffix of the source image.
    seg : str
        Name of the segmentation.

    Returns
    -------
    str

    Examples
    --------
    >>> derivative_stem({'sub': '01', 'run': '2'}, 'T2w')
    'sub-01_run-2_seg-synthseg_desc-T2w'
    >>> derivative_stem({'sub': '01', 'inv': '2'}, 'MP2RAGE')
    'sub-01_seg-synthseg_desc-MP2RAGEinv2'
    """
    kept = [f'{key}-{entities[key]}' for key in SOURCE_ENTITIES if key in entities]
    folded = ''.join(
        f'{key}{value}' for key, value in entities.items() if key not in SOURCE_ENTITIES
    )
    return '_'.join([*kept, f'seg-{seg}', f'desc-{suffix}{folded}'])


def anat_folder(entities: Mapping[str, str]) -> PurePosixPath:
    """Return the ``anat`` folder of a subject or session, relative to the dataset."""
    levels = [f'{key}-{entities[key]}' for key in ('sub', 'ses') if key in entities]
    return PurePosixPath(*levels, 'anat')


def participant_folders(out_dir: Path) -> list[str]:
    """Return the names of the participants' folders of a dataset, sorted."""
    return sorted(path.name for path in out_dir.glob('sub-*') if path.is_dir())


def anat_files(out_dir: Path, pattern: str, participant: str = 'sub-*') -> Iterator[Path]:
    """Yield files of the ``anat`` folders of a dataset, sorted, those of sessions last.

    Parameters
    ----------
    out_dir : Path
    pattern : str
        Pattern that the file names match, with wildcards.
    participant : str
        Name of a participant's folder (default: of all).
    """
    for folder in ('anat', 'ses-*/anat'):
        yield from sorted(out_dir.glob(f'{participant}/{folder}/{pattern}'))


def bids_uri(dataset: str, relative: str) -> str:
    """Name a file of a linked dataset, e.g. ``bids:raw:sub-01/anat/sub-01_T1w.nii.gz``."""
    # Names need not be UTF-8; their bytes are what is quoted.
    return f'bids:{dataset}:{quote(relative, safe="/+", errors="surrogateescape")}'


def uri_path(uri: str) -> str:
    """Return what a BIDS URI names, relative to its dataset; see :func:`bids_uri`.

    Examples
    --------
    >>> uri_path('bids:raw:sub-01/anat/sub-01_T1w.nii.gz')
    'sub-01/anat/sub-01_T1w.nii.gz'
    """
    return unquote(uri.split(':', 2)[-1])
