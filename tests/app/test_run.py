"""The BIDS App from the command line to its output tree, in processes of its own."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from app import GOOD, call, launch, options, run_here, write_filter, write_image
from running import PAUSING
from watch import is_stopped, wait_for_end, wait_for_worker, wait_until

from synthseg_bids.app.config import read_toml
from synthseg_bids.app.main import main
from synthseg_bids.files import read_table
from synthseg_bids.measure.tissues import three_tissues


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
        if path.is_file() and 'logs' not in path.parts and not path.name.startswith('group_')
    }
    stems = {
        'sub-01/anat/sub-01_seg-synthseg_desc-T1w': ['dice'],
        'sub-01/anat/sub-01_seg-synthseg_desc-T2w': ['dice'],
        'sub-02/ses-a/anat/sub-02_ses-a_acq-hi_run-1_seg-synthseg_desc-FLAIR': [],
    }
    ends = {'dseg': '.nii.gz', 'probseg': '.nii.gz', 'morph': '.tsv', 'qc': '.tsv', 'dice': '.tsv'}
    tables = ['descriptions', 'seg-synthseg_dseg', 'sub-01/anat/sub-01_seg-synthseg_agreement']
    expected = {'dataset_description.json', 'README.md', 'CHANGES', '.bidsignore'}
    expected |= {'sub-01.html', 'sub-02.html', 'group.html'}
    expected |= {f'seg-synthseg_dseg{end}' for end in ('.ctab', '.label', '.ctbl')}
    expected |= {table + end for table in tables for end in ('.tsv', '.json')}
    for stem, more in stems.items():
        for kind in ['dseg', 'probseg', 'morph', 'qc', *more]:
            expected |= {f'{stem}_{kind}{ends[kind]}', f'{stem}_{kind}.json'}
        for label in ('brain', 'intracranial'):
            mask = stem.replace('_seg-synthseg_', f'_label-{label}_')
            expected |= {f'{mask}_mask.nii.gz', f'{mask}_mask.json'}
        participant, name = stem.split('/')[0], stem.rpartition('/')[2]
        expected |= {f'{participant}/figures/{name}_{kind}.png' for kind in ('scan', 'dseg')}
    assert files == expected
    groups = {path.stem for path in finished.out.glob('group_*.tsv')}
    assert groups >= {'group_morph', 'group_qc', 'group_dice', 'group_status'}


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


def test_tree_is_valid_bids(finished, validator):
    answer = subprocess.run([validator, str(finished.out)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout
    description = json.loads((finished.out / 'dataset_description.json').read_text())
    assert description['GeneratedBy'][0]['Name'] == 'synthseg-bids'
    assert {*description['DatasetLinks']} == {'raw', 'fs'}


@pytest.mark.slow
def test_debugger_opens_where_a_step_fails(tiny_model, tmp_path, monkeypatch):
    raw = tmp_path / 'raw'
    image = raw / 'sub-01/anat/sub-01_T1w.nii.gz'
    write_image(image)
    image.write_bytes(image.read_bytes()[:1500])
    typed = 'p 40 + 2\np path\nq\n'
    run = launch(raw, tmp_path / 'out', tiny_model, '--debug', 'pdb', input=typed)
    assert run.code == 1
    assert 'InputImageError' in run.stdout
    assert '(Pdb) 42' in run.stdout
    assert f"PosixPath('{image}')" in run.stdout
    # Nobody types anything.
    monkeypatch.setattr('sys.stdin', io.StringIO())
    out = tmp_path / 'out'
    again = call(options(raw, out, tiny_model, '--debug', 'pdb'), out)
    assert again.code == 1
    assert [row['status'] for row in again.status().values()] == ['failed']


def test_settings_and_logs_are_kept(finished):
    (log_dir,) = (path.parent for path in finished.out.glob('logs/*/config.toml'))
    config = read_toml(log_dir / 'config.toml')
    assert config['posteriors'] == 'native'
    assert config['resources']['devices'] == ['cpu']
    assert 'nipype' in (log_dir / 'synthseg-bids.log').read_text()
    text = (finished.out / 'logs/CITATION.md').read_text()
    assert '3 images of 2 participants in 1 session' in text
    assert '1 FLAIR, 1 T1w, 1 T2w' in text
    assert (finished.out / 'logs/CITATION.bib').exists()


def test_same_input_gives_the_same_sidecar(finished):
    sidecar = finished.out / 'sub-01/anat/sub-01_seg-synthseg_desc-T1w_dseg.json'
    content = json.loads(sidecar.read_text())
    assert 'Seconds' not in content
    (reference,) = content['References']
    assert (reference['URI'].split(':')[1], reference['Used']) == ('fs', True)
    assert float(finished.status()[GOOD[0]]['seconds']) >= 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ('number', 'code', 'word'),
    [(signal.SIGTERM, 143, 'terminated'), (signal.SIGINT, 130, 'interrupted')],
)
def test_interrupted_run_leaves_a_status_and_no_workers(
    raw, tiny_model, tmp_path, number, code, word
):
    pausing = [*PAUSING, 'sub-01_T1w.segment" in']
    command = [*pausing, *options(raw, tmp_path / 'out', tiny_model, '--participant-label', '01')]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        # Shells start what runs in the background deaf to it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        wait_until(lambda: is_stopped(process.pid))
        worker = wait_for_worker(process.pid)
        process.send_signal(number)
        os.killpg(process.pid, signal.SIGCONT)
        _, stderr = process.communicate(timeout=240)
    assert process.returncode == code
    assert f'synthseg-bids: error: {word}; the same command resumes\n' in stderr.decode()
    rows = read_table(tmp_path / 'out/group_status.tsv')
    assert [row['status'] for row in rows] == ['failed', 'failed']
    wait_for_end(worker)


def test_full_level_through_another_plugin(raw, tiny_model, tmp_path):
    """All optional outputs, one node after the other in the process itself."""
    out = tmp_path / 'out'
    more = ['--level', 'full', '--mem-gb', '3', '--five-tissue', '--precomputed', tmp_path / 'pre']
    run = run_here(raw, out, tiny_model, *more, '--suffix', 'T1w', 'FLAIR', '--write-graph')
    assert run.stdout.splitlines()[-1] == '2 done, 4 skipped, 1 failed'
    assert run.code == 1
    assert 'ends too early' in run.stderr
    stem = 'sub-01/anat/sub-01_seg-synthseg_{}desc-T1w_{}'
    labels = nib.load(out / stem.format('res-1mm_', 'dseg.nii.gz'))
    posteriors = nib.load(out / stem.format('res-1mm_', 'probseg.nii.gz'))
    assert labels.shape == posteriors.shape[:3] == (72, 80, 99)
    np.testing.assert_array_equal(labels.header.get_zooms(), 1)
    assert nib.aff2axcodes(labels.affine) == ('R', 'A', 'S')
    # Both have one centre, and cover the same.
    image = nib.load(raw / GOOD[0])
    centres = [i.affine @ [*((np.array(i.shape) - 1) / 2), 1] for i in (image, labels)]
    np.testing.assert_allclose(*centres, atol=1e-3)
    sidecar = json.loads((out / stem.format('res-1mm_', 'dseg.json')).read_text())
    assert sidecar['Resolution']
    assert (out / stem.format('', 'dseg.nii.gz')).exists()
    assert not (out / stem.format('', 'probseg.nii.gz')).exists()
    (log_dir,) = (path.parent for path in out.glob('logs/*/config.toml'))
    assert 'segment' in (log_dir / 'graph.dot').read_text()
    check_tissues(raw, out / 'sub-01/anat', tmp_path / 'pre')
    # What is missing there is copied again, and nothing is segmented.
    lost = tmp_path / 'pre/sub-01/anat/sub-01_dseg.nii.gz'
    content, written = lost.read_bytes(), (out / stem.format('', 'dseg.nii.gz')).stat().st_mtime_ns
    lost.unlink()
    again = run_here(raw, out, tiny_model, *more, '--suffix', 'T1w', '--participant-label', '01')
    assert again.code == 0
    assert lost.read_bytes() == content
    assert (out / stem.format('', 'dseg.nii.gz')).stat().st_mtime_ns == written


@pytest.mark.parametrize('folder', ['raw', 'out', 'out/pre', '.', 'other'])
def test_precomputed_needs_a_folder_of_its_own(tmp_path, tiny_model, capsys, folder):
    raw = tmp_path / 'raw'
    write_image(raw / 'sub-01/anat/sub-01_T1w.nii.gz')
    other = tmp_path / 'other/dataset_description.json'
    other.parent.mkdir()
    other.write_text('{"Name": "fMRIPrep"}')
    more = ['--precomputed', tmp_path / folder, '--dry-run']
    assert main(options(raw, tmp_path / 'out', tiny_model, *more)) == 2
    told = capsys.readouterr().err
    assert 'another dataset' in told if folder == 'other' else 'give a folder of its own' in told


def check_tissues(raw, anat, precomputed):
    """Check the masks and tissue maps of the T1w scan, and the dataset of one image each."""
    image = nib.load(raw / GOOD[0])
    labels = np.asanyarray(nib.load(anat / 'sub-01_seg-synthseg_desc-T1w_dseg.nii.gz').dataobj)
    maps = {
        name: nib.load(anat / f'sub-01_{name}.nii.gz')
        for name in (
            'label-brain_desc-T1w_mask', 'label-intracranial_desc-T1w_mask',
            'seg-synthsegtissue_desc-T1w_dseg', 'seg-synthseg5tt_desc-T1w_probseg',
            *(f'seg-synthseg_label-{t}_desc-T1w_probseg' for t in ('GM', 'WM', 'CSF')),
        )
    }  # fmt: skip
    for found in maps.values():
        assert found.shape[:3] == image.shape
        np.testing.assert_array_equal(found.affine, image.affine)
    brain, head, three, five, *probabilities = (found.get_fdata() for found in maps.values())
    assert (brain <= head).all()
    assert (head >= (labels > 0)).all()
    np.testing.assert_array_equal(three, three_tissues(labels))
    assert maps['seg-synthseg5tt_desc-T1w_probseg'].get_data_dtype() == np.float32
    np.testing.assert_allclose(five.sum(-1), labels > 0, atol=1e-5)
    assert np.sum(probabilities, 0).max() <= 1 + 1e-6
    plain = {path.name for path in precomputed.rglob('sub-*.nii.gz')}
    ends = ('desc-brain_mask', 'dseg', *(f'label-{t}_probseg' for t in ('GM', 'WM', 'CSF')))
    starts = ('sub-01', 'sub-02_ses-a')
    assert plain == {f'{start}_{end}.nii.gz' for start in starts for end in ends}


@pytest.mark.slow
def test_resources_are_measured(raw, tiny_model, tmp_path):
    out = tmp_path / 'out'
    run = launch(raw, out, tiny_model, '--resource-monitor', '--output-grid', '1mm', '--fast',
                 '--bids-filter-file', write_filter(tmp_path))  # fmt: skip
    assert run.stdout.splitlines()[-1] == '1 done, 6 skipped, 0 failed'
    (table,) = out.glob('logs/*/resources.tsv')
    rows = {row['node'].rpartition('.')[2]: row for row in read_table(table)}
    assert {'segment', 'measure', 'save'} <= {*rows}
    assert float(rows['segment']['peak_memory_mb']) > float(rows['save']['peak_memory_mb']) > 10
    # Only the grid that was asked for; and a second run finds it.
    (labels,) = out.glob('sub-01/anat/*_dseg.nii.gz')
    assert '_res-1mm_' in labels.name
    assert main(options(raw, out, tiny_model, '--output-grid', '1mm', '--fast', '--dry-run')) == 0


@pytest.mark.parametrize(
    ('more', 'code', 'message'),
    [
        (['--participant-label', '77'], 2, 'participant 77 not found; there are: 01, 02'),
        (['--session-label', 'z'], 2, 'session z not found; there are: a'),
        (['--suffix', 'angio', '--participant-label', '01'], 2, 'no image matched'),
        (['--model', 'none'], 2, 'none: no such model'),
        (['--device', 'gpu'], 2, 'use auto, cpu, cuda'),
        (['--device', 'mps', '--dry-run'], 2, 'use auto, cpu, cuda'),
        (['--mem', '32000', '--dry-run'], 2, 'give it in GB, or megabytes with an M'),
        (['-d', 'x=/nowhere'], 2, 'no such folder'),
        (['--exclude-participant-label', '77'], 2, 'participant 77 not found'),
        (['--model-dir', '/nowhere'], 2, '/nowhere: no such folder of models'),
        (['--bids-filter-file', '/nowhere'], 2, '/nowhere: cannot be read'),
        (['--use-plugin', '/nowhere'], 2, '/nowhere: cannot be read'),
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


@pytest.mark.parametrize('option', ['--help', '--version'])
def test_answers_without_heavy_imports(option):
    code = (
        'import sys\nfrom synthseg_bids.app.main import main\n'
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
