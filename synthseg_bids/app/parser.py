"""Options of the BIDS App; nothing heavy is imported here."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from synthseg_bids import __version__
from synthseg_bids.bids.query import DEFAULT_SUFFIXES
from synthseg_bids.external.methods import METHODS, OURS
from synthseg_bids.inference.options import LESIONS

from .config import LEVELS, MOST_SESSIONS

PROG = 'synthseg-bids'

_EPILOG = """\
exit codes:
  0    all images done or up to date
  1    some images failed, see group_status.tsv; or a report or table could not be written
  2    wrong usage, or no image matched
  3    not a BIDS dataset
  70   internal error
  130  interrupted (Ctrl-C); 143 terminated (SIGTERM): the same command resumes

No network access, no telemetry, no license file needed. Intended for research only.
"""


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Build the parser.

    Options that are not given leave no trace in what it returns; their defaults are those of
    :class:`synthseg_bids.app.config.RunConfig`.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description='Segment every anatomical image of a BIDS dataset, of any contrast and '
        'resolution, and measure its structures.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument('bids_dir', type=_path, help='root of the raw BIDS dataset')
    parser.add_argument('output_dir', type=_path, help='root of the output dataset')
    parser.add_argument(
        'analysis_level', nargs='+', choices=['participant', 'group'],
        help='participant: segment images; group: rebuild tables and reports from the output '
        'dataset and, where it is there, participants.tsv and sidecars of the raw one; or both',
    )  # fmt: skip
    _add_selection(parser.add_argument_group('which images'))
    _add_segmentation(parser.add_argument_group('segmentation and outputs'))
    _add_resources(parser.add_argument_group('resources'))
    _add_behaviour(parser.add_argument_group('how to run'))
    _add_instead(parser.add_argument_group('instead of segmenting'))
    _add_information(parser.add_argument_group('information'))
    return parser


def _add_selection(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--participant-label', '--participant_label', nargs='+', metavar='LABEL',
        type=_label('sub-'), help='participants, with or without sub- (default: all)',
    )  # fmt: skip
    group.add_argument(
        '--exclude-participant-label', '--exclude_participant_label', nargs='+', metavar='LABEL',
        type=_label('sub-'), help='participants to leave out',
    )  # fmt: skip
    group.add_argument(
        '--session-label', '--session_label', '--session-id', nargs='+', metavar='LABEL',
        type=_label('ses-'), help='sessions, with or without ses- (default: all)',
    )  # fmt: skip
    group.add_argument(
        '--suffix', '--modalities', '-m', nargs='+', metavar='SUFFIX',
        help=f'image suffixes (default: {" ".join(DEFAULT_SUFFIXES)})',
    )  # fmt: skip
    group.add_argument(
        '--bids-filter-file', type=_path, metavar='FILE',
        help='JSON: entities that images of a suffix must have, such as {"t1w": {"acquisition": '
        '"hires", "run": [1, 2], "ceagent": null}}; null: the entity must be absent, "*": present',
    )  # fmt: skip
    group.add_argument(
        '--bids-database-dir', type=_path, metavar='DIR',
        help='keep the index of the images in this folder and take it from there the next time, '
        'as fMRIPrep does; it is written by --dry-run, too',
    )  # fmt: skip
    group.add_argument(
        '--bids-database-wipe', action='store_true',
        help='write the index again, after files were added to the dataset or removed',
    )  # fmt: skip
    group.add_argument(
        '--echo', choices=['all', 'first'],
        help='segment every echo of an image, or the first one only (default: all)',
    )  # fmt: skip
    group.add_argument(
        '--batch', type=_batch, metavar='I/N',
        help='only the I-th of N parts of the participants, I from 1 to N, for job arrays; group '
        'tables and the group report are left to the level group',
    )  # fmt: skip
    group.add_argument(
        '-d', '--derivatives', '--reference-seg', nargs='+', action='extend',
        metavar='NAME=PATH', type=_derivative,
        help='datasets with reference segmentations to compare with, or a SUBJECTS_DIR of '
        'FreeSurfer with folders named sub-01 or sub-01_ses-1',
    )  # fmt: skip
    group.add_argument(
        '--skip-bids-validation', '--skip_bids_validator', action='store_true',
        help='do not run the BIDS validator',
    )  # fmt: skip


def _add_segmentation(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--method', choices=[*METHODS],
        help='our network or, if they are installed, SAMSEG or the SynthSeg of FreeSurfer, for '
        f'comparison; see docs/methods.rst (default: {OURS})',
    )  # fmt: skip
    group.add_argument(
        '--model', metavar='NAME|PATH', help='model by name, or weights file (default: default)'
    )
    group.add_argument(
        '--model-dir', type=_path, metavar='DIR',
        help='folder with more models to choose from by name (default: $SYNTHSEG_BIDS_MODELS)',
    )  # fmt: skip
    group.add_argument(
        '--fast',
        action='store_true',
        help='do not average with the mirrored image: the network runs once instead of twice',
    )
    group.add_argument(
        '--autocrop', action=argparse.BooleanOptionalAction,
        help='find the brain first and segment only the part of the image around it, as large as '
        'in training; use --no-autocrop if the wrong part is found (default: yes)',
    )  # fmt: skip
    group.add_argument(
        '--ct', action=argparse.BooleanOptionalAction,
        help='all images are CT, or none is: clip to 0 to 80 Hounsfield units first (default: '
        'images with the suffix CT, and whole heads whose intensities are Hounsfield units)',
    )  # fmt: skip
    group.add_argument(
        '--lesions', choices=LESIONS,
        help='label: white-matter lesions are a label (77), if the network has it; fold: part of '
        'the tissue they lie in (default: label)',
    )  # fmt: skip
    group.add_argument(
        '--level', choices=[*LEVELS],
        help='minimal: label maps on the grids of the images, tables, reports; full: label maps '
        'on 1 mm grids, posterior maps on those and parcels of the cortex as well (default: '
        'minimal)',
    )  # fmt: skip
    group.add_argument(
        '--output-grid', choices=['native', '1mm', 'both'],
        help='grid of the label maps: that of the image, or 1 mm in RAS (default: by --level)',
    )  # fmt: skip
    group.add_argument(
        '--posteriors', choices=['none', 'native', '1mm'],
        help='write posterior maps, and on which grid (default: by --level); they have steps of '
        '1/255, so that those of a voxel sum to 0.99 to 1.01',
    )  # fmt: skip
    group.add_argument(
        '--parc', action=argparse.BooleanOptionalAction,
        help='name the parcels of the cortex as well, 34 on each side (Desikan-Killiany): another '
        'label map, and their volumes (default: by --level)',
    )  # fmt: skip
    group.add_argument(
        '--aseg-stats', '--aseg_stats', action='store_true',
        help='also write volumes and intensities in the format of the aseg.stats of FreeSurfer; '
        'those of parcels, too',
    )  # fmt: skip
    group.add_argument(
        '--tissue-maps', action='store_true',
        help='write probabilities of grey matter, white matter and cerebrospinal fluid, and a '
        'label map of these three, on the grids of the images',
    )  # fmt: skip
    group.add_argument(
        '--five-tissue', '--5tt', action='store_true',
        help='write the five-tissue-type image of MRtrix (5tt)',
    )  # fmt: skip
    group.add_argument(
        '--combine', choices=['none', 'session'],
        help='session: segment the images of each session together, too; contrasts and thick '
        'slices in different planes complement each other (default: none)',
    )  # fmt: skip
    group.add_argument(
        '--precomputed', type=_path, metavar='DIR',
        help='write mask and tissue maps of one image of each participant, the best T1w where '
        'there is one, to this folder as well, for smriprep or fmriprep --derivatives DIR',
    )  # fmt: skip
    group.add_argument(
        '--longitudinal', action='store_true',
        help='also segment all visits (sessions) of a participant together, which makes changes '
        'of volumes less noisy, and write the annual change of every structure',
    )  # fmt: skip
    group.add_argument(
        '--charts', action='store_true',
        help='with the tables of all images, write group_brainchart.csv, too: volumes, age and '
        'sex in the columns that the brain charts of Bethlehem et al. (Nature 2022) take',
    )  # fmt: skip


def _add_resources(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--nprocs', '--nthreads', '--n-cpus', '--n_cpus', type=_positive, metavar='N',
        help='CPU processors in all (default: those available)',
    )  # fmt: skip
    group.add_argument(
        '--omp-nthreads', '--omp_nthreads', type=_positive, metavar='N',
        help='CPU threads of one segmentation (default: all, up to 8)',
    )  # fmt: skip
    group.add_argument(
        '--mem-gb', '--mem_gb', '--mem', type=_memory, metavar='GB',
        help='memory that all processes may use together; 8 and 8G are gigabytes, unlike in '
        'fMRIPrep, 8000M are megabytes (default: 90%% of the available memory)',
    )  # fmt: skip
    group.add_argument(
        '--low-mem', '--low_mem', action='store_true',
        help='use less memory: posteriors in half precision, and large images in tiles, less '
        'accurate at their borders (default: only if memory is short)',
    )  # fmt: skip
    group.add_argument(
        '--device', metavar='DEVICE',
        help='auto (a GPU if there is one), cpu, cuda or cuda:N (default: auto)',
    )  # fmt: skip
    group.add_argument(
        '--n-gpus', type=_count, metavar='N', help='GPUs to use, 0 for none (default: all)'
    )
    group.add_argument(
        '--procs-per-gpu', type=_positive, metavar='N',
        help='segmentations at once on each GPU (default: 1)',
    )  # fmt: skip
    group.add_argument(
        '--gpu-fallback', action=argparse.BooleanOptionalAction,
        help='continue on the CPU if a GPU fails or its memory is too small (default: yes)',
    )  # fmt: skip
    group.add_argument(
        '--use-plugin', type=_path, metavar='FILE',
        help='TOML, JSON or YAML file that names a Nipype plugin and its plugin_args',
    )  # fmt: skip
    group.add_argument(
        '-w', '--work-dir', type=_path, metavar='DIR',
        help='folder of intermediate files; with the same folder, a run resumes (default: ./work)',
    )  # fmt: skip
    group.add_argument(
        '--clean-workdir', action='store_true',
        help='first remove the intermediate files of this dataset',
    )  # fmt: skip


def _add_behaviour(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--overwrite',
        action='store_true',
        help='segment again images whose outputs are up to date',
    )
    group.add_argument(
        '--verify', action='store_true',
        help='compare the checksums of outputs that exist, not only their sizes and ends',
    )  # fmt: skip
    group.add_argument(
        '--stop-on-first-crash', action='store_true', help='start no other image after a failure'
    )
    group.add_argument(
        '--aggregate-session-reports', type=_positive, metavar='N',
        help='participants with more than N sessions also have a report for each session '
        f'(default: {MOST_SESSIONS})',
    )  # fmt: skip
    group.add_argument(
        '--config-file', type=_path, metavar='FILE',
        help='TOML file of options, such as logs/*/config.toml of an earlier run; the command '
        'line overrides it',
    )  # fmt: skip
    group.add_argument(
        '--write-graph', action='store_true', help='draw the workflow into the log folder'
    )
    group.add_argument(
        '--resource-monitor', action='store_true',
        help='write time and memory of every step to resources.tsv in the log folder',
    )  # fmt: skip
    group.add_argument(
        '--debug', choices=['pdb'],
        help='pdb: run everything in this one process and open the debugger where a step fails',
    )  # fmt: skip
    group.add_argument(
        '--notrack', action='store_true', help='accepted and ignored: there is no tracking'
    )


def _add_instead(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--dry-run', action='store_true',
        help='list every image with its outputs, or why it is skipped; write nothing',
    )  # fmt: skip
    group.add_argument(
        '--reports-only', action='store_true', help='write the reports again, and nothing else'
    )
    group.add_argument(
        '--run-uuid', metavar='UUID',
        help='with --reports-only: show settings and crashes of this run, a folder in logs '
        '(default: settings of the last run)',
    )  # fmt: skip
    group.add_argument(
        '--boilerplate-only', action='store_true',
        help='write the methods text (logs/CITATION.md and .bib), nothing else',
    )  # fmt: skip


def _add_information(group: argparse._ArgumentGroup) -> None:
    group.add_argument('--version', action='version', version=f'{PROG} {__version__}')
    group.add_argument('-v', '--verbose', action='count', help='log more; may be repeated')


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


def _memory(text: str) -> float:
    match = re.fullmatch(r'(\d+(?:\.\d+)?) ?([gm]?)i?b?', text.strip().lower())
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f'{text!r}: give a number, 8G or 8000M')
    return float(match[1]) / (1024 if match[2] == 'm' else 1)


def _batch(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d+)/(\d+)', text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f'{text!r}: give I/N with I from 1 to N, such as 2/10')
    return int(match[1]), int(match[2])


def _derivative(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition('=')
    if not (equals and path and re.fullmatch('[a-zA-Z0-9]+', name)) or name == 'raw':
        raise argparse.ArgumentTypeError(
            f'{text!r}: give NAME=PATH, the name of letters and digits and other than raw'
        )
    return name, _path(path)
