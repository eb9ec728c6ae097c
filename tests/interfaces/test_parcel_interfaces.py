"""Nodes that find, measure, assess, draw and compare the parcels of the cortex."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread
from nipype.interfaces.base import isdefined
from parcel_models import save_cortex_model, save_tiny_parcels
from random_parcels import with_parcels
from report_tree import small_head

from synthseg_bids.files import read_table
from synthseg_bids.interfaces import (
    AssessQuality,
    CompareSegmentations,
    MeasureVolumes,
    PlotSegmentation,
    SegmentImage,
)
from synthseg_bids.labels import fold_reference
from synthseg_bids.measure.parcel_overlap import MEAN_OF_PARCELS
from synthseg_bids.models.card import read_card
from synthseg_bids.parcels import CORTEX, parcel_label, parcel_labels


@pytest.fixture
def head(tmp_path, rng, monkeypatch):
    """Paths of a scan, its label map, and the same with parcels."""
    monkeypatch.chdir(tmp_path)
    scan, labels, affine = small_head()
    maps = {'scan': scan, 'labels': labels, 'parcels': with_parcels(labels, rng)}
    paths = {name: str(tmp_path / f'{name}.nii.gz') for name in maps}
    for name, data in maps.items():
        nib.save(nib.Nifti1Image(data, affine), paths[name])
    return paths


def data_of(path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def test_segment_finds_parcels_on_both_grids(tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = save_tiny_parcels(tmp_path / 'models')
    monkeypatch.setenv('SYNTHSEG_BIDS_MODELS', str(folder))
    image = tmp_path / 'image.nii.gz'
    nib.save(nib.Nifti1Image(rng.random((9, 10, 11)).astype('f4'), np.diag([8.0, 8, 8, 1])), image)
    options = {'model': str(save_cortex_model(tmp_path / 'cortex.safetensors')), 'num_threads': 1}
    node = SegmentImage(in_file=str(image), parcels=True, labels_1mm=True, flip=False, **options)
    outputs = node.run().outputs
    for suffix in ('', '_1mm'):
        labels = data_of(getattr(outputs, f'out_labels{suffix}'))
        parcels = data_of(getattr(outputs, f'out_parcels{suffix}'))
        left = labels == CORTEX[0]
        assert left.any()
        assert {*np.unique(parcels[left])} <= {x.index for x in parcel_labels() if x.target == 3}
        np.testing.assert_array_equal(parcels[~left], labels[~left])
    card = read_card(folder / 'parcels.safetensors')
    assert outputs.provenance['ParcelModelSHA256'] == card.sha256
    plain = SegmentImage(in_file=str(image), flip=False, **options).run().outputs
    assert not isdefined(plain.out_parcels)
    assert 'ParcelModelSHA256' not in plain.provenance
    np.testing.assert_array_equal(data_of(plain.out_labels), data_of(outputs.out_labels))


def test_measure_parcels(head):
    outputs = MeasureVolumes(
        in_labels=head['labels'], in_parcels=head['parcels'], in_file=head['scan']
    )
    outputs = outputs.run().outputs
    *rows, total = read_table(Path(outputs.out_table))
    volumes = {int(row['index']): float(row['volume_mm3']) for row in rows}
    for cortex in CORTEX:
        of_side = [label.index for label in parcel_labels() if label.target == cortex]
        assert sum(volumes[label] for label in of_side) == pytest.approx(volumes[cortex])
    brain = sum(volume for label, volume in volumes.items() if label < 1000)
    assert float(total['volume_mm3']) == pytest.approx(brain)
    assert {row['soft_volume_mm3'] for row in rows if int(row['index']) > 1000} == {'n/a'}
    text = Path(outputs.out_parcel_stats).read_text()
    aseg, aparc = (
        [line.split() for line in lines.splitlines() if not line.startswith('#')]
        for lines in (Path(outputs.out_stats).read_text(), text)
    )
    assert max(int(cells[1]) for cells in aseg) < 1000
    assert [cells[4] for cells in aparc] == [label.name for label in parcel_labels()]
    scan, parcels = data_of(head['scan']), data_of(head['parcels'])
    for cells in aparc:
        assert float(cells[3]) == pytest.approx(volumes[int(cells[1])])
        assert float(cells[5]) == pytest.approx(scan[parcels == int(cells[1])].mean(), abs=1e-3)
    assert f'CortexVol, Total cortical gray matter volume, {volumes[3] + volumes[42]:.6f}' in text
    assert 'CerebralWhiteMatterVol' not in text
    assert not isdefined(MeasureVolumes(in_labels=head['labels']).run().outputs.out_parcel_stats)


def test_a_parcel_without_a_voxel_asks_for_a_look(head):
    path, gone = head['parcels'], parcel_label('right', 32)
    rows = {}
    for number in range(2):
        found = AssessQuality(in_file=head['scan'], in_labels=head['labels'], in_parcels=path)
        for row in read_table(Path(found.run().outputs.out_table)):
            rows[number, row['measure']] = row
        image = nib.load(path)
        parcels = np.asanyarray(image.dataobj)
        parcels[parcels == gone] = parcel_label('right', 27)
        nib.save(nib.Nifti1Image(parcels, image.affine), path)
    assert rows[0, 'n_missing_parcels']['value'] == '0'
    row = rows[1, 'n_missing_parcels']
    assert (row['value'], row['flag']) == ('1', 'review')
    assert row['reason'] == 'parcels not found: ctx-rh-frontalpole'
    without = AssessQuality(in_file=head['scan'], in_labels=head['labels']).run().outputs
    values = {row['measure']: row['value'] for row in read_table(Path(without.out_table))}
    assert values['n_missing_parcels'] == 'n/a'


def test_parcels_are_drawn_in_the_slices_of_the_labels(head):
    node = PlotSegmentation(
        in_file=head['scan'], in_labels=head['labels'], in_parcels=head['parcels']
    )
    outputs = node.run().outputs
    labels, parcels = imread(outputs.out_overlay), imread(outputs.out_parcels)
    assert labels.shape == parcels.shape
    different = (labels != parcels).any(-1)
    assert different.any()
    # The same pixels have a label.
    np.testing.assert_array_equal(labels[..., 3], parcels[..., 3])


def test_compare_with_a_reference_that_has_parcels(head, tmp_path):
    folded = fold_reference(data_of(head['parcels']))
    np.testing.assert_array_equal(folded, data_of(head['labels']))
    node = CompareSegmentations(
        in_labels=head['labels'],
        in_parcels=head['parcels'],
        references={'fs': head['parcels'], 'plain': head['labels']},
    )
    rows = read_table(Path(node.run().outputs.out_table))
    mean = {row['reference']: row for row in rows if row['name'] == MEAN_OF_PARCELS}
    assert {*mean} == {'fs'}
    assert mean['fs']['dice'] == '1'
    parcels = [row for row in rows if row['name'].startswith('ctx-')]
    assert len(parcels) == 68
    assert {row['reference'] for row in parcels} == {'fs'}
