"""SAMSEG and FreeSurfer's SynthSeg: interfaces, workflow and app.

The programs are stand-ins (tests/stand_ins) that keep to the command lines of the real ones; only
the last test, which wants ``make samseg`` and ``-m samseg``, runs the real SAMSEG.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app import GOOD, Run, call, node_after_node, write_image
from programs import install_freesurfer, install_samseg

from synthseg_bids.app.main import main
from synthseg_bids.bids.names import parse_name
from synthseg_bids.external.methods import METHODS, MissingProgramError, Program, find_program
from synthseg_bids.files import read_table
from synthseg_bids.interfaces import RunMriSynthSeg, RunSamseg, TranslateLabels
from synthseg_bids.interfaces.program import ProgramError
from synthseg_bids.workflows import Resources, init_image_wf

DATA = Path(os.environ.get('SYNTHSEG_BIDS_TEST_DATA', '../shared/data/bids')).resolve()


@pytest.fixture(scope='session')
def samseg(tmp_path_factory) -> Path:
    return install_samseg(tmp_path_factory.mktemp('samseg') / 'with blank')


def app_options(raw: Path, out: Path, method: str, *more: object) -> list[str]:
    fixed = ['participant', '--method', method, '--omp-nthreads', 1, '--nprocs', 1]
    fixed += ['-w', out.parent / 'work', '--skip-bids-validation']
    return [str(part) for part in (raw, out, *fixed, *more)]


def run_here(raw: Path, out: Path, method: str, *more: object, **environment: str) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return call(app_options(raw, out, method, *more, *node_after_node(out)), out)


def test_command_lines(tmp_path):
    image = tmp_path / 'a scan.nii.gz'
    image.touch()
    run = RunSamseg(in_files=[str(image), str(image)], num_threads=4, pallidum_separate=True)
    assert run.cmdline == (
        f"run_samseg --input '{image}' '{image}' --threads 4 --output samseg --pallidum-separate"
    )
    run = RunMriSynthSeg(in_file=str(image), fast=True)
    assert run.cmdline == (
        f"mri_synthseg --fast --i '{image}' --threads 1 --o labels.nii.gz --cpu"
    )


def test_interface_runs_the_program(samseg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / 'scan.nii')
    run = RunSamseg(command=f"'{samseg}'", in_files=str(tmp_path / 'scan.nii'))
    monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'ours'))
    monkeypatch.setenv('STAND_IN_CALLS', str(tmp_path / 'calls'))
    outputs = run.run().outputs
    assert (tmp_path / 'calls').read_text().startswith('PYTHONPATH=None ')
    assert outputs.out_labels == str(tmp_path / 'samseg' / 'seg.mgz')
    assert Path(outputs.out_stats).name == 'samseg.fs.stats'
    assert outputs.seconds > 0


@pytest.mark.parametrize(
    ('variable', 'value', 'reason'),
    [
        ('STAND_IN_FAILS', '1', 'failed: RuntimeError: inconsistent atlas; see '),
        ('STAND_IN_KILLED', '1', 'failed: killed by SIGKILL, out of memory perhaps; see '),
        ('STAND_IN_SILENT', '1', 'wrote no seg.mgz: no output; see '),
    ],
)
def test_why_a_program_failed_is_one_line(variable, value, reason, samseg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, value)
    write_image(tmp_path / 'scan.nii')
    run = RunSamseg(command=f"'{samseg}'", in_files=str(tmp_path / 'scan.nii'))
    with pytest.raises(ProgramError) as caught:
        run.run()
    assert str(caught.value) == f'run_samseg {reason}{tmp_path}/output.log'


def test_labels_are_folded_onto_the_grid_of_the_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / 'scan.nii', (6, 5, 4))
    image = nib.load(tmp_path / 'scan.nii')
    labels = np.full((6, 5, 4), 165, np.int32)
    labels[1:3], labels[3:5], labels[2, 2, 2], labels[3, 2, 2] = 2, 41, 31, 1012
    folded = labels.copy()
    folded[labels == 165], folded[2, 2, 2], folded[3, 2, 2] = 0, 4, 3
    nib.save(nib.MGHImage(labels, image.affine), tmp_path / 'seg.mgz')
    # The same labels, on a grid that is turned and twice as fine.
    fine = labels.repeat(2, 0).repeat(2, 1).repeat(2, 2)[::-1]
    affine = image.affine @ np.diag([-0.5, 0.5, 0.5, 1])
    affine[:3, 3] = (image.affine @ [5.25, -0.25, -0.25, 1])[:3]
    nib.save(nib.Nifti1Image(fine, affine), tmp_path / 'fine.nii')
    for name in ('seg.mgz', 'fine.nii'):
        translate = TranslateLabels(
            in_file=str(tmp_path / 'scan.nii'), in_labels=str(tmp_path / name), checksum='abc',
            method='SAMSEG', identity={'MethodVersion': '1', 'MethodOptions': []}, seconds=1.234,
        )  # fmt: skip
        outputs = translate.run().outputs
        found = nib.load(outputs.out_labels)
        assert np.array_equal(np.asarray(found.dataobj), folded)
        assert np.array_equal(found.affine, image.affine)
    assert outputs.provenance['MethodVersion'] == '1'
    assert (outputs.provenance['InputSHA256'], outputs.provenance['Seconds']) == ('abc', 1.23)


def test_workflow_asks_for_what_the_program_needs():
    program = Program(METHODS['samseg'], Path('/opt/run_samseg'), '0.4a0')
    resources = Resources(nprocs=4, threads=3, mem_gb=program.method.mem_gb)
    workflow = init_image_wf(program=program, suffix='T2w', resources=resources)
    segment = workflow.get_node('segment')
    assert (segment.n_procs, segment.inputs.num_threads, segment.mem_gb) == (3, 3, 7)
    assert segment.inputs.pallidum_separate
    assert segment.inputs.program_version == '0.4a0'
    assert not segment.is_gpu_node()
    assert segment.interface.cmd == '/opt/run_samseg'


@pytest.fixture(scope='session')
def both(finished, raw, references, samseg, tmp_path_factory) -> Run:
    """Our own segmentations and, in the same tree, those of SAMSEG."""
    out = tmp_path_factory.mktemp('both') / 'synthseg-bids'
    shutil.copytree(finished.out, out)
    return run_here(
        raw, out, 'samseg', '-d', f'fs={references}', SYNTHSEG_BIDS_SAMSEG=str(samseg),
        STAND_IN_CALLS=str(out.parent / 'calls'),
    )  # fmt: skip


@pytest.mark.slow
def test_one_tree_holds_both_methods(both, finished):
    assert both.code == 1
    assert both.stdout.splitlines()[-1] == '3 done, 2 skipped, 2 failed'
    for ours in finished.out.rglob('anat/*_seg-synthseg_*'):
        assert (both.out / ours.relative_to(finished.out)).read_bytes() == ours.read_bytes()
        theirs = ours.name.replace('_seg-synthseg_', '_seg-samseg_')
        path = both.out / ours.relative_to(finished.out).with_name(theirs)
        assert path.exists() is ('_probseg' not in ours.name), path
    assert (both.out / 'seg-samseg_dseg.tsv').read_bytes() == (
        finished.out / 'seg-synthseg_dseg.tsv'
    ).read_bytes()
    # A scan that we cannot read is refused before the program sees it.
    reasons = {
        row['method']: row['reason']
        for row in read_table(both.out / 'group_status.tsv')
        if row['source'].endswith('sub-02_ses-a_T1w.nii.gz')
    }
    assert reasons['samseg'] == reasons['synthseg'] != 'n/a'
    assert len((both.out.parent / 'calls').read_text().splitlines()) == 3


@pytest.mark.slow
def test_group_tables_tell_the_methods_apart(both, finished):
    for kind in ('morph', 'qc', 'dice', 'agreement', 'status'):
        rows = read_table(both.out / f'group_{kind}.tsv')
        before = read_table(finished.out / f'group_{kind}.tsv')
        assert [row for row in rows if row['method'] == 'synthseg'] == before
        theirs = [row for row in rows if row['method'] == 'samseg']
        # The labels of a network of random weights cannot be aligned; those of SAMSEG can.
        assert len(theirs) == (2 if kind == 'agreement' else len(before)) > 0, kind
    done = [row for row in theirs if row['status'] == 'done']
    assert {row['device'] for row in done} == {'cpu'}
    assert all(float(row['seconds']) > 0 for row in done)


@pytest.mark.slow
def test_tables_of_an_image(both):
    stem = both.out / 'sub-01/anat/sub-01_seg-samseg_desc-T1w'
    labels = np.asarray(nib.load(f'{stem}_dseg.nii.gz').dataobj)
    rows = {row['name']: row for row in read_table(Path(f'{stem}_morph.tsv'))}
    white = rows['Left-Cerebral-White-Matter']
    assert int(white['n_voxels']) == (labels == 2).sum() > 0
    # Every voxel of the stand-in is sure.
    assert float(white['soft_volume_mm3']) == float(white['volume_mm3'])
    quality = {row['measure']: row['value'] for row in read_table(Path(f'{stem}_qc.tsv'))}
    assert quality['confidence_white_matter'] == quality['flip_dice'] == 'n/a'
    overlaps = {row['name']: row for row in read_table(Path(f'{stem}_dice.tsv'))}
    assert 0 < float(overlaps['Left-Cerebral-White-Matter']['dice']) < 1


@pytest.mark.slow
def test_reports_show_each_method(both):
    page = (both.out / 'sub-01.html').read_text()
    for anchor in ('sub-01_T1w', 'sub-01_T1w_seg-samseg', 'sub-01_T2w_seg-samseg'):
        assert f' id="{anchor}"' in page
    assert 'T1w by SAMSEG' in page
    assert 'T1w by SAMSEG ↔ T2w by SAMSEG' in page
    assert 'that ran' not in (both.out / 'logs/CITATION.md').read_text()
    assert 'SAMSEG (0.4a0)' in (both.out / 'logs/CITATION_seg-samseg.md').read_text()
    group = (both.out / 'group.html').read_text()
    assert 'sub-01.html#sub-01_T1w_seg-samseg' in group


@pytest.mark.slow
def test_tree_of_both_methods_is_valid(both, validator):
    done = subprocess.run([validator, str(both.out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_resume_knows_version_and_options(
    both, raw, references, samseg, tmp_path, monkeypatch, capsys
):
    def plan(*more: object) -> dict[str, str]:
        options = app_options(raw, both.out, 'samseg', '-d', f'fs={references}', *more)
        assert main([*options, '--dry-run']) == 0
        rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
        return {row[1]: row[2] for row in rows if row[0] == 'segment' and row[1] in GOOD}

    monkeypatch.setenv('SYNTHSEG_BIDS_SAMSEG', str(samseg))
    assert plan() == {}
    newer = install_samseg(tmp_path / 'newer', '0.5')
    monkeypatch.setenv('SYNTHSEG_BIDS_SAMSEG', str(newer))
    assert {*plan()} == {*GOOD}
    assert all(why.startswith('version of the method changed') for why in plan().values())
    sidecar = both.out / 'sub-01/anat/sub-01_seg-samseg_desc-T2w_dseg.json'
    assert '"pallidum_separate"' in sidecar.read_text()


@pytest.mark.parametrize(
    ('method', 'options', 'problem'),
    [
        (
            'samseg',
            ['--posteriors', 'native'],
            '--posteriors (or --level full): not with --method',
        ),
        ('samseg', ['--level', 'full'], 'not with --method samseg'),
        ('samseg', ['--tissue-maps'], '--tissue-maps: not with --method samseg'),
        ('samseg', ['--precomputed', 'pre'], '--precomputed: not with --method samseg'),
        ('samseg', ['--fast'], '--fast: not with --method samseg'),
        ('mri_synthseg', ['--device', 'cuda'], '--device: not with --method mri_synthseg'),
        ('mri_synthseg', ['--model', 'x'], '--model: not with --method mri_synthseg'),
    ],
)
def test_what_a_method_cannot_do_is_refused(method, options, problem, raw, tmp_path, capsys):
    assert main(app_options(raw, tmp_path / 'out', method, *options)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line


def test_missing_program_is_wrong_usage(raw, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('SYNTHSEG_BIDS_SAMSEG', str(tmp_path / 'none'))
    assert main(app_options(raw, tmp_path / 'out', 'samseg')) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'run_samseg: no such program' in line
    assert 'pip install samseg' in line
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_freesurfer_segments_and_a_failure_is_told(raw, tmp_path):
    program = install_freesurfer(tmp_path / 'freesurfer')
    options = ['--participant-label', '01', '--fast']
    run = run_here(
        raw, tmp_path / 'out' / 'synthseg-bids', 'mri_synthseg', *options,
        SYNTHSEG_BIDS_MRI_SYNTHSEG=str(program),
    )  # fmt: skip
    assert run.stdout == '2 done, 0 skipped, 0 failed\n', run.stderr
    stem = run.out / 'sub-01/anat/sub-01_seg-mrisynthseg_desc-T1w'
    labels, scan = nib.load(f'{stem}_dseg.nii.gz'), nib.load(raw / GOOD[0])
    assert labels.shape == scan.shape
    assert np.bincount(np.asarray(labels.dataobj).ravel()).argmax() in (2, 41)
    assert {row['soft_volume_mm3'] for row in read_table(Path(f'{stem}_morph.tsv'))} == {'n/a'}
    assert parse_name(f'{stem.name}_dseg.nii.gz')[0]['seg'] == 'mrisynthseg'

    program.write_text('#!/bin/sh\necho cannot find a model >&2\nexit 1\n')
    again = run_here(
        raw, run.out, 'mri_synthseg', '--participant-label', '01', '--suffix', 'T1w',
        SYNTHSEG_BIDS_MRI_SYNTHSEG=str(program),
    )  # fmt: skip
    assert again.code == 1
    assert 'again, since options of the method changed' in again.stderr
    (error,) = [line for line in again.stderr.splitlines() if line.startswith('ERROR')]
    assert f'{raw / GOOD[0]}: mri_synthseg failed: cannot find a model; see ' in error
    assert 'Traceback' not in again.stderr


@pytest.mark.samseg
def test_the_real_samseg(tmp_path):
    try:
        program = find_program(METHODS['samseg'])
    except MissingProgramError as error:
        pytest.skip(str(error))
    if not (DATA / 'sub-nv').is_dir():
        pytest.skip(f'{DATA}: no scans here; name their data set in SYNTHSEG_BIDS_TEST_DATA')
    out = tmp_path / 'synthseg-bids'
    options = app_options(DATA, out, 'samseg', '--participant-label', 'nv', '--suffix', 'T1w')
    reference = DATA / 'derivatives' / 'reference'
    assert main([*options, '-d', f'reference={reference}']) == 0
    stem = out / 'sub-nv/anat/sub-nv_seg-samseg_desc-T1w'
    # The mean over the twelve structures of the paper.
    assert float(read_table(Path(f'{stem}_dice.tsv'))[-1]['dice']) > 0.7
    volumes = {row['name']: row for row in read_table(Path(f'{stem}_morph.tsv'))}
    for name in ('Left-Cerebral-White-Matter', 'Right-Hippocampus', 'Brain-Stem'):
        hard, soft = (float(volumes[name][c]) for c in ('volume_mm3', 'soft_volume_mm3'))
        assert hard == pytest.approx(soft, rel=0.1)
    assert f'"{program.version}"' in Path(f'{stem}_dseg.json').read_text()
