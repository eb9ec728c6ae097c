"""Make the tables of a run: overlaps, run times, trainings, and facts of the run."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from page import cpu_name

from synthseg_bids.files import read_table, write_table
from synthseg_bids.hardware.device import resolve_device
from synthseg_bids.labels import PAPER_STRUCTURES
from synthseg_bids.measure.overlap import MEAN_NAME
from synthseg_bids.measure.summary import ALL_CONTRASTS, summarise
from synthseg_bids.models.card import read_card
from synthseg_bids.training.real_scans import Pair

from .options import SYSTEMS, TRAINED
from .statements import COLUMNS as STATEMENT_COLUMNS
from .statements import judge, per_scan
from .systems import Run, absent, contrasts_seen, evaluation, groups, tree

#: Placeholder for the folder of --samseg-tree.
SAMSEG_TREE = 'SAMSEG_TREE'
SCAN_COLUMNS = ('system', 'number', 'scan', 'contrast', 'seen', 'structure', 'dice', 'seconds')
TABLE2_COLUMNS = (
    'system', 'any_contrast', 'contrast', 'seen', 'scans', 'mean', 'sd', 'ci_low', 'ci_high',
    'seconds', 'note',
)  # fmt: skip
NETWORK_COLUMNS = (
    'system', 'number', 'trained_on', 'contrasts', 'steps', 'seconds', 'device', 'spacing_mm'
)  # fmt: skip
FIGURE4_COLUMNS = ('contrast', 'system', 'structure', 'scan', 'dice')
#: Systems that need no scans of a contrast to segment it.
ANY_CONTRAST = ('synthseg', 'shipped', 'samseg')


def write_tables(
    args: argparse.Namespace, found: Sequence[Run], pairs: Sequence[Pair]
) -> list[dict[str, Any]]:
    """Write every table but that of figure 5.

    Parameters
    ----------
    args : argparse.Namespace
    found : sequence of Run
        Those without results get a row that says why.
    pairs : sequence of Pair

    Returns
    -------
    list of dict
        Rows of scans.tsv.
    """
    out = args.docs / 'paper'
    scans = [row for run in found for row in scan_rows(args, run, pairs)]
    notes = {run.system: absent(args, run) or 'no results' for run in found}
    write_table(out / 'scans.tsv', SCAN_COLUMNS, scans)
    write_table(out / 'table2.tsv', TABLE2_COLUMNS, table2_rows(scans, notes))
    write_table(out / 'figure4.tsv', FIGURE4_COLUMNS, figure4_rows(scans))
    write_table(out / 'statements.tsv', STATEMENT_COLUMNS, judge(scans))
    networks = network_rows(args, found, pairs)
    write_table(out / 'networks.tsv', NETWORK_COLUMNS, networks)
    described = describe(args, pairs, scans, networks)
    facts = [{'fact': key, 'value': value} for key, value in described.items()]
    write_table(out / 'run.tsv', ('fact', 'value'), facts)
    return scans


def scan_rows(args: argparse.Namespace, run: Run, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return the overlaps of a run, a row per scan and structure, and their mean."""
    by_scan = {Path(pair.scan.relative).name.partition('.')[0]: pair for pair in pairs}
    seconds = {
        row['source'].rpartition('/')[2].partition('.')[0]: row['seconds']
        for row in read_table(tree(args, run) / 'group_status.tsv')
    }
    wanted = (*PAPER_STRUCTURES, MEAN_NAME)
    return [
        {
            'system': run.system,
            'number': run.number,
            'scan': row['scan'],
            'contrast': row['contrast'],
            'seen': run.seen(by_scan[row['scan']]),
            'structure': row['structure'],
            'dice': float('nan' if row['dice'] == 'n/a' else row['dice']),
            'seconds': number_or_none(seconds.get(row['scan'], 'n/a')),
        }
        for row in read_table(evaluation(args, run, ()).folder / 'dice_scans.tsv')
        if row['structure'] in wanted and row['kind'] != 'label' and row['scan'] in by_scan
    ]


def number_or_none(text: str) -> float | None:
    return None if text == 'n/a' else float(text)


