"""The BIDS App from the command line to its output tree, in processes of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from synthseg_bids.bids.atomic import read_table
from synthseg_bids.cli.parser import parse_args
from synthseg_bids.cli.run import main

APP = [sys.executable, '-W', 'ignore', '-m', 'synthseg_bids.cli.run']
GOOD = [
    'sub-01/anat/sub-01_T1w.nii.gz',
    'sub-01/anat/sub-01_T2w.nii',
    'sub-02/ses-a/anat/sub-02_ses-a_acq-hi_run-1_FLAIR.nii.gz',
]


def write_image(path: Path, shape: Sequence[int] = (9, 10, 11), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).random(shape).astype('f4')
    image = nib.Nifti1Image(data, np.diag([-8.0, 8, 9, 1]))
    image.header.set_xyzt_units('mm', 'sec')
    nib.save(image, path)


def write_description(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {'Name': name, 'BIDSVersion': '1.10.1', 'Authors': ['A. One', 'B. Two']}
    (folder / 'dataset_description.json').write_text(json.dumps(content))


@pytest.fixture(scope='module')
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good images, one truncated, one not downloaded, one 4D, one of another suffix."""
    root = tmp_path_factory.mktemp('data') / 'raw'
    write_description(root, 'Toy')
    for seed, name in enumerate(GOOD):
        write_image(root / name, seed=seed)
    bad = root / 'sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz'
    write_image(bad)
    bad.write_bytes(bad.read_bytes()[:1500])
    bad.with_name('sub-02_ses-a_T2w.nii.gz').symlink_to('../.git/annex/x')
    write_image(bad.with_name('sub-02_ses-a_PDw.nii.gz'), (4, 4, 4, 2))
    write_image(bad.with_name('sub-02_ses-a_angio.nii.gz'))
    return root


@pytest.fixture(scope='module')
def references(raw: Path) -> Path:
    """A reference for sub-01 that fits, one for sub-02 with labels of another scheme."""
    root = raw.parent / 'references'
    write_description(root, 'References')
    labels = np.zeros((9, 10, 11), np.int16)
    labels[:3], labels[3:6], labels[6:] = 2, 41, 1017
    paths = {
        'sub-01/anat/sub-01_desc-aparcaseg_dseg.nii.gz': labels,
        'sub-02/ses-a/anat/sub-02_ses-a_acq-hi_run-1_dseg.nii.gz': labels + 130,
    }
    for name, data in paths.items():
        (root / name).parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(data, np.diag([-8.0, 8, 9, 1])), root / name)
    return root


@dataclass
class Run:
    out: Path
    code: int
    stdout: str
    stderr: str

    def status(self) -> dict[str, dict[str, str]]:
        rows = read_table(self.out / 'group_status.tsv')
        return {row['source'].removeprefix('bids:raw:'): row for row in rows}


def options(raw: Path, out: Path, model: Path, *more: object) -> list[str]:
    """Return the arguments of a run; one thread, since tiny images gain nothing from more."""
    fixed = ['participant', '--model', model, '--device', 'cpu', '--omp-nthreads', 1]
    fixed += ['--nprocs', 2, '-w', out.parent / 'work', '--skip-bids-validation']
    return [str(part) for part in (raw, out, *fixed, *more)]


def launch(raw: Path, out: Path, model: Path, *more: object, **kwargs) -> Run:
    command = [*APP, *options(raw, out, model, *more)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **kwargs)
    return Run(out, done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope='module')
def finished(raw: Path, references: Path, tiny_model: Path) -> Run:
    """One run over everything, with a home directory that cannot be written."""
    home = raw.parent / 'home'
    home.mkdir(mode=0o500)
    environment = {**os.environ, 'HOME': str(home)}
    run = launch(raw, raw.parent / 'first' / 'synthseg-bids', tiny_model, '--posteriors',
                 '-d', f'fs={references}', env=environment)  # fmt: skip
    assert not any(home.iterdir())
    return run


def test_one_bad_scan_fails_alone(finished):
    assert finished.code == 1
    assert finished.stdout.splitlines()[-1] == '3 done, 2 skipped, 2 failed'
    bad = 'sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz'
    (line,) = [line for line in finished.stderr.splitlines() if bad in line and 'ERROR' in line]
    assert 'truncated' in line
    assert 'Traceback' not in finished.stderr


def test_status_names_every_image(finished):
    status = finished.status()
    assert {name: row['status'] for name, row in status.items()} == {
        **dict.fromkeys(GOOD, 'done'),
        'sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz': 'failed',
        'sub-02/ses-a/anat/sub-02_ses-a_T2w.nii.gz': 'failed',
        'sub-02/ses-a/anat/sub-02_ses-a_PDw.nii.gz': 'skipped',
        'sub-02/ses-a/anat/sub-02_ses-a_angio.nii.gz': 'skipped',
    }
    failed = status['sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz']
    assert (finished.out / failed['crash_file']).is_file()
    assert '/sub-02/' in failed['crash_file']
    assert 'datalad' in status['sub-02/ses-a/anat/sub-02_ses-a_T2w.nii.gz']['reason']
    assert status[GOOD[0]]['device'] == 'cpu'


