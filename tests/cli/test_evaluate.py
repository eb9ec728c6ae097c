"""The command ``synthseg evaluate``, from small trees to tables and figures."""

from __future__ import annotations

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread

from synthseg_bids.cli.evaluate import find_scans, source_image
from synthseg_bids.cli.main import main
from synthseg_bids.files import read_table
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.measure.overlap import MEAN_NAME, paper_dice
from synthseg_bids.parcels import CORTEX, NOT_IN_DKT, SIDES, parcel_label, parcel_labels
from synthseg_bids.reports.figures import dice_boxes

LABELS = [label.index for label in segmentation_labels()]
AFFINE = np.diag([2.0, 2, 2, 1])


def save(path, labels, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels.astype(np.int16), affine), path)
    return path


@pytest.fixture
def truth(rng):
    return rng.choice(LABELS, size=(8, 9, 10)).astype(np.int16)


@pytest.fixture
def trees(tmp_path, truth, rng):
    """Two segmented contrasts of sub-1, a session of sub-2 that has no reference, references."""
    ours, references = tmp_path / 'out', tmp_path / 'references'
    save(references / 'sub-1/anat/sub-1_desc-aparcaseg_dseg.nii.gz', truth)
    for suffix, errors in (('T1w', 0.1), ('FLAIR', 0.5)):
        wrong = rng.random(truth.shape) < errors
        save(
            ours / f'sub-1/anat/sub-1_seg-synthseg_desc-{suffix}_dseg.nii.gz',
            np.where(wrong, 0, truth),
        )
    save(ours / 'sub-2/ses-a/anat/sub-2_ses-a_seg-synthseg_desc-T1w_dseg.nii.gz', truth)
    return ours, references


def run(out, *arguments) -> int:
    return main(['evaluate', *map(str, arguments), '--out', str(out)])


def test_a_tree(tmp_path, trees, truth, capsys):
    ours, references = trees
    out = tmp_path / 'evaluation'
    assert run(out, ours, '--reference', f'fs={references}') == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == '2 compared, 1 without a reference, 0 failed'
    rows = read_table(out / 'dice_scans.tsv')
    assert len(rows) == 2 * (32 + 12 + 2)
    assert {(row['scan'], row['contrast'], row['reference']) for row in rows} == {
        ('sub-1_T1w', 'T1w', 'fs'),
        ('sub-1_FLAIR', 'FLAIR', 'fs'),
    }
    path = ours / 'sub-1/anat/sub-1_seg-synthseg_desc-FLAIR_dseg.nii.gz'
    expected = paper_dice(np.asarray(nib.load(path).dataobj), truth)
    found = {r['structure']: r['dice'] for r in rows if r['contrast'] == 'FLAIR'}
    assert float(found[MEAN_NAME]) == pytest.approx(expected['mean'], rel=1e-5)
    assert float(found['caudate']) == pytest.approx(expected['caudate'], rel=1e-5)
    summary = {(r['contrast'], r['structure']): r for r in read_table(out / 'dice_summary.tsv')}
    assert summary['all', MEAN_NAME]['n'] == '2'
    assert summary['T1w', MEAN_NAME]['sd'] == 'n/a'
    assert float(summary['T1w', MEAN_NAME]['mean']) > float(summary['FLAIR', MEAN_NAME]['mean'])
    assert imread(out / 'dice_fs.png').std() > 0.05
    assert sorted(p.name for p in out.iterdir()) == [
        'dice_fs.png',
        'dice_scans.tsv',
        'dice_summary.tsv',
        'structures.tsv',
    ]


def test_single_label_maps(tmp_path, truth):
    reference = save(tmp_path / 'reference.nii.gz', truth)
    # the same labels on a grid twice as fine
    ours = save(
        tmp_path / 'ours.nii.gz',
        truth.repeat(2, 0).repeat(2, 1).repeat(2, 2),
        np.array([[1, 0, 0, -0.5], [0, 1, 0, -0.5], [0, 0, 1, -0.5], [0, 0, 0, 1.0]]),
    )
    assert run(tmp_path / 'out', ours, '--reference', f'a={reference}') == 0
    rows = read_table(tmp_path / 'out' / 'dice_scans.tsv')
    assert {row['dice'] for row in rows} == {'1'}
    assert {(row['scan'], row['contrast']) for row in rows} == {('ours.nii.gz', 'unknown')}


