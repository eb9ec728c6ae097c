"""The files that describe the output dataset, and the sidecars of its label maps."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from synthseg_bids import __version__
from synthseg_bids.external.colour_tables import write_colour_table
from synthseg_bids.external.methods import LONGITUDINAL, METHODS, OURS, Method
from synthseg_bids.labels import Label, segmentation_labels
from synthseg_bids.parcels import aparcaseg_labels

from .. import files
from ..files import write_json, write_table, write_text
from .errors import QueryError
from .names import TISSUE_SEG, parcels_seg
from .tissues import write_tissue_lookup

APP = 'synthseg-bids'
BIDS_VERSION = '1.10.1'

logger = logging.getLogger(__name__)

# "figures" without a closing slash: with one, the validator does not ignore the folder.
_BIDSIGNORE = """*.html
sub-*/figures
*_morph.*
*_aseg.*
*_aparc.*
*_dice.*
*_qc.*
*_agreement.*
*_change.*
*_xfm.*
seg-*_dseg.ctab
seg-*_dseg.label
seg-*_dseg.ctbl
group_*
"""

_README = """# Whole-brain segmentations

Made by synthseg-bids. `seg-` in a name, and `method` in a table, say by which method: `synthseg`
is a network trained only on images synthesised from label maps, which therefore segments scans of
any contrast and resolution; `samseg` and `mrisynthseg`, where they were asked for, are SAMSEG and
the SynthSeg of FreeSurfer, their labels folded to the same ones.

Every image of the source dataset has its own files, named after it:

- `*_seg-<method>_desc-<suffix>_dseg.nii.gz`: the label map, on the voxel grid of the image
  `<suffix>` (T1w, T2w, ...). `seg-<method>_dseg.tsv` lists the labels; their numbers are those
  of FreeSurfer. So do, with their colours, `.ctab` for FreeSurfer's freeview, `.label` for
  ITK-SNAP and `.ctbl` for 3D Slicer.
- `*_probseg.nii.gz` (on request): the posterior probability of every label, in the order that
  `LabelMap` gives in the sidecar.
- `*_res-1mm_*` (on request): the same on a grid of 1 mm over the field of view of the image, its
  axes along R, A and S as closely as swapping and flipping those of the image allows.
- `*_label-brain_*_mask.nii.gz`: brain and ventricles with the fluid in sulci and cisterns;
  `*_label-intracranial_*_mask.nii.gz`: all that is inside the skull.
- `*_seg-<method>tissue_*_dseg.nii.gz` (on request): grey matter (1), white matter (2) and
  cerebrospinal fluid (3); `*_label-<GM|WM|CSF>_*_probseg.nii.gz`: their probabilities.
- `*_seg-<method>5tt_*_probseg.nii.gz` (on request): the five-tissue-type image of MRtrix.
- `*_seg-aparcaseg_*_dseg.nii.gz` (on request): the label map with the 68 parcels of the
  Desikan-Killiany atlas in the place of the cortex, numbered as in the aparc+aseg of FreeSurfer;
  `seg-aparcaseg_dseg.tsv` lists its labels. `seg-aparcasegsession` and `seg-aparcaseglong`: that
  of images segmented together.
- `*_morph.tsv`: the volume of every structure, and of every parcel, if there are any.
  `volume_mm3` counts voxels of the label map, `soft_volume_mm3` sums posterior probabilities,
  where the method gives any, and is less sensitive to large voxels.
- `*_aseg.stats` (on request): the same as `volume_mm3`, with the intensities of the image, in
  the format of FreeSurfer: `asegstats2table --inputs` joins those of many images.
  `*_aparc.stats`: that of the parcels.
- `*_qc.tsv`: measures of quality; the last row is the verdict (pass, review or fail) with its
  reasons.
- `*_dice.tsv`: the overlap with a reference segmentation, where one was given.
- `*_seg-synthsegsession_*` (on request): the images of a session segmented together, each on its
  own grid, and once on a grid of 1 mm halfway between them (`space-session`);
  `*_from-<one>_to-<other>_mode-image_xfm.txt`: the rigid transforms between them, in the format
  of ITK.
- `*_agreement.tsv`: how well the segmentations of the images of a session agree.
- `*_seg-synthseglong_*` (on request): label maps and volumes of all visits of a participant,
  by the mean of all, which follows what changes; `*_seg-synthseglong_change.tsv`: the annual
  change of every structure; `*_to-midspace_*_xfm.txt`: the transform (ITK) of each image to the
  space halfway between all visits.

`group_status.tsv` names every image that was looked at and says what became of it; the other
`group_*.tsv` gather the tables of all images. `group_morph.tsv` (a row per image) and
`group_morph_long.tsv` (a row per image and structure) join participants.tsv, sessions.tsv and the
scanners of the raw dataset, and correct volumes for the size of the head. `group_brainchart.csv`
(on request) is for the brain charts of Bethlehem et al., 2022. Each table has a data dictionary of
the same name.
`sub-*.html` and `group.html` are reports, each in a single file. `logs/` holds the log and the
settings of every run, and a text for a methods section (`CITATION.md`).

