"""Command line of the BIDS App; nothing heavy is imported here."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from synthseg_bids import __version__

_SUFFIXES = ['T1w', 'T2w', 'PDw', 'FLAIR', 'T2starw', 'UNIT1', 'inplaneT1', 'inplaneT2']

_EPILOG = """\
exit codes: 0 all images done or up to date; 1 some failed, see group_status.tsv; 2 wrong usage,
or no image matched; 3 not a BIDS dataset; 70 internal error; 130 interrupted.
No network access, no telemetry, no license file needed.
"""


@dataclass(frozen=True)
class RunConfig:
    """Settings of one run; fields are named after the options of ``synthseg-bids``."""

    bids_dir: Path
    output_dir: Path
    work_dir: Path | None = None
    participant_label: tuple[str, ...] | None = None
    session_label: tuple[str, ...] | None = None
    suffix: tuple[str, ...] = tuple(_SUFFIXES)
    derivatives: tuple[tuple[str, Path], ...] = ()
    nprocs: int | None = None
    omp_nthreads: int | None = None
    device: str = 'auto'
    n_gpus: int | None = None
    procs_per_gpu: int = 1
    model: str = 'default'
    fast: bool = False
    posteriors: bool = False
    overwrite: bool = False
    stop_on_first_crash: bool = False
    skip_bids_validation: bool = False
    dry_run: bool = False
    verbose: int = 0


def parse_args(argv: Sequence[str] | None = None) -> RunConfig:
    """Turn a command line into settings; exits with 2 if it makes no sense.

    Parameters
    ----------
    argv : sequence of str, optional
        By default the arguments of this process.

    Returns
    -------
    RunConfig
    """
    parser = build_parser()
    options = vars(parser.parse_args(argv))
    names = [name for name, _ in options['derivatives']]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        parser.error(f'-d/--derivatives: {", ".join(twice)} given twice')
    known = {field.name for field in fields(RunConfig)}
    # Lists become tuples, so that the settings cannot change.
    chosen: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in options.items()
        if key in known
    }
    return RunConfig(**chosen)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(
        prog='synthseg-bids',
        description='Segment every anatomical image of a BIDS dataset, of any contrast and '
        'resolution, and measure its structures.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('bids_dir', type=_path, help='root of the raw BIDS dataset')
    parser.add_argument('output_dir', type=_path, help='root of the output dataset')
    parser.add_argument('analysis_level', choices=['participant'], help='participant')
    parser.add_argument('--version', action='version', version=f'synthseg-bids {__version__}')
    parser.add_argument('-v', '--verbose', action='count', default=0, help='say more; repeatable')
    _add_selection(parser.add_argument_group('which images'))
    _add_segmentation(parser.add_argument_group('segmentation'))
    _add_resources(parser.add_argument_group('resources'))
    _add_behaviour(parser.add_argument_group('behaviour'))
    return parser


def _add_selection(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--participant-label', '--participant_label', nargs='+', metavar='LABEL',
        type=_label('sub-'), help='participants, with or without sub- (default: all)',
    )  # fmt: skip
    group.add_argument(
        '--session-label', '--session_label', '--session-id', nargs='+', metavar='LABEL',
        type=_label('ses-'), help='sessions, with or without ses- (default: all)',
    )  # fmt: skip
    group.add_argument(
        '--suffix', '--modalities', '-m', nargs='+', metavar='SUFFIX', default=_SUFFIXES,
        help=f'image suffixes (default: {" ".join(_SUFFIXES)})',
    )  # fmt: skip
    group.add_argument(
        '-d', '--derivatives', nargs='+', action='extend', default=[], metavar='NAME=PATH',
        type=_derivative, help='datasets with reference segmentations to compare with',
    )  # fmt: skip


def _add_segmentation(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--model', default='default', metavar='NAME|PATH', help='shipped model or weights file'
    )
    group.add_argument(
        '--fast', action='store_true', help='do not average with the mirrored image; half the time'
    )
    group.add_argument('--posteriors', action='store_true', help='write posterior maps as well')


def _add_resources(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--nprocs', '--nthreads', '--n-cpus', '--n_cpus', type=_positive, metavar='N',
        help='CPU processors in all (default: those available)',
    )  # fmt: skip
    group.add_argument(
        '--omp-nthreads', '--omp_nthreads', type=_positive, metavar='N',
        help='CPU threads of one segmentation (default: as many as there are, up to 8)',
    )  # fmt: skip
    group.add_argument(
        '--device', default='auto', metavar='DEVICE',
        help='auto (a GPU where there is one), cpu, cuda or cuda:N (default: auto)',
    )  # fmt: skip
    group.add_argument(
        '--n-gpus', type=_count, metavar='N', help='GPUs to use, 0 for none (default: all)'
    )
    group.add_argument(
        '--procs-per-gpu', type=_positive, default=1, metavar='N',
        help='segmentations at once on each GPU (default: 1)',
    )  # fmt: skip
    group.add_argument(
        '-w', '--work-dir', type=_path, metavar='DIR',
        help='intermediate files; the same folder resumes (default: ./work)',
    )  # fmt: skip


def _add_behaviour(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--overwrite', action='store_true', help='redo images whose outputs are up to date'
    )
    group.add_argument(
        '--dry-run', action='store_true', help='say what would be done, write nothing'
    )
    group.add_argument(
        '--stop-on-first-crash', action='store_true', help='start no other image after a failure'
    )
    group.add_argument(
        '--skip-bids-validation', '--skip_bids_validator', action='store_true',
        help='do not ask the BIDS validator about the dataset',
    )  # fmt: skip
    group.add_argument(
        '--notrack', action='store_true', help='accepted and ignored: there is no tracking'
    )


def _label(prefix: str) -> Callable[[str], str]:
    def label(text: str) -> str:
        return text.removeprefix(prefix)

    return label


def _path(text: str) -> Path:
    # Workers run in folders of their own.
    return Path(text).absolute()


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f'{text} is negative')
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{text} is not a positive number')
    return number


def _derivative(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition('=')
    if not (equals and path and re.fullmatch('[a-zA-Z0-9]+', name)) or name == 'raw':
        raise argparse.ArgumentTypeError(
            f'{text!r}: give NAME=PATH, the name of letters and digits and other than raw'
        )
    return name, _path(path)
