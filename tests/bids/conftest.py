"""Small BIDS trees of empty or tiny files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def touch(tmp_path: Path) -> Callable[..., Path]:
    """Make empty files below ``tmp_path/raw``; returns that folder."""

    def make(*names: str) -> Path:
        root = tmp_path / 'raw'
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return root

    return make
