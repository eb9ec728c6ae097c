"""The page that shows label maps on their scans, and which files it may ask for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from synthseg_bids.bids.names import IMAGE_EXTENSIONS, parse_name, participant_folders
from synthseg_bids.bids.save import output_files
from synthseg_bids.external.methods import LONGITUDINAL, METHODS, SESSION
from synthseg_bids.images.ct import CT_RANGE, CT_SUFFIXES
from synthseg_bids.labels import Label, segmentation_labels
from synthseg_bids.parcels import aparcaseg_labels

from .page import fill
from .quality import read_quality
from .structures import parcels, sided_name, structures
from .tree import Image, inside, read_json, session_page

#: On the grid of the image, and on that of 1 mm where there is no other.
_KINDS = ('dseg', 'dseg1mm')
#: Of each the one that has parcels in the place of the cortex.
_PARCELS = {'dseg': 'parcels', 'dseg1mm': 'parcels1mm'}
_SEGMENTATIONS = tuple(method.seg for method in (*METHODS.values(), SESSION, LONGITUDINAL))
#: The dataset of the scans, as sources name it.
_RAW = 'raw'


@dataclass(frozen=True)
class LabelMap:
    """A label map of an output dataset.

    Attributes
    ----------
    image : Image
        What was segmented.
    path : str
        Relative to the dataset.
    sidecar : dict of str to object
    parcels : str
        Path of the label map with parcels of the cortex, if there is one; empty otherwise.
    """

    image: Image
    path: str
    sidecar: dict[str, Any]
    parcels: str = ''


def list_label_maps(out_dir: Path, participant: str) -> list[LabelMap]:
    """Return the label maps of a participant, one for each image and method.

    Parameters
    ----------
    out_dir : Path
        The output dataset.
    participant : str
        Its folder.
    """
    found: dict[str, LabelMap] = {}
    # On two grids the image's own comes first: "desc" is before "res".
    for path in sorted((out_dir / participant).glob('**/anat/*_dseg.json')):
        if label_map := _read(out_dir, path.relative_to(out_dir).as_posix()):
            found.setdefault(label_map.image.stem, label_map)
    return list(found.values())


def _read(out_dir: Path, relative: str) -> LabelMap | None:
    """Read the sidecar of a label map, if it is one that we have written and that is there."""
    parsed = parse_name(relative.rpartition('/')[2])
    sidecar = read_json(out_dir / relative) if inside(out_dir, relative) else {}
    sources = sidecar.get('Sources')
    if parsed is None or parsed[0].get('seg') not in _SEGMENTATIONS:
        return None
    if not isinstance(sources, list) or not sources:
        return None
    image = Image(str(sources[0]), method=parsed[0]['seg'])
    for kind in _KINDS if image.stem else ():
        label_map, own = output_files(image.stem, [kind])
        if own == relative and inside(out_dir, label_map):
            parcels = output_files(image.stem, [_PARCELS[kind]])[0]
            return LabelMap(image, label_map, sidecar, parcels if inside(out_dir, parcels) else '')
    return None


def find_label_map(out_dir: Path, stem: str) -> LabelMap | None:
    """Return the label map of an image by the stem of its outputs; None if there is none."""
    participant = stem.partition('/')[0]
    if participant not in participant_folders(out_dir):
        return None
    maps = list_label_maps(out_dir, participant)
    return next((found for found in maps if found.image.stem == stem), None)


def find_scan(out_dir: Path, source: str, bids_dir: Path | None = None) -> Path | None:
    """Return the image that a label map was made from.

    Parameters
    ----------
    out_dir : Path
        The output dataset, whose description says where the dataset of the image is.
    source : str
        BIDS URI of the image.
    bids_dir : Path, optional
        Where the raw dataset is, if it is elsewhere by now.

    Returns
    -------
    Path or None
        None if it is not there, is no NIfTI image with a BIDS name, or leads out of its dataset.
    """
    scheme, _, rest = source.partition(':')
    dataset, _, quoted = rest.partition(':')
    relative = unquote(quoted, errors='surrogateescape')
    parsed = parse_name(relative.rpartition('/')[2])
    if scheme != 'bids' or parsed is None or parsed[2] not in IMAGE_EXTENSIONS:
        return None
    roots = [bids_dir] if bids_dir and dataset == _RAW else _linked(out_dir, dataset)
    return next((found for root in roots if (found := inside(root, relative))), None)


def _linked(out_dir: Path, dataset: str) -> list[Path]:
    """List where a dataset may be, by the description of the output dataset."""
    description = read_json(out_dir / 'dataset_description.json')
    links, sources = (description.get(key) for key in ('DatasetLinks', 'SourceDatasets'))
    named = [links.get(dataset)] if isinstance(links, dict) else []
    if isinstance(sources, list):
        named += [one.get('URL') for one in sources if isinstance(one, dict)]
    paths = [str(link).removeprefix('file://') for link in named if link]
    return [out_dir / path for path in paths if '://' not in path]


def viewer_page(
    out_dir: Path, participant: str, stem: str = '', bids_dir: Path | None = None
) -> str:
    """Return the page of a participant.

    Parameters
    ----------
    out_dir : Path
        The output dataset.
    participant : str
        Its folder.
    stem : str
        Of the outputs of the image to show (default: the first one).
    bids_dir : Path, optional
        See :func:`find_scan`.

    Returns
    -------
    str
        HTML. Addresses are relative to a folder beside ``tree/``, in which the dataset is, and
        ``scan/``, in which there is a scan for each stem.
    """
    people = participant_folders(out_dir)
    maps = list_label_maps(out_dir, participant)
    shown = next((m for m in maps if m.image.stem == stem), maps[0] if maps else None)
    place = people.index(participant)
    content = {
        'participants': people,
        'participant': participant,
        'neighbours': (people[place - 1 : place], people[place + 1 : place + 2]),
        'images': [(m.image, read_quality(out_dir, m.image)[0]) for m in maps],
        'shown': shown and shown.image,
        'group': (out_dir / 'group.html').is_file(),
    }
    if shown:
        content |= _describe(out_dir, shown, find_scan(out_dir, shown.image.source, bids_dir))
    return fill('viewer.html.j2', content)


def _describe(out_dir: Path, shown: LabelMap, scan: Path | None) -> dict[str, Any]:
    """Gather what the script draws, and what is written beside it."""
    image = shown.image
    lesions = bool(shown.sidecar.get('LesionLabel'))
    is_ct = shown.sidecar.get('CT') is True or image.contrast in CT_SUFFIXES
    pages = [session_page(image), f'{image.participant}.html']
    layers = [{'volume': _volume(shown.path), 'table': _table(segmentation_labels(lesions))}]
    if shown.parcels:
        with_parcels = _table(aparcaseg_labels(lesions))
        layers.append({'volume': _volume(shown.parcels), 'table': with_parcels})
    drawn: dict[str, Any] = {'layers': layers}
    if scan:
        # The end of the name says how it is packed.
        window = dict(zip(('cal_min', 'cal_max'), CT_RANGE, strict=True)) if is_ct else {}
        url = f'../scan/{quote(image.stem)}'
        drawn['scan'] = {'url': url, 'name': image.file_name, **window}
    return {
        'report': next((page for page in pages if (out_dir / page).is_file()), ''),
        'has_scan': scan is not None,
        'legends': [structures(lesions), *([parcels()] if shown.parcels else [])],
        'drawn': drawn,
    }


def _volume(path: str) -> dict[str, str]:
    return {'url': f'../tree/{quote(path)}', 'name': Path(path).name}


def _table(labels: Iterable[Label]) -> list[dict[str, Any]]:
    return [
        {'index': x.index, 'rgb': x.rgb, 'name': sided_name(x) if x.index else ''} for x in labels
    ]
