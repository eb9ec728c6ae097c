"""Real scans: segmented by the BIDS App, compared with references of their own."""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synthseg_bids.cli.evaluate import source_image, write_results
from synthseg_bids.files import read_table, read_text, write_text
from synthseg_bids.images.volume_io import read_label_map
from synthseg_bids.measure.overlap import compare_to_reference
from synthseg_bids.measure.summary import scan_rows
from synthseg_bids.models.card import read_card
from synthseg_bids.models.registry import model_path

from . import REPOSITORY
from .lesions import LESION_REFERENCE, has_lesions, lesion_reference, lesion_row, write_lesions
from .steps import call

#: List of the scans, unless there is one in the folder of the page.
SOURCES = REPOSITORY / 'docs' / 'accuracy' / 'real_sources.tsv'
TEMPLATES = 'templates'
#: Labels whose protocol is another in the references of a group: the amygdala of
#: Neuromorphometrics is not FreeSurfer's.
OTHER_PROTOCOL = {'old age': (18, 54)}


@dataclass(frozen=True)
class Source:
    """A real scan: one row of ``real_sources.tsv``."""

    participant: str
    contrast: str
    data_set: str
    group: str


def read_sources(path: Path) -> list[Source]:
    """Read the list of scans."""
    return [
        Source(*row['Scan'].split(), row['Data set'], row['Group']) for row in read_table(path)
    ]


def measure_individuals(args: argparse.Namespace, work: Path) -> dict[str, str]:
    """Measure on all scans of individuals."""
    return measure(args, work, lambda source: source.group != TEMPLATES)


def measure_templates(args: argparse.Namespace, work: Path) -> dict[str, str]:
    """Measure on averages of many heads."""
    return measure(args, work, lambda source: source.group == TEMPLATES)


def measure_fast(args: argparse.Namespace, work: Path) -> dict[str, str]:
    """Measure without the mirrored pass, on T1w scans of adults."""
    return measure(args, work, lambda source: source.group == 'adults', ('--fast',))


def measure(
    args: argparse.Namespace,
    work: Path,
    wanted: Callable[[Source], bool],
    flags: Sequence[str] = (),
) -> dict[str, str]:
    """Segment the wanted scans and compare them; return the facts of the run."""
    listed = args.docs / 'accuracy' / SOURCES.name
    if not listed.exists():
        write_text(listed, read_text(SOURCES))
    sources = [s for s in read_sources(listed) if wanted(s)]
    sources = [s for s in sources if (args.data / s.data_set / s.participant).is_dir()]
    if not sources:
        print(f'{args.data}: no scan of {listed} here; skipped')
        return {}
    commands, status = [], []
    for data_set in dict.fromkeys(source.data_set for source in sources):
        names = dict.fromkeys(s.participant for s in sources if s.data_set == data_set)
        commands.append(segment(args, work, data_set, [*names][: args.limit], flags))
        status += read_table(work / 'derivatives' / data_set / 'group_status.tsv')
    groups = {(source.participant, source.contrast): source.group for source in sources}
    rows, lesions = compare(args, work, groups)
    if rows:
        write_results(work / 'evaluation', rows)
        write_lesions(work / 'evaluation' / 'lesions.tsv', lesions)
    failed = [row['source'].rpartition('/')[2] for row in status if row['status'] == 'failed']
    done = [float(row['seconds']) for row in status if row['status'] == 'done']
    return {
        'Scans': f'{len(done)} segmented, {len(failed)} failed {" ".join(failed)}'.strip(),
        'Seconds per scan (median)': f'{statistics.median(done):.1f}' if done else 'n/a',
        **{f'Command {i + 1}': command for i, command in enumerate(commands)},
    }


def segment(
    args: argparse.Namespace, work: Path, data_set: str, names: Sequence[str], flags: Sequence[str]
) -> str:
    """Run the BIDS App on participants of a data set, one scan after the other.

    Segmentations of earlier runs in this folder are kept.
    """
    threads = torch.get_num_threads()
    code, command = call(
        'synthseg-bids', args.data / data_set, work / 'derivatives' / data_set, 'participant',
        '--participant-label', *(name.removeprefix('sub-') for name in names), *flags,
        '--model', args.model, '--device', args.device,
        '--nprocs', threads, '--omp-nthreads', threads, '-w', work / 'nodes' / data_set,
    )  # fmt: skip
    if code not in (0, 1):
        raise SystemExit(f'exit code {code} from: {command}')
    return command.replace(str(work), 'OUT')


def compare(
    args: argparse.Namespace, work: Path, groups: Mapping[tuple[str, str], str]
) -> tuple[list[dict[str, Any]], list[dict[str, object]]]:
    """Compare the segmentations with their references; return the rows of both tables.

    Parameters
    ----------
    args : argparse.Namespace
    work : Path
    groups : mapping of (str, str) to str
        By participant and contrast; other scans are left out.
    """
    known = has_lesions(read_card(model_path(args.model)))
    rows, lesions = [], []
    for data_set in sorted((work / 'derivatives').iterdir()):
        for path in sorted(data_set.glob('sub-*/anat/*_dseg.nii.gz')):
            image = source_image(path)
            key = (f'sub-{image.entities["sub"]}', image.suffix) if image else ('', '')
            if key not in groups:
                continue
            scan, contrast = ' '.join(key), f'{groups[key]}, {key[1]}'
            ours = read_label_map(path)
            folder = args.data / data_set.name / 'derivatives' / 'reference' / key[0] / 'anat'
            references = [read_label_map(p) for p in sorted(folder.glob('*_dseg.nii.gz'))]
            for theirs in references:
                if LESION_REFERENCE in theirs.path.name:
                    continue
                compared = compare_to_reference(
                    ours.data, ours.affine, theirs.data, theirs.affine, str(theirs.path), True
                )
                compared = without(compared, OTHER_PROTOCOL.get(groups[key], ()))
                rows += scan_rows(scan, contrast, 'reference', compared)
            if known:
                lesions.append(lesion_row(scan, contrast, ours, lesion_reference(references)))
    return rows, lesions


def without(compared: Sequence[Mapping[str, Any]], labels: Sequence[int]) -> list[dict[str, Any]]:
    """Set the measures of some labels to NaN."""
    unknown = dict.fromkeys(
        ('dice', 'volume_mm3', 'reference_volume_mm3', 'hd95_mm', 'surface_distance_mm'), math.nan
    )
    return [dict(row) | (unknown if row.get('index') in labels else {}) for row in compared]


def geometric_mean(ratios: Sequence[float]) -> float:
    """Average volume ratios, so that a half and a double cancel each other; NaN of none.

    With a ratio of 0, of a structure that was not found, so is the mean.
    """
    with np.errstate(divide='ignore'):
        return float(np.exp(np.mean(np.log(ratios)))) if len(ratios) else math.nan