Images are never averaged, and the segmentation of a single image uses no other one. Intended for
research, not for diagnosis.
"""

_RESOLUTION = (
    'Voxels of 1 mm over the field of view of the image, their axes swapped and flipped to run '
    'along R, A and S as closely as they can'
)
_LOOKUP_COLUMNS = ('index', 'name', 'abbreviation', 'color', 'mapping')


def describe_dataset(
    out_dir: Path,
    bids_dir: Path,
    derivatives: Mapping[str, Path],
    method: Method = METHODS[OURS],
    tissues: bool = False,
    parcels: bool = False,
) -> None:
    """Write the files at the root of the output dataset.

    Parameters
    ----------
    out_dir : Path
        Made if need be.
    bids_dir : Path
        The raw dataset.
    derivatives : mapping of str to Path
        Other datasets that URIs may refer to, by name.
    method : Method
        What segments the images.
    tissues : bool
        Whether label maps of the three tissues are written, too.
    parcels : bool
        Whether label maps with parcels of the cortex are written, too.

    Raises
    ------
    QueryError
        If the folder already holds a dataset that we did not make.
    """
    raw = read_description(bids_dir) or {}
    previous = read_description(out_dir)
    refuse_foreign_dataset(out_dir)
    links = dict((previous or {}).get('DatasetLinks', {}))
    links |= {name: relative_path(path, out_dir) for name, path in derivatives.items()}
    links['raw'] = relative_path(bids_dir, out_dir)
    write_label_lookup(out_dir, method)
    if tissues:
        write_tissue_lookup(out_dir / f'seg-{method.seg}{TISSUE_SEG}_dseg.tsv')
    if parcels:
        write_parcel_lookup(out_dir)
    methods = [m.title for m in METHODS.values() if _lookup(out_dir, m).exists()]
    name = f'{" and ".join(methods)} segmentations of {raw.get("Name") or "a BIDS dataset"}'
    write_description(out_dir, name, raw, links)
    write_text(out_dir / '.bidsignore', _BIDSIGNORE)
    write_text(out_dir / 'README.md', _README)
    if not (out_dir / 'CHANGES').exists():
        write_text(out_dir / 'CHANGES', f'{__version__}\n  - Made by {APP} {__version__}.\n')


def write_description(
    folder: Path, name: str, raw: Mapping[str, Any], links: Mapping[str, str]
) -> None:
    """Write ``dataset_description.json`` of a dataset that we make.

    Parameters
    ----------
    folder : Path
    name : str
        What it holds.
    raw : mapping
        Description of the raw dataset, from which authors and license are taken.
    links : mapping of str to str
        Datasets that BIDS URIs refer to, by name; ``raw`` at least.
    """
    description: dict[str, Any] = {
        'Name': name,
        'BIDSVersion': BIDS_VERSION,
        'DatasetType': 'derivative',
        'GeneratedBy': [_generated_by()],
        'SourceDatasets': [{'URL': links['raw']}],
        'DatasetLinks': dict(links),
        'HowToAcknowledge': 'Cite Billot et al., A Learning Strategy for Contrast-agnostic MRI '
        'Segmentation, MIDL 2020, and Billot et al., SynthSeg: Segmentation of brain MRI scans of '
        'any contrast and resolution without retraining, Medical Image Analysis 86:102789, 2023, '
        'and name synthseg-bids with its version. logs/CITATION.md has a methods text.',
    }
    description |= {key: raw[key] for key in ('License', 'Authors') if raw.get(key)}
    if str(raw.get('DatasetDOI', '')).startswith('doi:'):
        description['SourceDatasets'][0]['DOI'] = raw['DatasetDOI']
    write_json(folder / 'dataset_description.json', description)


def refuse_foreign_dataset(out_dir: Path) -> None:
    """Raise QueryError if the folder holds a dataset of another program."""
    description = read_description(out_dir)
    if description is not None and not is_ours(description):
        raise QueryError(
            f'{out_dir}: holds another dataset ({description.get("Name", "no name")}); '
            'give an empty folder for the output'
        )


def is_ours(description: Mapping[str, Any]) -> bool:
    """Tell by the description of a dataset whether we made it."""
    tools = description.get('GeneratedBy')
    first = tools[0] if isinstance(tools, list) and tools and isinstance(tools[0], dict) else {}
    return first.get('Name') == APP


def read_description(folder: Path) -> dict[str, Any] | None:
    """Read ``dataset_description.json``; None if it is absent, with a warning if it is broken."""
    path = folder / 'dataset_description.json'
    return files.read_description(path) if path.exists() else None


def _generated_by() -> dict[str, Any]:
    entry: dict[str, Any] = {'Name': APP, 'Version': __version__}
    # Set in our images, so that a dataset tells which one made it.
    if tag := os.environ.get('SYNTHSEG_BIDS_DOCKER_TAG'):
        entry['Container'] = {'Type': 'docker', 'Tag': tag}
    elif uri := os.environ.get('SYNTHSEG_BIDS_SINGULARITY_URL'):
        entry['Container'] = {'Type': 'singularity', 'URI': uri}
    return entry


def relative_path(path: Path, start: Path) -> str:
    """Return the path of one dataset as seen from another, for its links."""
    return Path(os.path.relpath(path.resolve(), start.resolve())).as_posix()


def _lookup(out_dir: Path, method: Method) -> Path:
    return out_dir / f'seg-{method.seg}_dseg.tsv'


def write_label_lookup(out_dir: Path, method: Method = METHODS[OURS]) -> None:
    """Write ``seg-synthseg_dseg.tsv``, colour tables for viewers, and the common sidecar."""
    lookup = _lookup(out_dir, method)
    _write_lookup(lookup, segmentation_labels(lesions=True))
    who = f'{method.title}, folded to the labels of synthseg-bids'
    if method.name == OURS:
        who = 'a network trained on synthetic images'
    if method is LONGITUDINAL:
        who = 'such a network, by the mean of all visits of a participant'
    shared = {'Description': f'Segmentation of brain structures by {who}', 'Manual': False}
    write_json(lookup.with_suffix('.json'), shared)


def write_parcel_lookup(out_dir: Path, method: Method = METHODS[OURS]) -> None:
    """Write ``seg-aparcaseg_dseg.tsv`` and the other tables of label maps with parcels."""
    lookup = out_dir / f'seg-{parcels_seg(method.seg)}_dseg.tsv'
    _write_lookup(lookup, aparcaseg_labels(lesions=True), parcels=True)
    what = (
        'Segmentation of brain structures, with the parcels of the Desikan-Killiany atlas '
        '(Desikan et al., NeuroImage 31:968, 2006) in the place of the cortex, by networks '
        'trained on label maps and synthetic images'
    )
    write_json(lookup.with_suffix('.json'), {'Description': what, 'Manual': False})


def _write_lookup(lookup: Path, labels: Iterable[Label], parcels: bool = False) -> None:
    """Write a table of labels, and colour tables for viewers."""
    rows = (
        {
            'index': label.index,
            'name': label.name,
            'abbreviation': label.abbreviation,
            'color': label.color,
            'mapping': 0 if label.index == 0 else label.mapping,
        }
        for label in labels
    )
    write_table(lookup, _LOOKUP_COLUMNS, rows)
    for end in ('.ctab', '.label', '.ctbl'):
        write_colour_table(lookup.with_suffix(end), lesions=True, parcels=parcels)


def write_descriptions(
    out_dir: Path, descriptions: Sequence[str], longitudinal: bool = False
) -> None:
    """Write ``descriptions.tsv``: what each ``desc`` stands for.

    Parameters
    ----------
    out_dir : Path
    descriptions : sequence of str
        The ``desc`` labels in use; none, no file.
    longitudinal : bool
        Whether visits were segmented together, too.
    """
    if not descriptions:
        return
    more = f'; with seg-{LONGITUDINAL.seg}, from all visits' if longitudinal else ''
    rows = (
        {'desc_id': f'desc-{label}', 'description': f'Derived from the {label} image alone{more}'}
        for label in descriptions
    )
    write_table(out_dir / 'descriptions.tsv', ('desc_id', 'description'), rows)
    write_json(
        out_dir / 'descriptions.json',
        {
            'Description': 'What the desc entities of this dataset stand for.',
            'desc_id': {'Description': 'The desc entity.'},
            'description': {'Description': 'What it stands for.'},
        },
    )


def label_map_sidecar(
    source: str, provenance: Mapping[str, Any], on_1mm_grid: bool = False
) -> dict[str, Any]:
    """Describe a label map.

    Parameters
    ----------
    source : str
        BIDS URI of the source image.
    provenance : mapping of str to object
        What the segmentation says about itself: ``InputSHA256``, ``ModelSHA256``, ...
    on_1mm_grid : bool
        Whether it does not lie on the grid of the source image.
    """
    resolution = {'Resolution': _RESOLUTION} if on_1mm_grid else {}
    return {'Sources': [source], 'SpatialReference': source, **resolution, **provenance}


def describe_posteriors(names: Sequence[str]) -> dict[str, Any]:
    """Describe posterior maps, and name their volumes."""
    return {
        'Description': 'Posterior probability of each label, 0 to 1',
        'LabelMap': list(names),
    }


def posteriors_sidecar(
    source: str, provenance: Mapping[str, Any], on_1mm_grid: bool = False
) -> dict[str, Any]:
    """Describe posterior maps; ``LabelMap`` names their volumes."""
    lesions = bool(provenance.get('LesionLabel'))
    labels = [label.abbreviation for label in segmentation_labels(lesions)]
    return {**describe_posteriors(labels), **label_map_sidecar(source, provenance, on_1mm_grid)}