def test_output_tree(finished):
    files = {
        path.relative_to(finished.out).as_posix()
        for path in finished.out.rglob('*')
        if path.is_file() and 'logs' not in path.parts
    }
    stems = {
        'sub-01/anat/sub-01_seg-synthseg_desc-T1w': ['dice'],
        'sub-01/anat/sub-01_seg-synthseg_desc-T2w': ['dice'],
        'sub-02/ses-a/anat/sub-02_ses-a_acq-hi_run-1_seg-synthseg_desc-FLAIR': [],
    }
    ends = {'dseg': '.nii.gz', 'probseg': '.nii.gz', 'morph': '.tsv', 'dice': '.tsv'}
    tables = ['group_morph', 'group_dice', 'group_status', 'descriptions', 'seg-synthseg_dseg']
    expected = {'dataset_description.json', 'README.md', 'CHANGES', '.bidsignore'}
    expected |= {table + end for table in tables for end in ('.tsv', '.json')}
    for stem, more in stems.items():
        for kind in ['dseg', 'probseg', 'morph', *more]:
            expected |= {f'{stem}_{kind}{ends[kind]}', f'{stem}_{kind}.json'}
    assert files == expected


def test_label_maps_lie_on_their_images(finished, raw):
    for name, stem in zip(GOOD[:2], ('desc-T1w', 'desc-T2w'), strict=True):
        image = nib.load(raw / name)
        labels = nib.load(finished.out / f'sub-01/anat/sub-01_seg-synthseg_{stem}_dseg.nii.gz')
        assert labels.shape == image.shape
        np.testing.assert_array_equal(labels.affine, image.affine)


def test_sources_resolve(finished):
    links = json.loads((finished.out / 'dataset_description.json').read_text())['DatasetLinks']
    sidecars = list(finished.out.glob('sub-*/**/*.json'))
    assert sidecars
    for sidecar in sidecars:
        content = json.loads(sidecar.read_text())
        assert content['Sources']
        for uri in content['Sources']:
            _, name, relative = uri.split(':')
            assert (finished.out / links[name] / relative).is_file()
        if sidecar.name.endswith(('_dseg.json', '_probseg.json')):
            assert content['SpatialReference'] == content['Sources'][0]
        if sidecar.name.endswith('_probseg.json'):
            image = nib.load(str(sidecar).replace('.json', '.nii.gz'))
            assert len(content['LabelMap']) == image.shape[3]


def test_references(finished):
    rows = read_table(finished.out / 'sub-01/anat/sub-01_seg-synthseg_desc-T2w_dice.tsv')
    assert list(rows[0]) == [
        'reference',
        'index',
        'name',
        'dice',
        'volume_mm3',
        'reference_volume_mm3',
    ]
    assert {row['reference'] for row in rows} == {'fs'}
    # A reference of another labelling is refused; the image is segmented all the same.
    refused = finished.status()[GOOD[2]]
    assert refused['status'] == 'done'
    assert 'acq-hi_run-1_dseg.nii.gz' in refused['reason']


