"""Memory that was promised is kept to, or refused before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from app import options, write_description, write_image
from hypothesis import given
from hypothesis import strategies as st

from synthseg_bids.app.config import RunConfig
from synthseg_bids.app.fit_memory import fit_memory
from synthseg_bids.app.main import main
from synthseg_bids.errors import UsageError
from synthseg_bids.inference.memory_estimate import HEAD, stays_whole, worker_gb
from synthseg_bids.models.card import ModelCard
from synthseg_bids.models.unet import NetworkConfig

CONFIG = RunConfig(Path('raw'), Path('out'), ('participant',))
IMAGES: list[Any] = [None]


@dataclass
class Takes:
    """What images take, usually and kept small, and whether they are as exact then."""

    usual: float
    small: float
    exact: bool

    def mem_gb(self, config: RunConfig, tasks: object) -> float:
        return self.small if config.low_mem else self.usual

    def is_exact(self, config: RunConfig, tasks: object) -> bool:
        return self.exact


GIGABYTES = st.floats(0.1, 100)


@given(GIGABYTES, GIGABYTES, GIGABYTES, st.booleans(), st.booleans())
def test_no_more_is_taken_than_was_promised(allowed, usual, small, exact, low_mem):
    config = replace(CONFIG, mem_gb=allowed, low_mem=low_mem)
    method: Any = Takes(usual, min(usual, small), exact)
    try:
        taken, low = fit_memory(config, IMAGES, method)
    except UsageError as error:
        least = float(str(error).split('at least ')[1].split()[0].rstrip(','))
        again = replace(config, mem_gb=least, low_mem=low_mem or '--low-mem' in str(error))
        assert fit_memory(again, IMAGES, method)[0] <= least
        assert not usual <= allowed
    else:
        assert taken <= allowed
        # Nobody loses accuracy who has not asked for it.
        assert low_mem or exact or not low


def test_nothing_to_do_fits_into_any_memory():
    assert fit_memory(replace(CONFIG, mem_gb=0.1), [], Takes(9, 9, True)) == (9, False)  # type: ignore[arg-type]
    assert fit_memory(CONFIG, IMAGES, Takes(9, 9, True)) == (9, False)  # type: ignore[arg-type]


def test_small_plans_are_exact_as_long_as_the_image_is_seen_whole(monkeypatch):
    monkeypatch.setenv('SYNTHSEG_BIDS_DTYPE', 'bfloat16')
    wide = ModelCard('wide', NetworkConfig(features=64), spacing_mm=1.0)
    brain = (120, 130, 120), (1.0, 1.0, 1.0)
    assert worker_gb(wide, [brain], low_memory=True) < worker_gb(wide, [brain])
    assert stays_whole(wide, [brain])
    assert not stays_whole(wide, [brain, HEAD])


@pytest.mark.parametrize('more', [[], ['--dry-run']], ids=['run', 'dry run'])
def test_too_little_is_refused_before_anything_is_written(more, tiny_model, tmp_path, capsys):
    write_description(tmp_path / 'raw', 'x')
    write_image(tmp_path / 'raw/sub-1/anat/sub-1_T1w.nii.gz')
    argv = options(tmp_path / 'raw', tmp_path / 'out', tiny_model, '--mem-gb', '0.1', *more)
    assert main(argv) == 2
    assert 'error: --mem-gb 0.1: an image takes 0.3 GB here; give at least 0.3' in (
        capsys.readouterr().err
    )
    assert not (tmp_path / 'out').exists()
