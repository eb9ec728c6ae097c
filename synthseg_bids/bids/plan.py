"""What each image's outputs are called, and what they are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from .image_record import ImageRecord
from .names import anat_folder, bids_uri, derivative_stem
from .references import find_reference


def plan_outputs(
    images: Iterable[ImageRecord], derivatives: Mapping[str, Path], seg: str = 'synthseg'
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Name the outputs of every image and find its references; both are added to its record.

    Parameters
    ----------
    images : iterable of ImageRecord
    derivatives : mapping of str to Path
        Datasets with reference segmentations, by name.
    seg : str
        Name of the segmentation.

    Returns
    -------
    images : list of ImageRecord
    clashes : list of ImageRecord
        Images that fail, since their outputs would overwrite those of another one.
    """
    by_stem: dict[str, ImageRecord] = {}
    clashes = []
    for image in images:
        name = derivative_stem(image.entities, image.suffix, seg)
        stem = str(anat_folder(image.entities) / name)
        if stem in by_stem:
            reason = f'its outputs would overwrite those of {by_stem[stem].relative}'
            image.settle('failed', reason)
            clashes.append(image)
            continue
        image.stem = stem
        image.references = find_reference(image, derivatives)
        image.reference_uris = {
            name: bids_uri(name, path.relative_to(derivatives[name]).as_posix())
            for name, path in image.references.items()
        }
        by_stem[stem] = image
    return list(by_stem.values()), clashes
