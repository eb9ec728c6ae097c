"""What sMRIPrep does with precomputed derivatives; runs in its own environment and prints JSON.

Usage: python smriprep_takes.py DERIVATIVES PARTICIPANT T1W
"""

from __future__ import annotations

import json
import os
import sys
import tempfile

import nibabel as nib
import numpy as np


def main(derivatives: str, participant: str, t1w: str) -> None:
    """Collect the derivatives, conform the scan and mask it, as the anatomical workflow does."""
    # Absent from our own environment, in which all modules of the tests are imported.
    from niworkflows.interfaces.images import Conform, TemplateDimensions
    from niworkflows.interfaces.nibabel import ApplyMask
    from smriprep.utils.bids import collect_derivatives
    from smriprep.workflows import anatomical

    found = collect_derivatives(derivatives, participant, ['MNI152NLin2009cAsym', 'fsnative'])
    os.chdir(tempfile.mkdtemp())
    dimensions = TemplateDimensions(anat_list=[t1w]).run().outputs
    zooms, shape = dimensions.target_zooms, dimensions.target_shape
    conformed = Conform(in_file=t1w, target_zooms=zooms, target_shape=shape).run().outputs
    masked = ApplyMask(in_file=conformed.out_file, in_mask=found['t1w_mask']).run().outputs
    scan = nib.load(masked.out_file)
    grids = {
        path: bool(
            nib.load(path).shape == scan.shape
            and np.allclose(nib.load(path).affine, scan.affine, atol=1e-5)
        )
        for path in (found['t1w_mask'], found['t1w_dseg'], *found['t1w_tpms'])
    }
    tissues = nib.load(found['t1w_dseg']).get_fdata()
    values = nib.load(conformed.out_file).get_fdata()
    print(json.dumps({
        'found': {key: value for key, value in found.items() if key != 'transforms'},
        'on the grid': grids,
        'masked voxels': int((scan.get_fdata() != 0).sum()),
        'intensities': [np.unique(values[tissues == label]).tolist() for label in (1, 2, 3)],
        'aseg to three': [int(label) for label in anatomical._aseg_to_three()],
    }))  # fmt: skip


if __name__ == '__main__':
    main(*sys.argv[1:])
