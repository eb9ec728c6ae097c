"""The part of docs/speed.rst about GPUs, from ``gpu.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from page import render

DOCS = Path(__file__).resolve().parents[2] / 'docs'
#: The heading with which it begins.
HEADING = 'On a GPU\n--------\n'

Table = tuple[str, list[str], list[list[str]]]


def with_gpu_section(page: str, docs: Path = DOCS) -> str:
    """Return a page whose end is what ``gpu.json`` of its folder says of GPUs."""
    measured = docs / 'gpu.json'
    found = json.loads(measured.read_text()) if measured.exists() else {}
    before = page.partition(HEADING)[0].rstrip('\n')
    return f'{before}\n\n\n{section(found)}'


def section(found: Mapping[str, Any]) -> str:
    """Return the section; without numbers it says that there are none."""
    if found.get('device') != 'cuda' or found.get('tiny'):
        return render('speed_gpu', tables=[], facts={})
    parts = found['parts']
    tables = [
        *_generator(parts.get('generator', {})),
        *_network(parts.get('network', {})),
        *_scans(parts.get('scans', {})),
    ]
    return render('speed_gpu', tables=tables, facts=_facts(parts))


def _generator(part: Mapping[str, Any]) -> list[Table]:
    rows = [
        [one['batch'], one['scans_per_s'], _percent(one['roofline_share']),
         _percent(one['host_share'])]
        for one in part.get('batches', [])
    ]  # fmt: skip
    header = ['Batch', 'Scans per second', 'Share of the roofline', 'Share of the host']
    return [(f'Generator, {_size(part["size"])} voxels', header, rows)] if rows else []


def _network(part: Mapping[str, Any]) -> list[Table]:
    tables = []
    for name in ('shipped', 'paper'):
        found = part.get(name, {})
        rows = [
            [way, _number(one.get('s')), _number(one.get('tflop_s')),
             _percent(one['tflop_s'] / part['matrices_tflop_s']) if 's' in one else one['error']]
            for way, one in found.items() if isinstance(one, dict)
        ]  # fmt: skip
        if rows:
            title = f'Network ({name}), straight and mirrored, {_size(found["shape"])} voxels'
            header = ['Way', 'Seconds', 'TFLOP/s', 'Of large matrices']
            tables.append((title, header, rows))
    return tables


def _scans(part: Mapping[str, Any]) -> list[Table]:
    rows = [[one['workers'], one['threads'], one['scans_per_s']] for one in part.get('rows', [])]
    header = ['Processes', 'Threads of each', 'Scans per second']
    return [(f'Whole scans, {_size(part["shape"])} voxels', header, rows)] if rows else []


def _facts(parts: Mapping[str, Any]) -> dict[str, str]:
    """Return what is no table: the machine, the agreement, the training, what failed."""
    speeds, agreement, training, tests = (
        parts.get(name, {}) for name in ('network', 'agreement', 'training', 'tests')
    )
    facts = {}
    if 'gpu' in speeds:
        facts['GPU'] = f'{speeds["gpu"]}, PyTorch {speeds["torch"]}'
        facts['Copying'] = f'{_number(speeds.get("copying_gb_s"))} GB/s'
        facts['Large matrices, bfloat16'] = f'{_number(speeds.get("matrices_tflop_s"))} TFLOP/s'
    if tests:
        counts = [f'{tests[one]} {one}' for one in ('passed', 'failed', 'skipped') if one in tests]
        facts['Tests on it'] = ', '.join(counts)
    if 'dice' in agreement:
        facts['Labels of GPU and CPU'] = (
            f'Dice {agreement["dice"]:.4f}, '
            f'{agreement["brain_voxels_that_differ"]:.2%} of the brain differ; '
            f'{_number(agreement["cuda_s"])} s and {_number(agreement["cpu_s"])} s'
        )
    if 'scans_per_s' in training:
        facts['Training of 24 features at 1 mm'] = (
            f'{_number(training["scans_per_s"])} scans per second, batch {training["batch"]}, '
            f'{_number(training.get("peak_gb"))} GB, {training["steps"]} steps'
        )
    failed = {name: one['error'] for name, one in parts.items() if 'error' in one}
    return facts | {f'Failed: {name}': error for name, error in failed.items()}


def _size(shape: list[int]) -> str:
    return ' x '.join(map(str, shape))


def _percent(share: float) -> str:
    return f'{share:.0%}'


def _number(value: float | None) -> str:
    return '' if value is None else f'{value:.3g}'