def table2_rows(
    scans: Sequence[Mapping[str, Any]], notes: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Average over scans, for each system and contrast; scans that do not count apart.

    Parameters
    ----------
    scans : sequence of mapping
        Rows of scans.tsv.
    notes : mapping of str to str
        Systems in their order, and what to say of one that has no scan.
    """
    rows = []
    for system, note in notes.items():
        own = [r for r in scans if r['system'] == system and r['structure'] == MEAN_NAME]
        facts = {'system': system, 'any_contrast': 'yes' if system in ANY_CONTRAST else 'no'}
        if not own:
            rows.append({**facts, 'note': note})
        times = [row['seconds'] for row in own if row['seconds'] is not None]
        facts['seconds'] = median(times) if times else None
        for seen in sorted({row['seen'] for row in own}, key='no'.__ne__):
            rows += [
                {**facts, **mean, 'seen': seen, 'scans': mean['n']}
                for mean in means([row for row in own if row['seen'] == seen])
            ]
    return rows


def means(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Average over scans, for each contrast and, if there are several, for all of them."""
    contrast_of = {row['scan']: row['contrast'] for row in rows}
    averaged = [
        {'reference': '', 'contrast': contrast_of[scan], 'kind': 'mean'}
        | {'structure': MEAN_NAME, 'dice': dice}
        for scan, dice in per_scan(rows).items()
    ]
    found = summarise(averaged)
    several = len({*contrast_of.values()}) > 1
    return [mean for mean in found if several or mean['contrast'] != ALL_CONTRASTS]


def figure4_rows(scans: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the overlaps of structures in scans that a system has not seen."""
    order = list(SYSTEMS)
    rows = [r for r in scans if r['seen'] == 'no' and r['structure'] in PAPER_STRUCTURES]
    return sorted(rows, key=lambda r: (r['contrast'], order.index(r['system'])))


def network_rows(
    args: argparse.Namespace, found: Sequence[Run], pairs: Sequence[Pair]
) -> list[dict[str, Any]]:
    """Return how each network was trained here, by its card."""
    rows = []
    for run in found:
        model = args.work / 'networks' / run.name / 'model.safetensors'
        if run.system in TRAINED and model.exists():
            card = read_card(model)
            rows.append({
                'system': run.system,
                'number': run.number,
                'trained_on': ' '.join(run.trained_on),
                'contrasts': ' '.join(contrasts_seen(run, pairs)),
                'steps': card.training['steps'],
                'seconds': card.training['seconds'],
                'device': card.training['device'],
                'spacing_mm': card.spacing_mm,
            })  # fmt: skip
    return rows


def total_minutes(
    scans: Iterable[Mapping[str, Any]], networks: Iterable[Mapping[str, Any]]
) -> float:
    """Add up what the trainings and the segmentations took."""
    segmented = {
        (row['system'], row['number'], row['scan']): row['seconds'] or 0.0 for row in scans
    }
    return (sum(segmented.values()) + sum(row['seconds'] for row in networks)) / 60


def describe(
    args: argparse.Namespace,
    pairs: Sequence[Pair],
    scans: Iterable[Mapping[str, Any]],
    networks: Iterable[Mapping[str, Any]],
) -> dict[str, str]:
    """Name the settings and the machine."""
    device = resolve_device(args.device)
    hardware = f'{cpu_name()}, CPU threads: {args.threads}'
    if device.type == 'cuda':
        hardware = f'{torch.cuda.get_device_name(device)}; {hardware}'
    parts = ['--size', args.size, '--preset', args.preset]
    parts += ['--steps', str(args.steps)] if args.steps else []
    parts += ['--train-on', *(','.join(group) for group in groups(args, pairs))]
    parts += ['--threads', str(args.threads)]
    parts += ['--samseg-tree', SAMSEG_TREE] if args.samseg_tree else []
    return {
        'Command': shlex.join(['make', 'paper', f'PAPER_OPTIONS={shlex.join(parts)}']),
        'Hardware': hardware,
        'Scans': ', '.join(Path(pair.scan.relative).name.partition('.')[0] for pair in pairs),
        **(
            {
                'SAMSEG': f'{SAMSEG_TREE} is the output folder of an earlier "synthseg-bids '
                '--method samseg", run beside other programs'
            }
            if args.samseg_tree
            else {}
        ),
        'Minutes in all': f'{total_minutes(scans, networks):.0f}, without starts of programs',
    }
