"""Memory that was promised is kept to, or refused before anything runs."""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from app import options, write_description, write_image
from hypothesis import given, settings
from hypothesis import strategies as st

from synthseg_bids.app.config import RunConfig
from synthseg_bids.app.main import main
from synthseg_bids.app.resources import fit_memory
from synthseg_bids.errors import UsageError
from synthseg_bids.hardware.device import DTYPES
from synthseg_bids.inference.memory_estimate import least_pass_bytes, worker_gb
from synthseg_bids.inference.memory_plan import choose_plan, predicted_bytes
from synthseg_bids.inference.options import ComputeOptions, SegmentOptions
from synthseg_bids.inference.segmenter import cached_segmenter
from synthseg_bids.models.card import ModelCard
from synthseg_bids.models.unet import NetworkConfig
from synthseg_bids.workflows.image import init_image_wf
from synthseg_bids.workflows.resources import Resources

CONFIG = RunConfig(Path('raw'), Path('out'), ('participant',))
IMAGES: list[Any] = [None]


@dataclass
class Takes:
    """What images take: usually, kept as small as is exact, and smaller than that."""

    usual: float
    exact: float
    small: float
    known: bool = True

    def mem_gb(self, config: RunConfig, tasks: object, limit: int | None = None) -> float:
        return self.small if config.low_mem else self.exact if limit else self.usual

    def least_pass_bytes(self, config: RunConfig, tasks: object) -> int | None:
        return 1 if self.known else None


GIGABYTES = st.floats(0.1, 100)


@settings(deadline=None)
@given(GIGABYTES, st.lists(GIGABYTES, min_size=3, max_size=3), st.booleans(), st.booleans())
def test_no_more_is_taken_than_was_promised(allowed, takes, known, low_mem):
    config = replace(CONFIG, mem_gb=allowed, low_mem=low_mem)
    method: Any = Takes(*sorted(takes, reverse=True), known)
    try:
        taken, limit = fit_memory(config, IMAGES, method)
    except UsageError as error:
        least, *or_least = (float(n) for n in re.findall(r'(?:at least|or) ([0-9.]+)', str(error)))
        assert fit_memory(replace(config, mem_gb=least), IMAGES, method)[0] <= least
        for less in or_least:
            again = replace(config, mem_gb=less, low_mem=True)
            assert fit_memory(again, IMAGES, method)[0] <= less
    else:
        assert taken <= allowed
        # Nobody is slower who need not be.
        assert limit is None or method.usual > allowed


def test_nothing_to_do_fits_into_any_memory():
    method: Any = Takes(9, 9, 9)
    assert fit_memory(replace(CONFIG, mem_gb=0.1), [], method) == (9, None)
    assert fit_memory(CONFIG, IMAGES, method) == (9, None)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
@pytest.mark.parametrize('features', [24, 64])
@pytest.mark.parametrize('n', [100, 160, 250])
def test_small_plans_see_the_image_as_a_whole(monkeypatch, dtype, features, n):
    monkeypatch.setenv('SYNTHSEG_BIDS_DTYPE', dtype)
    card = ModelCard('wide', NetworkConfig(features=features), spacing_mm=1.0)
    grid = (n, n, n), (1.0, 1.0, 1.0)
    limit = least_pass_bytes(card, [grid])
    assert worker_gb(card, [grid], memory_limit=limit) <= worker_gb(card, [grid])
    case = card.network, (n, n, n), DTYPES[dtype].itemsize, True
    plan = choose_plan(*case, limit)
    assert plan.tiles == 1
    assert predicted_bytes(*case, plan) <= limit
    assert choose_plan(*case, limit - 1).tiles > 1


def test_the_limit_reaches_the_network(tiny_model):
    workflow = init_image_wf(resources=Resources(memory_limit=12345), model=str(tiny_model))
    inputs = workflow.get_node('segment').inputs
    assert inputs.memory_limit == 12345
    segmenter = cached_segmenter(
        SegmentOptions(inputs.model), ComputeOptions('cpu', memory_limit=inputs.memory_limit)
    )
    assert segmenter.engine.memory_limit == 12345
    assert pickle.loads(pickle.dumps(segmenter)).engine.memory_limit == 12345


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