def test_segmentations_of_other_programs_are_translated(tmp_path, truth):
    theirs = truth.copy()
    theirs[theirs == 3] = 1015
    theirs[theirs == 4] = 31
    ours = save(tmp_path / 'freesurfer.nii.gz', theirs)
    reference = save(tmp_path / 'reference.nii.gz', truth)
    assert run(tmp_path / 'out', ours, '--reference', f'a={reference}') == 0
    assert {row['dice'] for row in read_table(tmp_path / 'out' / 'dice_scans.tsv')} == {'1'}


def test_parcels_beside_the_label_map(tmp_path, trees, truth, rng, caplog):
    ours, references = trees
    parcels = truth.copy()
    for cortex in CORTEX:
        labels = [label.index for label in parcel_labels() if label.target == cortex]
        parcels[truth == cortex] = rng.choice(labels, (truth == cortex).sum())
    save(references / 'sub-1/anat/sub-1_desc-aparcaseg_dseg.nii.gz', parcels)
    save(ours / 'sub-1/anat/sub-1_seg-aparcaseg_desc-T1w_dseg.nii.gz', parcels)
    caplog.set_level('INFO')
    assert run(tmp_path / 'evaluation', ours, '--reference', f'fs={references}') == 0
    assert 'DKT' not in caplog.text
    rows = read_table(tmp_path / 'evaluation' / 'parcels.tsv')
    assert {row['contrast'] for row in rows} == {'T1w', 'all'}
    assert {row['dice'] for row in rows} == {'1'}
    present = {label.name for label in parcel_labels() if (parcels == label.index).any()}
    assert {row['parcel'] for row in rows} == present
    # In the scheme of DKT three parcels are missing.
    for side, (cortex, _) in SIDES.items():
        gone = [parcel_label(side, number) for number in NOT_IN_DKT]
        parcels[np.isin(parcels, gone)] = cortex
    save(references / 'sub-1/anat/sub-1_desc-aparcaseg_dseg.nii.gz', parcels)
    assert run(tmp_path / 'evaluation', ours, '--reference', f'fs={references}') == 0
    assert 'parcels of DKT; not compared: bankssts, frontalpole, temporalpole' in caplog.text
    names = {row['parcel'] for row in read_table(tmp_path / 'evaluation' / 'parcels.tsv')}
    assert names == {name for name in present if 'pole' not in name and 'bankssts' not in name}


def test_every_method_has_its_own_parcels(tmp_path):
    anat = tmp_path / 'sub-1/anat'
    anat.mkdir(parents=True)
    for end in ('', 'session', 'long'):
        for seg in ('synthseg', 'aparcaseg'):
            (anat / f'sub-1_seg-{seg}{end}_desc-T1w_dseg.nii.gz').touch()
    found = {scan.path.name: scan.parcels for scan in find_scans(tmp_path, {})}
    assert {name: parcels and parcels.name for name, parcels in found.items()} == {
        f'sub-1_seg-synthseg{end}_desc-T1w_dseg.nii.gz': (
            f'sub-1_seg-aparcaseg{end}_desc-T1w_dseg.nii.gz'
        )
        for end in ('', 'session', 'long')
    }


