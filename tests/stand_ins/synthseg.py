"""Stands in for FreeSurfer's mri_synthseg in tests of its command line.

Takes the options that ours gives, and writes halves of white matter on a grid of another size
than that of the image, as the real one does.
"""

import argparse

import nibabel as nib
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument('--i', required=True)
parser.add_argument('--o', required=True)
parser.add_argument('--threads', type=int, default=1)
parser.add_argument('--fast', action='store_true')
parser.add_argument('--cpu', action='store_true')
options = parser.parse_args()

image = nib.load(options.i)
labels = np.full([2 * n for n in image.shape], 2, np.int32)
labels[image.shape[0] :] = 41
halved = image.affine @ np.diag([0.5, 0.5, 0.5, 1])
halved[:3, 3] = image.affine[:3, 3] - image.affine[:3, :3] @ [0.25, 0.25, 0.25]
nib.save(nib.Nifti1Image(labels, halved), options.o)