def test_tree_is_valid_bids(finished):
    validator = shutil.which('bids-validator-deno')
    if validator is None:
        pytest.skip('bids-validator-deno is not installed')
    answer = subprocess.run([validator, str(finished.out)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout
    description = json.loads((finished.out / 'dataset_description.json').read_text())
    assert description['GeneratedBy'][0]['Name'] == 'synthseg-bids'
    assert {*description['DatasetLinks']} == {'raw', 'fs'}


def test_settings_and_logs_are_kept(finished):
    (log_dir,) = (path.parent for path in finished.out.glob('logs/*/config.toml'))
    # Python 3.10 has none.
    tomllib = pytest.importorskip('tomllib')
    config = tomllib.loads((log_dir / 'config.toml').read_text())
    assert config['posteriors'] is True
    assert config['resources']['devices'] == ['cpu']
    assert 'nipype' in (log_dir / 'synthseg-bids.log').read_text()


def test_second_run_has_nothing_to_do(finished, raw, references, tiny_model):
    maps = {path: path.stat().st_mtime_ns for path in finished.out.rglob('*.nii.gz')}
    names = ['--participant-label', 'sub-01', '--posteriors', '-d', f'fs={references}']
    run = launch(raw, finished.out, tiny_model, *names)
    assert (run.code, run.stdout) == (0, '0 done, 2 skipped, 0 failed\n')
    assert {path: path.stat().st_mtime_ns for path in maps} == maps
    assert len(run.status()) == 7


def test_killed_worker_is_named_and_the_others_finish(raw, tiny_model, tmp_path):
    out = tmp_path / 'out'
    names = ['--participant-label', '01', '--nprocs', '1', '--suffix', 'T1w', 'T2w']
    command = [*APP, *options(raw, out, tiny_model, *names)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        os.kill(wait_for_worker(process.pid), signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=300)
    run = Run(out, process.returncode, stdout.decode(), stderr.decode())
    assert (run.code, run.stdout) == (1, '1 done, 0 skipped, 1 failed\n')
    first = run.status()[GOOD[0]]
    assert first['status'] == 'failed'
    assert 'killed' in first['reason']
    assert f'{raw / GOOD[0]}: its worker process was killed' in run.stderr


def wait_for_worker(pid: int, timeout_s: float = 120) -> int:
    """Return the first worker: a child of the fork server, which is a child of the app."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        for server in children(pid):
            if b'forkserver' in Path(f'/proc/{server}/cmdline').read_bytes():
                for worker in children(server):
                    return worker
        time.sleep(0.01)
    raise TimeoutError


def children(pid: int) -> list[int]:
    try:
        text = Path(f'/proc/{pid}/task/{pid}/children').read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def test_interrupted_run_leaves_a_status_and_no_workers(raw, tiny_model, tmp_path):
    command = [*APP, *options(raw, tmp_path / 'out', tiny_model, '--participant-label', '01')]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        worker = wait_for_worker(process.pid)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert process.returncode == 130
    rows = read_table(tmp_path / 'out/group_status.tsv')
    assert [row['status'] for row in rows] == ['failed', 'failed']
    end = time.monotonic() + 30
    while Path(f'/proc/{worker}').exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(f'/proc/{worker}').exists()


def test_dry_run_writes_nothing(raw, tiny_model, tmp_path, capsys):
    code = main(options(raw, tmp_path / 'out', tiny_model, '--dry-run'))
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert lines[-1] == '4 to segment, 2 skipped, 1 failed'
    assert any(GOOD[0] in line and '_desc-T1w_dseg.nii.gz' in line for line in lines)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('more', 'code', 'message'),
    [
        (['--participant-label', '77'], 2, 'participant 77 not found; there are: 01, 02'),
        (['--session-label', 'z'], 2, 'session z not found; there are: a'),
        (['--suffix', 'angio', '--participant-label', '01'], 2, 'no image matched'),
        (['--model', 'none'], 2, 'none: no such model'),
        (['--device', 'gpu'], 2, 'use auto, cpu, cuda'),
        (['-d', 'x=/nowhere'], 2, 'no such folder'),
    ],
)
def test_wrong_usage(raw, tiny_model, tmp_path, capsys, more, code, message):
    assert main(options(raw, tmp_path / 'out', tiny_model, *more)) == code
    error = capsys.readouterr().err
    assert message in error
    assert not (tmp_path / 'out').exists()


def test_folders_in_each_others_way(raw, tiny_model, tmp_path, capsys):
    assert main([str(raw), str(raw), 'participant', '--model', str(tiny_model)]) == 2
    assert main(options(raw, tmp_path / 'out', tiny_model, '-w', raw / 'work')) == 2
    assert main(options(tmp_path, tmp_path / 'out', tiny_model)) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith('synthseg-bids: error: ') for line in lines)


def test_arguments():
    line = 'in out participant --participant_label sub-1 2 --session-id ses-a -d a=x b=y -d c=z'
    config = parse_args([*line.split(), '--n_cpus', '3', '--notrack'])
    assert config.participant_label == ('1', '2')
    assert config.session_label == ('a',)
    assert [name for name, _ in config.derivatives] == ['a', 'b', 'c']
    assert config.bids_dir == Path.cwd() / 'in'
    assert config.nprocs == 3


@pytest.mark.parametrize(
    'wrong',
    ['-d raw=x', '-d a=x a=y', '-d x', '--nprocs 0', '--procs-per-gpu 0', '--nprocs x'],
)
def test_wrong_arguments(wrong, capsys):
    with pytest.raises(SystemExit, match='2'):
        parse_args(['in', 'out', 'participant', *wrong.split()])
    assert 'error' in capsys.readouterr().err


@pytest.mark.parametrize('option', ['--help', '--version'])
def test_answers_without_heavy_imports(option):
    code = (
        'import sys\nfrom synthseg_bids.cli.run import main\n'
        f'try:\n    main(["{option}"])\nexcept SystemExit:\n    pass\n'
        'print(sorted({"torch", "nipype", "numpy", "nibabel", "bids"} & {*sys.modules}))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == '[]'


def test_pybids_reads_the_tree(finished):
    bids = pytest.importorskip('bids')
    layout = bids.BIDSLayout(finished.out, config=['bids', 'derivatives'], validate=False)
    (image,) = layout.get(suffix='dseg', extension='.nii.gz', desc='FLAIR')
    assert image.get_entities()['run'] == 1
    assert image.get_metadata()['SpatialReference'] == f'bids:raw:{GOOD[2]}'
    # inherited from the sidecar at the root
    assert image.get_metadata()['Manual'] is False
    assert len(layout.get(suffix='probseg', extension='.nii.gz')) == 3
