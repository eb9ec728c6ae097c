"""Running the BIDS App again: after success, after changes, after kills, and twice at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from app import (
    APP,
    GOOD,
    contents,
    options,
    run_here,
    save_tiny_model,
    write_image,
)
from watch import wait_for_worker, wait_until

from synthseg_bids.app.main import main

T1, T2, FLAIR = GOOD


@pytest.fixture
def copies(finished, raw, references, tmp_path) -> tuple[Path, Path, Path]:
    """Copies of dataset, references and outputs that a test may change."""
    places = tmp_path / 'raw', tmp_path / 'references', tmp_path / 'first/synthseg-bids'
    for source, place in zip((raw, references, finished.out), places, strict=True):
        shutil.copytree(source, place, symlinks=True)
    return places


def planned(capsys, raw: Path, out: Path, model: Path, *more: object) -> dict[str, str]:
    """Tell what a run would segment, and why."""
    before = contents(out)
    assert main(options(raw, out, model, *more, '--dry-run')) == 0
    assert contents(out) == before
    lines = capsys.readouterr().out.splitlines()
    start, end = lines[0].index('REASON'), lines[0].index('OUTPUTS')
    rows = [(line.split()[1], line[start:end].strip()) for line in lines[1:-1]
            if line.startswith('segment')]  # fmt: skip
    return {name: reason for name, reason in rows if name in GOOD}


def test_charts_are_asked_for_when_all_is_done(copies, tiny_model, caplog):
    raw, references, out = copies
    more = ['--participant-label', 'sub-01', '--posteriors', 'native', '-d', f'fs={references}']
    assert main(options(raw, out, tiny_model, *more)) == 0
    assert 'brain charts' not in caplog.text
    assert main(options(raw, out, tiny_model, *more, '--charts')) == 0
    # Networks of random weights fail quality control.
    assert 'group_brainchart.csv: no image for the brain charts' in caplog.text


@pytest.mark.slow
def test_second_run_has_nothing_to_do(finished, copies, tiny_model):
    raw, references, out = copies
    before = contents(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob('sub-*/**/*.*')}
    status = finished.status()
    more = ['--participant-label', 'sub-01', '--posteriors', 'native', '-d', f'fs={references}']
    run = run_here(raw, out, tiny_model, *more)
    assert (run.code, run.stdout) == (0, '0 done, 2 skipped, 0 failed\n')
    assert 'nothing to do: 2 images are up to date' in run.stderr
    assert contents(out) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times
    # How they were segmented is still on record.
    assert run.status() == status


def test_what_changes_is_done_again_and_nothing_else(copies, tiny_model, capsys):
    raw, references, out = copies
    usual = ['--posteriors', 'native', '-d', f'fs={references}']
    every = dict.fromkeys(GOOD)

    def plan(*more):
        return planned(capsys, raw, out, tiny_model, *more)

    assert plan(*usual) == {}
    assert plan(*usual, '--suffix', 'T1w') == {}
    os.utime(raw / T1)
    assert plan(*usual) == {}
    assert plan(*usual, '--fast') == dict.fromkeys(every, '--fast changed')
    assert plan(*usual, '--no-autocrop') == dict.fromkeys(every, '--autocrop changed')
    assert plan(*usual, '--low-mem', '--echo', 'first') == {}
    assert plan(*usual, '--overwrite') == dict.fromkeys(every, 'up to date, but --overwrite')
    stem = 'sub-01_seg-synthseg_res-1mm_desc-T1w_dseg.nii.gz is missing'
    assert plan(*usual, '--output-grid', 'both')[T1] == stem
    # A reference that was of no use is tried again once it is another one.
    (reference,) = (references / 'sub-02').rglob('*.nii.gz')
    shutil.copy(references / 'sub-01/anat/sub-01_desc-aparcaseg_dseg.nii.gz', reference)
    name = f'bids:fs:{reference.relative_to(references)}'
    assert plan(*usual) == {FLAIR: f'{name} changed'}
    assert plan('--posteriors', 'native') == {}
    write_image(raw / T1, seed=7)
    assert plan(*usual) == {T1: 'image changed', FLAIR: f'{name} changed'}
    (out / 'sub-01/anat/sub-01_seg-synthseg_desc-T2w_morph.tsv').unlink()
    assert plan(*usual)[T2] == 'sub-01_seg-synthseg_desc-T2w_morph.tsv is missing'
    other = save_tiny_model(tiny_model.parent / 'other.safetensors', seed=1)
    reasons = planned(capsys, raw, out, other, *usual)
    assert reasons[T1] == 'model and image changed'


@pytest.mark.slow
def test_changed_image_is_segmented_again(copies, tiny_model):
    raw, _, out = copies
    write_image(raw / T1, seed=7)
    before = contents(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob('sub-*/**/*desc-T2w*')}
    run = run_here(raw, out, tiny_model, '--participant-label', '01', '--clean-workdir')
    assert run.stdout.splitlines()[-1] == '1 done, 1 skipped, 0 failed'
    assert f'{T1}: again, since image changed' in run.stderr
    after = contents(out)
    changed = {name for name in before if before[name] != after.get(name)}
    masks = {name for name in before if name.endswith('_desc-T1w_mask.nii.gz')}
    assert len(masks) == 2
    assert {name for name in changed if name.endswith('.nii.gz')} - masks == {
        'sub-01/anat/sub-01_seg-synthseg_desc-T1w_dseg.nii.gz',
    } | {name for name in before if '_desc-T1w_probseg.nii' in name}
    # Not asked for this time, and of the old image.
    assert not list(out.rglob('*_desc-T1w_probseg*'))
    assert not list(out.rglob('*_desc-T1w_dice*'))
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.slow
def test_killed_at_any_moment_the_result_is_the_same(
    finished, raw, references, tiny_model, tmp_path_factory
):
    """Processes are killed with all their workers, three times, at different stages."""
    # Beside the undisturbed outputs, so that links between the datasets are the same.
    out = raw.parent / 'killed' / 'synthseg-bids'
    arguments = options(raw, out, tiny_model, '--posteriors', 'native', '-d', f'fs={references}')
    for stage in (wait_for_worker, *(_wait_for(out, pattern) for pattern in _STAGES)):
        with subprocess.Popen(
            [*APP, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:  # fmt: skip
            stage(process.pid)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    run = run_here(raw, out, tiny_model, '--posteriors', 'native', '-d', f'fs={references}')
    assert run.code == 1
    assert run.stdout.splitlines()[-1].endswith('2 failed')
    undisturbed = contents(finished.out)
    assert contents(out).keys() == undisturbed.keys()
    assert contents(out) == undisturbed
    columns = ('status', 'reason')
    expected = {name: [row[c] for c in columns] for name, row in finished.status().items()}
    found = {name: [row[c] for c in columns] for name, row in run.status().items()}
    # Images that were saved before a kill are up to date; nobody was left to say more.
    assert {name: row[0] for name, row in found.items()} == {
        name: row[0] for name, row in expected.items()
    }


#: While outputs are written one by one, and when some image is complete.
_STAGES = ('sub-*/**/anat/*_probseg.nii.gz', 'sub-*/**/anat/*_dseg.json')


def _wait_for(out: Path, pattern: str):
    return lambda pid: wait_until(lambda: any(out.glob(pattern)), every_s=0.01)


@pytest.mark.slow
def test_two_runs_at_once(raw, tiny_model, tmp_path):
    arguments = options(raw, tmp_path / 'out', tiny_model, '--participant-label', '01')
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    with subprocess.Popen([*APP, *arguments], **pipes) as first:
        with subprocess.Popen([*APP, *arguments], **pipes) as second:
            answers = [process.communicate(timeout=600) for process in (first, second)]
        assert (first.returncode, second.returncode) == (0, 0), answers
    done = [int(stdout.splitlines()[-1].partition(' ')[0]) for stdout, _ in answers]
    assert sum(done) == 2
    assert any('another run is at work on it' in stderr for _, stderr in answers) or 0 in done


def test_parts_of_the_participants(raw, tiny_model, tmp_path, capsys):
    seen = []
    for part in ('1/3', '2/3', '3/3'):
        arguments = options(raw, tmp_path / 'out', tiny_model, '--batch', part, '--dry-run')
        assert main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        seen.append({line.split()[1] for line in lines[1:-1]})
    everything = [path.relative_to(raw).as_posix() for path in raw.rglob('*.nii*')]
    assert sorted(name for names in seen for name in names) == sorted(everything)
    assert seen[2] == set()


@pytest.mark.slow
def test_tables_over_all_parts_are_made_at_the_level_group(finished, raw, references, tiny_model):
    # Beside the undisturbed outputs, so that links between the datasets are the same.
    out = raw.parent / 'parts' / 'synthseg-bids'
    more = '--posteriors', 'native', '-d', f'fs={references}'
    for part in ('1/2', '2/2'):
        run_here(raw, out, tiny_model, *more, '--batch', part)
    assert sorted(path.name for path in out.glob('*.html')) == ['sub-01.html', 'sub-02.html']
    assert [path.name for path in out.glob('group_*.tsv')] == ['group_status.tsv']
    assert (out / 'logs/CITATION.md').exists()
    assert main([str(raw), str(out), 'group']) == 0
    assert (out / 'group.html').exists()
    assert contents(out) == contents(finished.out)
