"""The shipped network on a real head: cavities, and wrong axes in a header, are noticed."""

from __future__ import annotations

from importlib.resources import files

import nibabel as nib
import numpy as np
import pytest

from synthseg_bids import Segmenter
from synthseg_bids.images.volume_io import read_volume
from synthseg_bids.measure.qc_rules import VERDICT

pytestmark = pytest.mark.slow
TEMPLATE = 'mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz'


@pytest.fixture(scope='module')
def segment() -> Segmenter:
    return Segmenter(device='cpu', flip=False)


@pytest.fixture
def head() -> nib.Nifti1Image:
    """Return the MNI template, which comes with nilearn."""
    pytest.importorskip('nilearn')
    scan = read_volume(str(files('nilearn.datasets.data').joinpath(TEMPLATE)))
    return nib.Nifti1Image(scan.data, scan.affine)


def test_a_cavity_asks_for_a_look(segment, head, rng):
    """After a resection there are 60 ml of fluid where white matter and cortex were."""
    data = head.get_fdata(dtype=np.float32)
    place = head.affine[:3, :3] @ np.indices(data.shape).reshape(3, -1) + head.affine[:3, 3:]
    distance = np.linalg.norm(place - np.array([[-28.0], [38.0], [18.0]]), axis=0)
    cavity = (distance < 24).reshape(data.shape) & (data > 0)
    fluid = np.percentile(data[data > 0], 5)
    data[cavity] = fluid + rng.normal(0, 0.02 * data.max(), int(cavity.sum()))
    result = segment(nib.Nifti1Image(data, head.affine))
    qc = result.qc
    assert qc.loc[VERDICT, 'value'] == 'review'
    flagged = set(qc.index[qc['flag'] == 'review'])
    assert {'unsure_difference_ml', 'odd_intensity_ml'} <= flagged
    assert qc.loc['unsure_difference_ml', 'value'] > 5


def test_a_header_that_exchanges_front_and_back_fails(segment, head):
    wrong = np.diag([1, -1, 1, 1]) @ head.affine
    qc = segment(nib.Nifti1Image(np.asarray(head.dataobj), wrong)).qc
    assert qc.loc[VERDICT, 'value'] == 'fail'
    assert qc.loc['axes_gain', 'value'] > 0.1
    assert 'runs to R, P, S' in qc.loc['axes_gain', 'reason']
