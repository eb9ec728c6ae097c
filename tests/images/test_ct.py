"""CT scans are recognised and segmented."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nipype.pipeline.engine import Node
from PIL import Image

from synthseg_bids import Segmenter
from synthseg_bids.images.ct import CT_RANGE, ct_setting, describe_ct, is_hounsfield
from synthseg_bids.images.header import Header
from synthseg_bids.interfaces import PlotSegmentation
from synthseg_bids.measure.network_report import NetworkReport
from synthseg_bids.measure.qc import assess


@pytest.fixture
def head(rng) -> np.ndarray:
    """Return a ball of soft tissue in bone, skin and air, in Hounsfield units with noise."""
    axes = np.meshgrid(*[np.linspace(-1, 1, 48)] * 3, indexing='ij')
    radius = np.sqrt(sum(axis**2 for axis in axes))
    layers = [(0.6, 33.0), (0.7, 900.0), (0.85, -90.0)]
    scan = np.full(radius.shape, -1000.0)
    for outer, value in reversed(layers):
        scan[radius < outer] = value
    return (scan + rng.normal(0, 5, scan.shape)).astype(np.float32)


def test_hounsfield_units_are_recognised(head):
    assert is_hounsfield(head)
    assert is_hounsfield(np.rint(head).astype(np.int16))
    assert is_hounsfield(np.maximum(head, -1024)), 'as scanners clip air'
    padded = np.pad(head, 10, constant_values=-3024)
    assert is_hounsfield(padded)


@pytest.mark.parametrize(
    'change',
    [
        lambda head: head + 1024,
        lambda head: np.clip(head, *CT_RANGE),
        lambda head: np.where(head < -500, -1024, abs(head) / 4),
        lambda head: (head - head.mean()) / head.std(),
        lambda head: np.where(abs(head - 33) < 25, head, -1000),
    ],
    ids=['shifted', 'windowed', 'MRI padded with -1024', 'standardised', 'stripped'],
)
def test_others_are_not(head, change):
    assert not is_hounsfield(change(head))


@pytest.mark.parametrize(
    ('ct', 'suffix', 'setting'),
    [
        (None, 'T1w', None),
        (None, 'CT', True),
        (None, 'ct', True),
        (False, 'CT', False),
        (True, 'T1w', True),
    ],
)
def test_what_the_user_says_counts_then_the_suffix(ct, suffix, setting):
    assert ct_setting(ct, suffix) is setting
    assert describe_ct(setting) == ('auto' if setting is None else setting)


def test_recognised_scans_are_segmented_as_ct(head, tiny_model):
    segment = Segmenter(tiny_model, 'cpu')
    image, clipped = (
        nib.Nifti1Image(data, np.eye(4)) for data in (head, np.clip(head, *CT_RANGE))
    )
    recognised, by_hand, plain = segment(image), segment(clipped), segment(image, ct=False)
    assert recognised.segmentation.report.ct
    assert not by_hand.segmentation.report.ct
    assert not plain.segmentation.report.ct
    labels = [np.asarray(result.labels.dataobj) for result in (recognised, by_hand, plain)]
    np.testing.assert_array_equal(labels[0], labels[1])
    assert (labels[0] != labels[2]).any()
    assert recognised.qc.loc['contrast_guess', 'value'] == 'CT'


def test_quality_control_names_ct_under_another_suffix(head):
    labels = np.where(abs(head - 33) < 25, 2, 0)
    rows = {
        row['measure']: row
        for row in assess(head, labels, np.eye(4), Header(), NetworkReport(ct=True), 'T1w')
    }
    assert rows['contrast_conflict']['reason'] == 'looks CT, but is named T1w'
    rows = {
        row['measure']: row
        for row in assess(head, labels, np.eye(4), Header(), NetworkReport(ct=True), 'CT')
    }
    assert rows['contrast_conflict']['flag'] == 'pass'


@pytest.mark.parametrize('ct', [True, False])
def test_pictures_show_the_window_of_the_brain(head, tmp_path, ct):
    labels = np.where(abs(head - 33) < 25, 2, 0)
    for name, data in (('scan.nii', head), ('labels.nii', labels.astype(np.int16))):
        nib.save(nib.Nifti1Image(data, np.diag([4.0, 4.0, 4.0, 1])), tmp_path / name)
    node = Node(
        PlotSegmentation(
            in_file=str(tmp_path / 'scan.nii'), in_labels=str(tmp_path / 'labels.nii'), ct=ct
        ),
        name='plot',
        base_dir=tmp_path,
    )
    picture = np.asarray(Image.open(node.run().outputs.out_scan).convert('L')).astype(int)
    # Soft tissue is grey in the window; without, it is nearly as bright as bone.
    grey = (picture > 90) & (picture < 220)
    assert bool(grey.mean() > 0.2) is ct
