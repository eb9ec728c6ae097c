"""With --longitudinal all visits of a participant are segmented together."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from app import options, write_description, write_image
from parcel_models import save_tiny_parcels
from scipy.ndimage import gaussian_filter

from synthseg_bids.app.main import main
from synthseg_bids.files import read_table
from synthseg_bids.images.transform_file import read_transform
from synthseg_bids.models.card import ModelCard, read_card, save_model
from synthseg_bids.models.unet import NetworkConfig, UNet3D
from synthseg_bids.parcels import CORTEX, parcel_labels

LABELS = 'anat/sub-01_{0}_seg-synthseglong_desc-T1w_dseg.nii.gz'


def save_model_of_many_labels(path: Path) -> Path:
    """Write a network of random weights whose labels are many and lie together."""
    torch.manual_seed(0)
    config = NetworkConfig(features=4, levels=3, norm='instance', norm_placement='conv')
    network = UNet3D(config)
    with torch.no_grad():
        network.likelihood.weight.normal_(0, 20)
        network.likelihood.bias.zero_()
    save_model(path, network, ModelCard(name='many', network=config, spacing_mm=4.0))
    return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two visits of one participant, moved; a single one of another; a truncated third visit."""
    root = tmp_path_factory.mktemp('visits')
    rng = np.random.default_rng(0)
    data = gaussian_filter(rng.normal(size=(24, 24, 24)), 2.0).astype('f4')
    # The second one has wider empty borders, which are cut off before it is segmented.
    for session, shift, width in (('ses-a', 0.0, (16, 16)), ('ses-b', 5.0, (50, 26))):
        padded = np.pad(data, (width, (10, 16), (12, 8)))
        path = root / f'raw/sub-01/{session}/anat/sub-01_{session}_T1w.nii.gz'
        path.parent.mkdir(parents=True)
        affine = np.diag([4.0, 4, 4, 1])
        affine[:3, 3] = shift - 4 * width[0], -40, -48
        nib.save(nib.Nifti1Image(padded, affine), path)
    bad = root / 'raw/sub-01/ses-c/anat/sub-01_ses-c_T1w.nii.gz'
    write_image(bad)
    bad.write_bytes(bad.read_bytes()[:1500])
    shutil.copytree(root / 'raw/sub-01/ses-a', root / 'raw/sub-02/ses-a')
    (root / 'raw/sub-02/ses-a/anat/sub-01_ses-a_T1w.nii.gz').rename(
        root / 'raw/sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz'
    )
    write_description(root / 'raw', 'Toy')
    times = 'session_id\tacq_time\nses-a\t2020-01-01T00:00:00\nses-b\t2022-01-01T00:00:00\n'
    (root / 'raw/sub-01/sub-01_sessions.tsv').write_text(times)
    save_model_of_many_labels(root / 'many.safetensors')
    save_tiny_parcels(root / 'models')
    return root


def run(folder: Path, *more: object) -> int:
    raw, out, model = folder / 'raw', folder / 'out', folder / 'many.safetensors'
    return main([*options(raw, out, model, '--longitudinal', '--parc', '--debug', 'pdb', *more)])


@pytest.mark.slow
def test_visits_together(folder, capsys, caplog, monkeypatch):
    monkeypatch.setenv('SYNTHSEG_BIDS_MODELS', str(folder / 'models'))
    monkeypatch.setattr('sys.stdin', io.StringIO())  # for the debugger at the truncated image
    assert run(folder) == 1  # the truncated image
    assert capsys.readouterr().out.splitlines()[-1] == '3 done, 0 skipped, 1 failed'
    ours = [record for record in caplog.records if record.name.startswith('synthseg_bids')]
    (error,) = [record.getMessage() for record in ours if record.levelname == 'ERROR']
    assert 'truncated' in error
    out = folder / 'out'
    for session in ('ses-a', 'ses-b'):
        path = out / 'sub-01' / session / LABELS.format(session)
        sidecar = json.loads(Path(str(path).replace('.nii.gz', '.json')).read_text())
        assert len(sidecar['Sources']) == 2
        assert sidecar['SpatialReference'] == sidecar['Sources'][0]
        assert sidecar['Overlap'] > 0.95
        assert sidecar['ChangesFollowedByIntensities'] is True
        assert (
            sidecar['ParcelModelSHA256'] == read_card(folder / 'models/parcels.safetensors').sha256
        )
        plain, parcels = (
            np.asanyarray(nib.load(str(path).replace('-synthseglong', seg)).dataobj)
            for seg in ('-synthseglong', '-aparcaseglong')
        )
        cortex = np.isin(plain, CORTEX)
        assert cortex.any()
        assert {*np.unique(parcels[cortex])} <= {label.index for label in parcel_labels()}
        np.testing.assert_array_equal(parcels[~cortex], plain[~cortex])
        assert (
            out / f'sub-01/figures/sub-01_{session}_seg-synthseglong_desc-T1w_dseg.png'
        ).exists()
        alone = np.asanyarray(nib.load(str(path).replace('synthseglong', 'synthseg')).dataobj)
        assert 2 * ((plain > 0) & (alone > 0)).sum() > 0.95 * (
            (plain > 0).sum() + (alone > 0).sum()
        )
        raw = nib.load(folder / f'raw/sub-01/{session}/anat/sub-01_{session}_T1w.nii.gz')
        np.testing.assert_array_equal(nib.load(path).affine, raw.affine)
    status = read_table(out / 'group_status.tsv')
    together = [row for row in status if row['method'] == 'synthseglong']
    assert [(row['session_id'], row['status']) for row in together] == [
        ('ses-a', 'done'), ('ses-b', 'done'),
    ]  # fmt: skip
    transforms = [
        read_transform(out / f'sub-01/{s}/anat/sub-01_{s}_from-T1w_to-midspace_mode-image_xfm.txt')
        for s in ('ses-a', 'ses-b')
    ]
    moved = transforms[1] @ np.linalg.inv(transforms[0])
    np.testing.assert_allclose(moved[:3, 3], [5, 0, 0], atol=0.1)
    table = out / 'sub-01/anat/sub-01_seg-synthseglong_change.tsv'
    rows = read_table(table)
    assert rows[-1]['name'] == 'Total-Intracranial'
    assert all(abs(float(row['change'])) < 1 for row in rows if row['change'] != 'n/a')
    assert json.loads(table.with_suffix('.json').read_text())['TimeUnit'] == 'year'
    assert not list((out / 'sub-02').rglob('*seglong*'))
    assert (out / 'seg-aparcaseglong_dseg.tsv').exists()
    report = (out / 'sub-01.html').read_text()
    assert 'Change between visits' in report
    assert 'There is no picture of this image' not in report
    for kind in ('morph', 'qc'):
        methods = {row['method'] for row in read_table(out / f'group_{kind}.tsv')}
        assert methods == {'synthseg', 'synthseglong'}

    # A second run has nothing to do, and without the intermediate files it gives the same.
    before = (out / 'sub-01/ses-a' / LABELS.format('ses-a')).read_bytes()
    written = table.stat().st_mtime_ns
    assert run(folder) == 1
    assert table.stat().st_mtime_ns == written
    table.unlink()
    assert run(folder, '--clean-workdir') == 1
    assert read_table(table) == rows
    assert (out / 'sub-01/ses-a' / LABELS.format('ses-a')).read_bytes() == before