def test_the_sidecar_tells_the_scan(tmp_path, truth):
    path = save(tmp_path / 'sub-1_run-2_seg-synthseg_desc-T1winv1_dseg.nii.gz', truth)
    found = source_image(path)
    assert (found.relative, found.suffix) == ('sub-1_run-2_T1w', 'T1w')
    source = 'bids:raw:sub-1/anat/sub-1_run-2_inv-1_T1w.nii.gz'
    sidecar = tmp_path / 'sub-1_run-2_seg-synthseg_desc-T1winv1_dseg.json'
    sidecar.write_text(json.dumps({'Sources': [source]}))
    found = source_image(path)
    assert found.entities == {'sub': '1', 'run': '2', 'inv': '1'}
    assert find_scans(path, {})[0].name == 'sub-1_run-2_inv-1_T1w'
    assert source_image(tmp_path / 'other.nii.gz') is None
    sidecar.write_text('{"Sources": 3}')
    assert source_image(path).relative == 'sub-1_run-2_T1w'


def test_one_bad_pair_fails_alone(tmp_path, trees, truth, capsys, caplog):
    ours, references = trees
    far = AFFINE.copy()
    far[0, 3] = 500
    bad = tmp_path / 'bad'
    save(bad / 'sub-1/anat/sub-1_desc-aseg_dseg.nii.gz', truth, far)
    save(bad / 'sub-2/ses-a/anat/sub-2_ses-a_dseg.nii.gz', truth % 4)
    arguments = ('--reference', f'fs={references}', '--reference', f'bad={bad}')
    assert run(tmp_path / 'evaluation', ours, *arguments) == 1
    assert '2 compared, 0 without a reference, 3 failed' in capsys.readouterr().out
    assert 'lies in the field of view' in caplog.text
    assert 'tissue classes' in caplog.text
    rows = read_table(tmp_path / 'evaluation' / 'dice_scans.tsv')
    assert {row['reference'] for row in rows} == {'fs'}


def refused(capsys, out, *arguments) -> str:
    """Return the one line that a refused command writes."""
    assert run(out, *arguments) == 1
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith('synthseg: ')]
    assert len(lines) == 1
    assert not out.exists()
    return lines[0]


def test_refusals_are_one_line(tmp_path, trees, truth, capsys):
    ours, references = trees
    out = tmp_path / 'new'
    tree = ('--reference', f'fs={references}')
    file = ('--reference', f'a={next(references.rglob("*_dseg.nii.gz"))}')
    empty = tmp_path / 'empty'
    empty.mkdir()
    assert 'does not exist' in refused(capsys, out, ours, '--reference', f'a={tmp_path / "no"}')
    assert 'given twice' in refused(capsys, out, ours, *tree, *tree)
    assert 'needs data sets' in refused(capsys, out, ours, *file)
    assert 'no sub-*' in refused(capsys, out, empty, *tree)
    assert 'more than once' in refused(capsys, out, ours, ours, *tree)
    assert 'nothing to compare' in refused(capsys, out, ours, '--reference', f'a={empty}')
    assert 'nothing to compare' in refused(capsys, out, tmp_path / 'absent.nii.gz', *file)


def test_references_need_a_name(tmp_path, capsys):
    with pytest.raises(SystemExit, match='2'):
        run(tmp_path / 'out', tmp_path, '--reference', str(tmp_path))
    assert 'NAME=PATH' in capsys.readouterr().err


def test_help_loads_nothing_heavy():
    code = (
        'import sys\n'
        'from synthseg_bids.cli.main import main\n'
        'try: main(["evaluate", "--help"])\n'
        'except SystemExit: pass\n'
        'heavy = {"torch", "numpy", "nibabel", "nipype", "matplotlib"}\n'
        'sys.exit(bool(heavy & set(sys.modules)))\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '--reference' in done.stdout


def test_boxes_have_a_colour_per_contrast(tmp_path):
    values = {
        'T1w': {'thalamus': [0.7, 0.8, 0.9], 'caudate': [0.6, 0.7, 0.8]},
        'T2w': {'thalamus': [0.5, 0.6, 0.8], 'caudate': []},
    }
    dice_boxes(values, tmp_path / 'boxes.png', title='two contrasts')
    red, _, blue = np.moveaxis(imread(tmp_path / 'boxes.png')[..., :3], -1, 0)
    assert (blue - red > 0.2).sum() > 1000  # the first colour
    assert (red - blue > 0.2).sum() > 1000  # the second one
