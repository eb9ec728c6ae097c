"""Settings of one run of the BIDS App, and the TOML files that keep them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import tomli_w

from synthseg_bids.bids.query import DEFAULT_SUFFIXES
from synthseg_bids.errors import UsageError
from synthseg_bids.external.methods import OURS
from synthseg_bids.files import read_text

#: Settings that each level stands for, unless their own options are given.
LEVELS: dict[str, dict[str, Any]] = {
    'minimal': {'posteriors': 'none', 'output_grid': 'native', 'parc': False},
    'full': {'posteriors': '1mm', 'output_grid': 'both', 'parc': True},
}

#: Participants with more sessions than this have a report for each session.
MOST_SESSIONS = 4

#: Tables of a saved file that describe a run and are not settings.
_INFORMATIVE = ('run', 'resources')


class ConfigError(UsageError):
    """A file of settings cannot be used; the message is one line."""


@dataclass(frozen=True)
class RunConfig:
    """Settings of one run; fields are named after the options of ``synthseg-bids``."""

    bids_dir: Path
    output_dir: Path
    analysis_level: tuple[str, ...]
    participant_label: tuple[str, ...] | None = None
    exclude_participant_label: tuple[str, ...] = ()
    session_label: tuple[str, ...] | None = None
    suffix: tuple[str, ...] = DEFAULT_SUFFIXES
    bids_filter_file: Path | None = None
    bids_database_dir: Path | None = None
    bids_database_wipe: bool = False
    echo: str = 'all'
    batch: tuple[int, int] | None = None
    derivatives: tuple[tuple[str, Path], ...] = ()
    skip_bids_validation: bool = False
    method: str = OURS
    model: str = 'default'
    model_dir: Path | None = None
    fast: bool = False
    autocrop: bool = True
    ct: bool | None = None
    lesions: str = 'label'
    level: str = 'minimal'
    output_grid: str = 'native'
    posteriors: str = 'none'
    parc: bool = False
    aseg_stats: bool = False
    tissue_maps: bool = False
    five_tissue: bool = False
    combine: str = 'none'
    precomputed: Path | None = None
    charts: bool = False
    longitudinal: bool = False
    nprocs: int | None = None
    omp_nthreads: int | None = None
    mem_gb: float | None = None
    low_mem: bool = False
    device: str = 'auto'
    n_gpus: int | None = None
    procs_per_gpu: int = 1
    gpu_fallback: bool = True
    use_plugin: Path | None = None
    work_dir: Path | None = None
    clean_workdir: bool = False
    overwrite: bool = False
    verify: bool = False
    stop_on_first_crash: bool = False
    aggregate_session_reports: int = MOST_SESSIONS
    dry_run: bool = False
    boilerplate_only: bool = False
    reports_only: bool = False
    run_uuid: str | None = None
    write_graph: bool = False
    resource_monitor: bool = False
    debug: str | None = None
    verbose: int = 0

    @property
    def tissues(self) -> tuple[str, ...]:
        """Keys of :data:`synthseg_bids.bids.names.TISSUE_KINDS`."""
        wanted = {
            # Their names do not tell methods apart.
            'masks': self.method == OURS,
            'tissue_maps': self.tissue_maps or self.precomputed is not None,
            'five_tissue': self.five_tissue,
        }
        return tuple(key for key, yes in wanted.items() if yes)

    @property
    def keeps_priors(self) -> bool:
        """Whether what the network alone predicts is kept, to segment several images together."""
        return self.longitudinal or self.combine == 'session'

    @property
    def outputs(self) -> dict[str, Any]:
        """What is written beside the label map and its tables."""
        return {
            'output_grid': self.output_grid,
            'posteriors': self.posteriors,
            'aseg_stats': self.aseg_stats,
            'tissues': self.tissues,
            'parc': self.parc,
        }


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    ConfigError
        If it cannot be read; the message names the file.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        return tomllib.loads(read_text(path))
    except OSError as error:
        raise ConfigError(f'{path}: cannot be read ({error.strerror}); give a file') from error
    except ValueError as error:
        raise ConfigError(f'{path}: not TOML ({error}); correct it') from error


def read_config(path: Path) -> dict[str, Any]:
    """Read the settings that a run saved, or that a user wrote.

    Parameters
    ----------
    path : Path
        TOML; keys are named as the fields of :class:`RunConfig`.

    Returns
    -------
    dict of str to object

    Raises
    ------
    ConfigError
        If the file cannot be read or names a setting that does not exist.
    """
    content = read_toml(path)
    known = [field.name for field in fields(RunConfig)]
    unknown = sorted({*content} - {*known, *_INFORMATIVE})
    if unknown:
        raise ConfigError(
            f'{path}: unknown setting {", ".join(unknown)}; there are: {", ".join(known)}'
        )
    return {key: value for key, value in content.items() if key not in _INFORMATIVE}


def format_config(config: RunConfig, **tables: dict[str, Any]) -> str:
    """Write settings as TOML, for :func:`read_config`.

    Parameters
    ----------
    config : RunConfig
    **tables : dict
        Further tables, for people to read.
    """
    settings: dict[str, Any] = {**asdict(config), 'derivatives': dict(config.derivatives)}
    if config.batch:
        settings['batch'] = '{}/{}'.format(*config.batch)
    return tomli_w.dumps(_as_toml({**settings, **tables}))


def _as_toml(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is not set, since TOML has no null, and turn paths into text."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found[key] = _as_toml(value)
        elif value is not None:
            found[key] = str(value) if isinstance(value, Path) else value
    return found


def read_plugin(path: Path) -> tuple[str, dict[str, Any]]:
    """Read which Nipype plugin runs the workflow, and its arguments.

    Parameters
    ----------
    path : Path
        TOML, JSON or, where PyYAML is installed, YAML: ``plugin`` is its name, ``plugin_args``
        its arguments.

    Raises
    ------
    ConfigError
    """
    if path.suffix in ('.yml', '.yaml'):
        content: Any = _read_yaml(path)
    elif path.suffix == '.json':
        try:
            content = json.loads(read_text(path))
        except (OSError, ValueError) as error:
            raise ConfigError(f'{path}: not JSON ({error}); correct it') from error
    else:
        content = read_toml(path)
    if not isinstance(content, dict) or not isinstance(content.get('plugin'), str):
        raise ConfigError(f'{path}: names no plugin; write plugin = "MultiProc" or another one')
    unknown = sorted({*content} - {'plugin', 'plugin_args'})
    arguments = content.get('plugin_args') or {}
    if unknown or not isinstance(arguments, dict):
        raise ConfigError(f'{path}: give plugin and a table plugin_args, nothing else')
    return content['plugin'], arguments


def _read_yaml(path: Path) -> Any:
    try:
        import yaml
    except ImportError:
        raise ConfigError(f'{path}: YAML needs PyYAML; install it or write TOML') from None
    try:
        return yaml.safe_load(read_text(path))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = ' '.join(str(error).split())
        raise ConfigError(f'{path}: not YAML ({reason}); correct it') from error
