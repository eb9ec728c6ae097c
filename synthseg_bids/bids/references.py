"""Reference segmentations: which label map of another dataset belongs to an image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .image_record import ImageRecord
from .names import DERIVATIVE_ENTITIES, anat_folder, parse_name
from .query import DEFAULT_SUFFIXES

#: Spaces whose label maps lie on the subject's own head.
NATIVE_SPACES = ('orig', 'native', 'scanner', 'individual', 'T1w', 'T2w', 'FLAIR')
# All echoes and parts of one acquisition show the same head in the same place.
_SAME_HEAD = ('echo', 'part', 'inv', 'flip', 'mt')
#: Label maps of FreeSurfer, both of which fold to our labels; in the order of desc-aparcaseg and
#: desc-aseg below.
_RECONSTRUCTED = ('aparc+aseg.mgz', 'aseg.mgz')


def find_reference(image: ImageRecord, derivatives: Mapping[str, Path]) -> dict[str, Path]:
    """Find the reference segmentation of an image in each dataset.

    A reference belongs to an image if subject, session, acquisition and run are the same. Its
    ``desc`` may name the contrast it was drawn on (``desc-T1w``): the image's own contrast comes
    first, but another one of the same head serves too, since both lie in one world space.

    In a folder of FreeSurfer's subjects (``SUBJECTS_DIR``) it is ``mri/aparc+aseg.mgz``, else
    ``mri/aseg.mgz``, of ``sub-01_ses-1``; of ``sub-01`` if the image has no session, or is of the
    only one, since an average of several lies elsewhere than each.

    Parameters
    ----------
    image : ImageRecord
    derivatives : mapping of str to Path
        Datasets, or folders of FreeSurfer's subjects, by name.

    Returns
    -------
    dict of str to Path
        Dataset name to label map; datasets without one are left out.
    """
    found = {}
    for name, root in derivatives.items():
        candidates = []
        folder = root / anat_folder(image.entities)
        for path in sorted(folder.glob('sub-*_dseg.*')) if folder.is_dir() else ():
            rank = _rank(path, image)
            if rank is not None:
                candidates.append((rank, path.name, path))
        if candidates:
            found[name] = min(candidates)[-1]
        elif reconstructed := _reconstruction(image, root):
            found[name] = reconstructed
    return found


def _reconstruction(image: ImageRecord, subjects_dir: Path) -> Path | None:
    """Find the label map that FreeSurfer made of the head of an image."""
    subject, session = f'sub-{image.entities["sub"]}', image.entities.get('ses')
    folders = [subject] if session is None else [f'{subject}_ses-{session}']
    # The path may be that of a label map that lies anywhere (synthseg evaluate).
    anat = image.path.absolute().parent
    if anat.parts[-3:] == (subject, f'ses-{session}', 'anat'):
        folders += [subject] * (len(list(anat.parents[1].glob('ses-*'))) <= 1)
    paths = (subjects_dir / folder / 'mri' / name for folder in folders for name in _RECONSTRUCTED)
    return next((path for path in paths if path.is_file()), None)


def _rank(path: Path, image: ImageRecord) -> tuple[int, ...] | None:
    """Say how well a label map fits an image: smaller is better, None not at all."""
    parsed = parse_name(path.name)
    if parsed is None or parsed[1:] not in [('dseg', e) for e in ('.nii.gz', '.nii', '.mgz')]:
        return None
    entities = parsed[0]
    if _head(entities) != _head(image.entities) or {'label', 'hemi'} & {*entities}:
        return None
    if entities.get('space', 'orig') not in NATIVE_SPACES:
        return None
    description = entities.get('desc', '')
    contrast = next((s for s in DEFAULT_SUFFIXES if description.startswith(s)), None)
    preferred = ('aparcaseg', 'aseg')
    return (
        # A mask of lesions is no segmentation of a head.
        int('lesion' in description.lower()),
        0 if contrast == image.suffix else 1 if contrast is None else 2,
        preferred.index(description) if description in preferred else len(preferred),
        int('res' in entities),
    )


def _head(entities: Mapping[str, str]) -> dict[str, str]:
    """Keep the entities that tell one head in one place from another."""
    dropped = (*DERIVATIVE_ENTITIES, *_SAME_HEAD)
    # run-1 and run-01 are one run.
    return {k: v.lstrip('0') if k == 'run' else v for k, v in entities.items() if k not in dropped}
