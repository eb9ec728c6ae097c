"""Metadata of the images of a raw dataset, by BIDS' inheritance principle."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from ..files import read_description
from .names import parse_name

_Sidecar = tuple[frozenset[str], str, Path]


class Sidecars:
    """The JSON files of a dataset that describe its images.

    Parameters
    ----------
    root : Path
        The dataset. Each of its folders is listed once.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._list = lru_cache(maxsize=None)(self._list_folder)
        # Those of a whole folder or dataset are read for each of its images.
        self._read = lru_cache(maxsize=64)(read_description)

    def metadata(self, relative: str) -> dict[str, Any]:
        """Gather what applies to an image; what lies nearer to it, or is more specific, wins.

        Parameters
        ----------
        relative : str
            Path of the image in the dataset, with forward slashes.

        Returns
        -------
        dict of str to object
            Empty where there is nothing, or the name is not BIDS.
        """
        image = PurePosixPath(relative)
        parsed = parse_name(image.name)
        if parsed is None:
            return {}
        entities, suffix, _ = parsed
        own = {f'{key}-{value}' for key, value in entities.items()}
        found: dict[str, Any] = {}
        for folder in reversed(image.parents):
            for needed, kind, path in self._list(self._root / folder):
                if kind == suffix and needed <= own:
                    found |= self._read(path)
        return found

    def _list_folder(self, folder: Path) -> list[_Sidecar]:
        """List the sidecars of one folder: entities, suffix and path, the specific ones last."""
        found = []
        for path in sorted(folder.glob('*.json')):
            *entities, suffix = path.stem.split('_')
            found.append((frozenset(entities), suffix, path))
        return sorted(found, key=lambda sidecar: len(sidecar[0]))
