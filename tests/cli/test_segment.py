"""The command ``synthseg segment``, from files to files."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from parcel_models import save_cortex_model, save_tiny_parcels

from synthseg_bids.cli.main import main
from synthseg_bids.errors import is_out_of_memory
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.models.card import save_model
from synthseg_bids.models.registry import load_model
from synthseg_bids.parcels import CORTEX, parcel_labels

AFFINE = np.array([[0, 0, 3.0, -40], [-4, 0, 0, 30], [0, -4, 0, 25], [0, 0, 0, 1]])


@pytest.fixture
def scan(tmp_path, rng):
    path = tmp_path / 'scan.nii.gz'
    nib.save(nib.Nifti1Image(rng.normal(size=(12, 14, 15)).astype(np.float32), AFFINE), path)
    return path


def run(*arguments) -> int:
    return main(['segment', *map(str, arguments), '--device', 'cpu'])


def test_writes_labels_volumes_and_posteriors(tmp_path, scan, tiny_model):
    labels, table, posteriors = (
        tmp_path / 'new' / n for n in ('labels.nii.gz', 'volumes.tsv', 'posteriors.nii.gz')
    )
    assert (
        run(scan, labels, '--model', tiny_model, '--volumes', table, '--posteriors', posteriors)
        == 0
    )
    image = nib.load(labels)
    found = np.asanyarray(image.dataobj)
    assert found.shape == (12, 14, 15)
    np.testing.assert_array_equal(image.affine, AFFINE)
    with open(table, newline='') as stream:
        rows = list(csv.DictReader(stream, delimiter='\t'))
    assert list(rows[0]) == ['index', 'name', 'volume_mm3', 'n_voxels', 'soft_volume_mm3']
    assert [int(r['index']) for r in rows[:-1]] == [x.index for x in segmentation_labels()[1:]]
    for row in rows[:-1]:
        n_voxels = (found == int(row['index'])).sum()
        assert int(row['n_voxels']) == n_voxels
        assert float(row['volume_mm3']) == pytest.approx(n_voxels * 48, rel=1e-5)
    assert rows[-1]['name'] == 'Total-Intracranial'
    assert int(rows[-1]['n_voxels']) == (found > 0).sum()
    image = nib.load(posteriors)
    assert image.shape == (12, 14, 15, 33)
    assert image.dataobj.slope == pytest.approx(1 / 255)
    assert image.get_data_dtype() == np.uint8
    sidecar = json.loads((tmp_path / 'new' / 'posteriors.json').read_text())
    assert sidecar['LabelMap'] == [label.name for label in segmentation_labels()]
    winners = np.array(sidecar['Index'])[np.asarray(image.dataobj).argmax(-1)]
    # But for what rounding to bytes makes equal.
    assert (winners == found).mean() > 0.9
    np.testing.assert_allclose(image.get_fdata().sum(-1), 1, atol=0.1)
    np.testing.assert_array_equal(image.affine, AFFINE)


def test_ct_is_clipped(tmp_path, scan, tiny_model):
    image = nib.load(scan)
    for name, data in (('ct', image.get_fdata() * 1000), ('cut', None)):
        data = np.clip(image.get_fdata() * 1000, 0, 80) if data is None else data
        nib.save(nib.Nifti1Image(data.astype(np.float32), AFFINE), tmp_path / f'{name}.nii')
    assert run(tmp_path / 'ct.nii', tmp_path / 'a.nii', '--model', tiny_model, '--ct') == 0
    assert run(tmp_path / 'cut.nii', tmp_path / 'b.nii', '--model', tiny_model) == 0
    first, second = (nib.load(tmp_path / f'{name}.nii').get_fdata() for name in 'ab')
    np.testing.assert_array_equal(first, second)


def test_compat_gives_the_grid_of_the_reference(tmp_path, scan, tiny_model, monkeypatch, capsys):
    monkeypatch.setattr('synthseg_bids.inference.reference.SMALLEST', 32)
    labels, maps, table = (tmp_path / name for name in ('l.nii', 'p.nii', 'v.tsv'))
    options = ('--compat', '--posteriors', maps, '--volumes', table)
    assert run(scan, labels, '--model', tiny_model, *options) == 1
    assert 'tiny: works at 4 mm' in capsys.readouterr().err
    network, card = load_model(tiny_model)
    fine = save_model(tmp_path / 'fine.safetensors', network, replace(card, spacing_mm=1.0))
    assert fine.spacing_mm == 1
    assert run(scan, labels, '--model', tmp_path / 'fine.safetensors', *options) == 0
    image = nib.load(labels)
    # Axes as in the scan, 1 mm apart; a corner of the field of view stays where it is.
    assert image.shape == (48, 56, 45)
    np.testing.assert_allclose(image.affine[:3, :3], AFFINE[:3, :3] / (4, 4, 3), atol=1e-6)
    corner = np.array([-0.5, -0.5, -0.5, 1])
    np.testing.assert_allclose(image.affine @ corner, AFFINE @ corner, atol=1e-5)
    assert nib.load(maps).shape == (48, 56, 45, 33)
    rows = table.read_text().splitlines()
    assert len(rows) == 34


def test_fast_is_without_the_mirrored_scan(tmp_path, scan, tiny_model):
    options = ('--model', tiny_model, '--threads', 1, '--posteriors')
    assert run(scan, tmp_path / 'a.nii', *options, tmp_path / 'pa.nii') == 0
    assert run(scan, tmp_path / 'b.nii', *options, tmp_path / 'pb.nii', '--fast') == 0
    first, second = (nib.load(tmp_path / name).get_fdata() for name in ('pa.nii', 'pb.nii'))
    assert abs(first - second).max() > 0


def test_parcels_in_the_place_of_the_cortex(tmp_path, scan, monkeypatch, capsys):
    monkeypatch.setenv('SYNTHSEG_BIDS_MODELS', str(save_tiny_parcels(tmp_path / 'models')))
    options = ('--model', save_cortex_model(tmp_path / 'cortex.safetensors'), '--fast')
    table, lut = tmp_path / 'v.tsv', tmp_path / 'l.ctab'
    more = ('--parc', '--volumes', table, '--lut', lut)
    assert run(scan, tmp_path / 'a.nii', *options) == 0
    assert run(scan, tmp_path / 'b.nii', *options, *more) == 0
    plain, found = (nib.load(tmp_path / name).get_fdata() for name in ('a.nii', 'b.nii'))
    assert (plain == CORTEX[0]).any()
    parcels = [label.index for label in parcel_labels() if label.target == CORTEX[0]]
    np.testing.assert_array_equal(np.isin(found, parcels), plain == CORTEX[0])
    with table.open(newline='') as stream:
        rows = {row['name']: row for row in csv.DictReader(stream, delimiter='\t')}
    of_parcels = [int(row['n_voxels']) for name, row in rows.items() if 'ctx-lh-' in name]
    assert len(of_parcels) == 34
    assert sum(of_parcels) == int(rows['Left-Cerebral-Cortex']['n_voxels'])
    assert list(rows)[-1] == 'Total-Intracranial'
    assert int(rows['Total-Intracranial']['n_voxels']) == (plain > 0).sum()
    assert ' ctx-rh-insula ' in lut.read_text()
    assert 'not with --compat' in refused(capsys, scan, tmp_path / 'c.nii', '--parc', '--compat')


def refused(capsys, *arguments) -> str:
    """Return the one line that a refused command writes."""
    assert run(*arguments) == 1
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith('synthseg: ')]
    assert len(lines) == 1
    return lines[0]


def test_refusals_are_one_line(tmp_path, scan, tiny_model, capsys):
    out, model = tmp_path / 'out.nii.gz', ('--model', tiny_model)
    assert 'does not exist' in refused(capsys, tmp_path / 'absent.nii', out, *model)
    assert '.nii.gz or .nii as its end' in refused(capsys, scan, tmp_path / 'out.mgz', *model)
    assert 'overwrite the scan' in refused(capsys, scan, scan, *model)
    other = ('--posteriors', tmp_path / 'scan.nii')
    assert 'scan.json: would overwrite' in refused(capsys, scan, out, *other, *model)
    assert 'is a folder' in refused(capsys, scan, out, '--volumes', tmp_path, *model)
    assert 'give a folder for' in refused(capsys, tmp_path, out, *model)
    assert '.nii.gz or .nii as its end' in refused(capsys, scan, tmp_path / '.nii.gz', *model)
    assert 'share one name' in refused(capsys, scan, out, '--posteriors', out, *model)
    assert 'no such model' in refused(capsys, scan, out, '--model', 'wrong')
    assert '--threads 0' in refused(capsys, scan, out, '--threads', 0, *model)
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4, 3), np.float32), AFFINE), tmp_path / '4d.nii')
    assert '4D with 3 volumes' in refused(capsys, tmp_path / '4d.nii', out, *model)
    assert not out.exists()


@pytest.mark.parametrize('compat', [False, True])
def test_scans_without_contrast_are_refused(tmp_path, scan, tiny_model, capsys, compat):
    """A network sees a brain in an image of zeros, which is what becomes of them."""
    tail, out = ['--model', tiny_model], tmp_path / 'out.nii.gz'
    if compat:
        network, card = load_model(tiny_model)
        save_model(tmp_path / 'm.safetensors', network, replace(card, spacing_mm=1.0))
        tail = ['--model', tmp_path / 'm.safetensors', '--compat']
    image = nib.load(scan)
    lost = tmp_path / 'lost_intercept.nii'
    nib.save(nib.Nifti1Image(image.get_fdata(dtype='f4') + 1024, AFFINE), lost)
    message = refused(capsys, lost, out, '--ct', *tail)
    assert 'lost_intercept.nii: 99 % of its voxels have the value 80, between 0 and' in message
    single = np.zeros((12, 14, 15), np.float32)
    single[3, 4, 5] = 1
    nib.save(nib.Nifti1Image(single, AFFINE), tmp_path / 'single.nii')
    assert 'single.nii: 99 % of its voxels have the value 0;' in refused(
        capsys, tmp_path / 'single.nii', out, *tail
    )
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='address space is limited by Linux')
def test_too_little_memory_is_one_line(tmp_path, scan, tiny_model):
    """What is left suffices to read the header; all modules are in memory by then."""
    nib.save(nib.Nifti1Image(np.zeros((400, 400, 400), np.int8), AFFINE), tmp_path / 's.nii.gz')
    code = (
        'import resource, sys\n'
        'from synthseg_bids.cli.main import main\n'
        'assert main(["segment", sys.argv.pop(1), *sys.argv[2:]]) == 0\n'
        'print("limited", file=sys.stderr)\n'
        'used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()\n'
        'resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, resource.RLIM_INFINITY))\n'
        'sys.exit(main(["segment", *sys.argv[1:]]))\n'
    )
    command = [sys.executable, '-c', code, scan, tmp_path / 's.nii.gz', tmp_path / 'o.nii.gz']
    done = subprocess.run(
        [*command, '--model', tiny_model, '--threads', '1'], capture_output=True, text=True
    )
    assert done.returncode == 1
    said = done.stderr.partition('limited\n')[2]
    assert said.startswith('synthseg: out of memory (')
    assert said.count('\n') == 1


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (MemoryError(), True),
        (RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB'), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError('shapes do not match'), False),
    ],
)
def test_other_errors_than_of_memory_are_not_hidden(error, expected):
    assert is_out_of_memory(error) == expected


def test_unknown_devices_are_refused(tmp_path, scan, tiny_model, capsys):
    arguments = ['segment', str(scan), str(tmp_path / 'o.nii'), '--model', str(tiny_model)]
    assert main([*arguments, '--device', 'tpu']) == 1
    assert "device 'tpu'" in capsys.readouterr().err


def test_help_loads_nothing_heavy():
    code = (
        'import sys\n'
        'from synthseg_bids.cli.main import main\n'
        'try: main(["segment", "--help"])\n'
        'except SystemExit: pass\n'
        'sys.exit(any(m in sys.modules for m in ("torch", "numpy", "nibabel", "nipype")))\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert '--posteriors' in done.stdout
