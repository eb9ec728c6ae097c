"""A session runs as a workflow: two images, what the network has predicted for them, outputs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from app import save_tiny_model
from ellipsoids import motion, seen
from parcel_models import save_tiny_parcels

from synthseg_bids import __version__
from synthseg_bids.bids.group import write_group_tables
from synthseg_bids.bids.image_record import ImageRecord
from synthseg_bids.bids.names import parse_name
from synthseg_bids.bids.save import figure_files, output_files
from synthseg_bids.bids.sessions import (
    SessionRecord,
    is_current,
    list_sessions,
    session_stem,
    stale_files,
)
from synthseg_bids.external.methods import SESSION
from synthseg_bids.files import read_table
from synthseg_bids.images.transform_file import read_transform
from synthseg_bids.inference.soft_segmentation import SoftSegmentation
from synthseg_bids.interfaces import PlotTogether
from synthseg_bids.interfaces.priors import prior_file
from synthseg_bids.labels import channel_labels
from synthseg_bids.measure.overlap import MEAN_NAME
from synthseg_bids.measure.parcel_overlap import MEAN_OF_PARCELS
from synthseg_bids.measure.qc_rules import VERDICT
from synthseg_bids.models.card import read_card
from synthseg_bids.parcels import CORTEX, parcel_labels
from synthseg_bids.workflows.sessions import init_sessions_wf

ANAT = 'sub-1/ses-a/anat'
MOTIONS = {'T1w': np.eye(4), 'T2w': motion((6, -4, 5), (4, -3, 2))}


def with_all_labels(one: SoftSegmentation) -> SoftSegmentation:
    """Return the same with a channel for every label of the network."""
    labels = channel_labels()
    posteriors = torch.zeros(len(labels), *one.posteriors.shape[1:], dtype=torch.uint8)
    for label, channel in zip(one.labels, one.posteriors, strict=True):
        posteriors[labels.index(label)] = channel
    return SoftSegmentation(posteriors, labels, one.grid, one.box)


@pytest.fixture(scope='module')
def session(tmp_path_factory) -> tuple[SessionRecord, Path]:
    """A session that was segmented, and the output dataset."""
    folder = tmp_path_factory.mktemp('session')
    model = save_tiny_model(folder / 'tiny.safetensors')
    settings = SimpleNamespace(
        software_version=__version__, model=str(model), model_sha256='', flip=True, autocrop=True
    )
    (folder / 'priors').mkdir()
    images = []
    for suffix, move in MOTIONS.items():
        prior = with_all_labels(seen(move))
        relative = f'{ANAT}/sub-1_ses-a_{suffix}.nii.gz'
        path = folder / 'raw' / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        scan = prior.posteriors.argmax(0).float().numpy() % 7
        nib.save(nib.Nifti1Image(scan, prior.grid.affine), path)
        prior.save(prior_file(str(folder / 'priors'), str(path), settings, False))
        entities, _, _ = parse_name(path.name)
        images.append(ImageRecord(path, relative, entities, suffix, status='done'))
        if suffix == 'T1w':
            truth = np.array(channel_labels(), 'i2')[prior.posteriors.argmax(0).numpy()]
            # Parcels of the left side, which are compared as well.
            truth[truth == CORTEX[0]] = 1035
            nib.save(nib.Nifti1Image(truth, prior.grid.affine), folder / 'truth.nii.gz')
            (folder / 'broken.nii.gz').write_bytes(b'')
            names = ('truth', 'broken')
            images[0].references = {name: folder / f'{name}.nii.gz' for name in names}
            images[0].reference_uris = {name: f'bids:{name}:T1w' for name in names}
    (record,) = list_sessions(images)
    parcels = save_tiny_parcels(folder / 'models')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SYNTHSEG_BIDS_MODELS', str(parcels))
        patch.setattr('synthseg_bids.inference.combine.COMMON_MM', 2.0)
        workflow = init_sessions_wf(
            [record],
            folder / 'out',
            priors_dir=folder / 'priors',
            model=str(model),
            ct=False,
            parc=True,
        )
        workflow.base_dir = str(folder / 'work')
        workflow.run()
    return record, folder / 'out'


def test_each_image_has_a_label_map_of_all(session):
    record, out = session
    for image, other in zip(record.images, record.images[::-1], strict=True):
        stem = f'sub-1_ses-a_seg-synthsegsession_desc-{image.suffix}'
        labels, scan = nib.load(out / ANAT / f'{stem}_dseg.nii.gz'), nib.load(image.path)
        np.testing.assert_allclose(labels.affine, scan.affine)
        assert labels.shape == scan.shape
        sidecar = json.loads((out / ANAT / f'{stem}_dseg.json').read_text())
        assert sidecar['Sources'] == [image.source, other.source]
        assert sidecar['Overlap'] > 0.95
        assert sidecar['ResidualMM'] < 0.5
        assert (out / ANAT / f'{stem}_morph.tsv').exists()


def test_the_cortex_of_each_image_has_parcels(session):
    record, out = session
    stems = [*(session_stem(image) for image in record.images), record.stem]
    numbers = {label.index for label in parcel_labels()}
    for stem in stems:
        plain, named = (
            np.asanyarray(nib.load(out / output_files(stem, [kind])[0]).dataobj)
            for kind in ('dseg', 'parcels')
        )
        cortex = np.isin(plain, CORTEX)
        assert cortex.any()
        assert {*np.unique(named[cortex])} <= numbers
        np.testing.assert_array_equal(named[~cortex], plain[~cortex])
    name = output_files(stems[0], ['parcels'])[0]
    assert name.endswith('_seg-aparcasegsession_desc-T1w_dseg.nii.gz')
    volumes = {row['name']: row for row in read_table(out / f'{stems[0]}_morph.tsv')}
    assert numbers <= {int(row['index']) for row in volumes.values() if row['index'] != 'n/a'}
    quality = {row['measure']: row for row in read_table(out / f'{stems[0]}_qc.tsv')}
    assert quality['n_missing_parcels']['value'] != 'n/a'


def test_each_image_is_assessed(session):
    record, out = session
    write_group_tables(out, bids_dir=out.parent / 'raw')
    rows = {row['contrast']: row for row in read_table(out / 'group_qc.tsv')}
    assert rows.keys() == MOTIONS.keys()
    for image in record.images:
        stem = f'sub-1_ses-a_seg-synthsegsession_desc-{image.suffix}'
        found = {row['measure']: row for row in read_table(out / ANAT / f'{stem}_qc.tsv')}
        assert found[VERDICT]['value'] == 'fail'
        assert float(found['voxel_size_x_mm']['value']) == pytest.approx(2)
        assert float(found['brain_tissue_ml']['value']) > 100
        # The network has seen each image, not all of them together.
        assert found['flip_dice']['value'] == found['confidence_cortex']['value'] == 'n/a'
        row = rows[image.suffix]
        assert (row['source'], row['method']) == (image.source, SESSION.seg)
        assert (row['verdict'], row['snr']) == ('fail', found['snr']['value'])


def test_each_image_has_a_picture(session):
    record, out = session
    for image in record.images:
        names = figure_files(session_stem(image))
        sidecar = out / output_files(session_stem(image), ['dseg'])[1]
        for kind in ('scan', 'dseg', 'parcels'):
            assert (out / names[kind]).read_bytes().startswith(b'\x89PNG')
            assert names[kind] in json.loads(sidecar.read_text())['Outputs']


def test_images_that_cannot_be_drawn_are_named(session, tmp_path):
    record, out = session
    (tmp_path / 'broken.nii.gz').write_bytes(b'')
    labels = out / output_files(session_stem(record.images[1]), ['dseg'])[0]
    scans = [image.path for image in record.images]
    plot = PlotTogether(in_files=scans, in_labels=[tmp_path / 'broken.nii.gz', labels])
    found = plot.run(cwd=tmp_path).outputs
    assert [figures.keys() for figures in found.figures] == [set(), {'scan', 'dseg'}]
    (note,) = found.notes
    assert note.startswith(f'{scans[0]}: no figure: ')


def test_pictures_of_images_that_are_gone_go_with_them(session):
    record, out = session
    figures = {
        out / name for i in record.images for name in figure_files(session_stem(i)).values()
    }
    written = {path for path in figures if path.exists()}
    assert len(written) == 3 * len(record.images)
    assert written <= {*stale_files(out, record)}
    # Images of the participant that lie in no session leave those of sessions alone.
    other = replace(record, entities={'sub': record.entities['sub']}, stem='sub-1/anat/sub-1_any')
    assert not written & {*stale_files(out, other)}


def test_images_with_references_are_compared(session):
    start = 'sub-1_ses-a_seg-synthsegsession_desc'
    rows = read_table(session[1] / ANAT / f'{start}-T1w_dice.tsv')
    assert {row['reference'] for row in rows} == {'truth'}
    dice = {row['name']: row['dice'] for row in rows}
    assert float(dice[MEAN_NAME]) > 0.9
    assert 0 <= float(dice[MEAN_OF_PARCELS]) <= 1
    sidecar = json.loads((session[1] / ANAT / f'{start}-T1w_dseg.json').read_text())
    tried = {entry['URI']: entry['Used'] for entry in sidecar['References']}
    assert tried == {'bids:truth:T1w': True, 'bids:broken:T1w': False}
    assert not [*(session[1] / ANAT).glob(f'{start}-T2w_dice.*')]


def test_once_in_the_space_halfway(session):
    record, out = session
    label_map = out / f'{record.stem}_dseg.nii.gz'
    assert label_map.name.startswith('sub-1_ses-a_space-session_seg-synthsegsession_')
    assert {2, 3, 41, 42} < {*np.unique(nib.load(label_map).dataobj)}
    sidecar = json.loads((out / f'{record.stem}_dseg.json').read_text())
    assert sidecar['SpatialReference'] == f'bids::{record.stem}_dseg.nii.gz'


def test_transforms_bring_one_image_to_another(session):
    folder = session[1] / ANAT
    moves = [
        read_transform(folder / f'sub-1_ses-a_from-{one}_to-{other}_mode-image_xfm.txt')
        for one, other in (('T1w', 'T2w'), ('T1w', 'session'), ('T2w', 'session'))
    ]
    # Positions in the second image become those in the first.
    np.testing.assert_allclose(moves[0], np.linalg.inv(MOTIONS['T2w']), atol=0.3)
    np.testing.assert_allclose(moves[0], moves[1] @ np.linalg.inv(moves[2]), atol=1e-6)


def test_what_is_up_to_date_is_known(session):
    record, out = session
    assert is_current(out, record)
    assert is_current(out, record, verify=True)
    known = read_card(out.parent / 'models/parcels.safetensors').sha256
    assert is_current(out, record, parcels_sha256=known)
    assert not is_current(out, record, parcels_sha256='0' * 64)
    assert {out / output_files(record.stem, ['parcels'])[0]} <= {*stale_files(out, record)}
    parcels = out / output_files(session_stem(record.images[0]), ['parcels'])[0]
    away = parcels.rename(out.parent / 'away.nii.gz')
    assert not is_current(out, record)
    away.rename(parcels)
    label_map = out / f'{record.stem}_dseg.nii.gz'
    whole = label_map.read_bytes()
    label_map.write_bytes(whole[:-10])
    assert not is_current(out, record)
    label_map.write_bytes(whole)
    marker = out / f'{record.stem}_dseg.json'
    text = marker.read_text()
    marker.write_text(text.replace(json.loads(text)['SessionSHA256'], '0' * 64))
    assert not is_current(out, record)
    marker.write_text(text)
