"""Options of the BIDS App, from the command line and from files."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from synthseg_bids.app.command_line import parse_args
from synthseg_bids.app.config import ConfigError, RunConfig, format_config, read_plugin
from synthseg_bids.app.parser import build_parser

DOCS = Path(__file__).parents[2] / 'docs'
PLACES = ['in', 'out', 'participant']
EVERYTHING = [
    *('in', 'out', 'participant', 'group', '--participant-label', '01', 'x', '--batch', '2/3'),
    *('--exclude-participant-label', 'x', '--session-label', 'a', '--suffix', 'T1w', 'angio'),
    *('--bids-filter-file', 'f "1".json', '-d', 'a=x y', 'b=z', '--skip-bids-validation'),
    *('--method', 'samseg', '--model', 'm', '--model-dir', 'models', '--fast', '--level', 'full'),
    *('--output-grid', '1mm', '--posteriors', 'native', '--nprocs', '3', '--omp-nthreads', '2'),
    *('--mem', '6000M', '--device', 'cuda:1', '--n-gpus', '0', '--procs-per-gpu', '2'),
    *('--no-gpu-fallback', '--use-plugin', 'p.toml', '-w', 'work', '--clean-workdir'),
    *('--overwrite', '--verify', '--stop-on-first-crash', '--dry-run', '--boilerplate-only'),
    *('--reports-only', '--write-graph', '--resource-monitor', '-vv', '--echo', 'first'),
    *('--bids-database-dir', 'index', '--bids-database-wipe', '--aseg-stats', '--charts'),
    *('--no-autocrop', '--ct', '--lesions', 'fold', '--low-mem'),
    *('--aggregate-session-reports', '1', '--debug', 'pdb', '--combine', 'session'),
    *('--tissue-maps', '--5tt', '--precomputed', 'pre', '--run-uuid', '20260101-120000_a'),
    '--longitudinal',
]


def test_arguments():
    line = 'in out participant --participant_label sub-1 2 --session-id ses-a -d a=x b=y -d c=z'
    config = parse_args([*line.split(), '--n_cpus', '3', '--notrack'])
    assert config.participant_label == ('1', '2')
    assert config.session_label == ('a',)
    assert [name for name, _ in config.derivatives] == ['a', 'b', 'c']
    assert config.bids_dir == Path.cwd() / 'in'
    assert config.nprocs == 3


def test_every_setting_has_an_option():
    given = {action.dest for action in build_parser()._actions}
    assert {field.name for field in fields(RunConfig)} <= given


@pytest.mark.parametrize(
    ('words', 'grid', 'posteriors'),
    [
        ('', 'native', 'none'),
        ('--level full', 'both', '1mm'),
        ('--level full --posteriors native', 'both', 'native'),
        ('--output-grid 1mm', '1mm', 'none'),
    ],
)
def test_level_is_a_default(words, grid, posteriors):
    config = parse_args([*PLACES, *words.split()])
    assert (config.output_grid, config.posteriors) == (grid, posteriors)


@pytest.mark.parametrize(
    ('words', 'parc'),
    [('', False), ('--parc', True), ('--level full', True), ('--level full --no-parc', False)],
)
def test_parcels(words, parc):
    assert parse_args([*PLACES, *words.split()]).outputs['parc'] == parc


@pytest.mark.parametrize(
    ('words', 'tissues'),
    [
        ('', ('masks',)),
        ('--tissue-maps', ('masks', 'tissue_maps')),
        ('--five-tissue --precomputed pre', ('masks', 'tissue_maps', 'five_tissue')),
        # Masks do not tell methods apart by their names.
        ('--method samseg', ()),
    ],
)
def test_masks_and_tissue_maps(words, tissues):
    assert parse_args([*PLACES, *words.split()]).outputs['tissues'] == tissues


@pytest.mark.parametrize(
    ('text', 'gigabytes'),
    [('8', 8), ('1.5G', 1.5), ('8gb', 8), ('8000M', 7.8125), ('512 MiB', 0.5)],
)
def test_memory(text, gigabytes):
    assert parse_args([*PLACES, '--mem', text]).mem_gb == gigabytes


@pytest.mark.parametrize(
    'wrong',
    [
        *('-d raw=x', '-d a=x a=y', '-d x', '--nprocs 0', '--procs-per-gpu 0', '--nprocs x'),
        *('--mem 0', '--mem 8T', '--batch 0/2', '--batch 3/2', '--batch x', '--n-gpus -1'),
        *('--posteriors', '--level high', '--config-file nowhere.toml', '--random'),
        *('--run-uuid x', '--echo mean', '--aggregate-session-reports 0', '--debug all'),
        *('--bids-database-wipe', '--verb'),
    ],
)
def test_wrong_arguments(wrong, capsys):
    with pytest.raises(SystemExit, match='2'):
        parse_args([*PLACES, *wrong.split()])
    assert 'error' in capsys.readouterr().err


def test_saved_settings_are_read_back(tmp_path):
    config = parse_args(EVERYTHING)
    defaults = parse_args(PLACES)
    same = [f.name for f in fields(config) if vars(config)[f.name] == vars(defaults)[f.name]]
    assert same == ['bids_dir', 'output_dir'], 'this test must change every setting'
    file = tmp_path / 'config.toml'
    file.write_text(format_config(config, run={'version': '1'}, resources={'devices': ('cpu',)}))
    again = parse_args(['in', 'out', 'participant', 'group', '--config-file', str(file)])
    assert again == config
    file.write_text(format_config(defaults))
    assert parse_args([*PLACES, '--config-file', str(file)]) == defaults


def test_command_line_overrides_the_file(tmp_path):
    file = tmp_path / 'config.toml'
    file.write_text('nprocs = 3\nsuffix = ["T1w"]\nderivatives = {a = "x", b = "y"}\nfast = true\n'
                    'posteriors = "native"\n')  # fmt: skip
    line = ['--config-file', str(file), '--nprocs', '5', '-d', 'c=z', '--suffix', 'T2w']
    config = parse_args([*PLACES, *line])
    assert (config.nprocs, config.suffix, config.fast) == (5, ('T2w',), True)
    assert config.derivatives == (('c', Path.cwd() / 'z'),)
    assert config.posteriors == 'native'
    assert parse_args([*PLACES, *line, '--level', 'full']).posteriors == '1mm'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('procs = 3', 'unknown setting procs; there are: bids_dir, output_dir'),
        ('nprocs = "many"', 'argument --nprocs'),
        ('nprocs', 'not TOML'),
    ],
)
def test_wrong_file(tmp_path, text, message, capsys):
    file = tmp_path / 'config.toml'
    file.write_text(text)
    with pytest.raises(SystemExit, match='2'):
        parse_args([*PLACES, '--config-file', str(file)])
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert str(file) in error


@pytest.mark.parametrize('ending', ['toml', 'json', 'yml'])
def test_plugin_file(tmp_path, ending):
    arguments = {'n_procs': 2, 'sbatch_args': '--time=60'}
    texts = {
        'toml': 'plugin = "SLURM"\n[plugin_args]\nn_procs = 2\nsbatch_args = "--time=60"\n',
        'json': json.dumps({'plugin': 'SLURM', 'plugin_args': arguments}),
        'yml': 'plugin: SLURM\nplugin_args:\n  n_procs: 2\n  sbatch_args: --time=60\n',
    }
    file = tmp_path / f'plugin.{ending}'
    file.write_text(texts[ending])
    if ending == 'yml':
        pytest.importorskip('yaml')
    assert read_plugin(file) == ('SLURM', arguments)
    file.write_text(texts[ending].replace('plugin_args', 'arguments'))
    with pytest.raises(ConfigError, match=r'plugin\.\w+: give plugin and a table plugin_args'):
        read_plugin(file)
    file.write_text('{' if ending == 'json' else '')
    with pytest.raises(ConfigError, match=r'plugin\.\w+: (names no plugin|not JSON)'):
        read_plugin(file)


def test_options_are_documented():
    page = runpy.run_path(str(DOCS / 'build.py'))['page']('options')
    assert page == (DOCS / 'options.rst').read_text(), 'run docs/build.py options'
    options = {name for action in build_parser()._actions for name in action.option_strings}
    # The options themselves are added when the pages are built: tests/docs/test_site.py.
    assert ':func: app_parser' in page
    # What is said to be missing is missing.
    _, _, after = page.partition('What is not there\n')
    missing = re.findall(r'\* - ``(--.*)``', after.partition('For users of')[0])
    assert '--sloppy' in missing
    for names in missing:
        assert not {*names.split(', ')} & options


def test_help_is_complete():
    command = [sys.executable, '-m', 'synthseg_bids.app.main', '--help']
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for action in build_parser()._actions:
        for option in action.option_strings:
            assert option in text
        assert action.help
    for heading in ('which images:', 'segmentation and outputs:', 'resources:', 'how to run:'):
        assert heading in text
