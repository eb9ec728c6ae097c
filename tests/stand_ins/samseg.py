"""Stands in for SAMSEG in tests of its command line: the real one takes 12 minutes.

Takes the options that ours gives, reads and writes the same files, and puts labels of FreeSurfer
where the image is: halves of white matter, a slab of cortex and hypointensities, skull around.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument('--input', nargs='+', required=True)
parser.add_argument('--output', type=Path, required=True)
parser.add_argument('--threads', type=int, default=1)
parser.add_argument('--pallidum-separate', action='store_true')
options = parser.parse_args()
# What the tests want it to do, in its environment.
if calls := os.environ.get('STAND_IN_CALLS'):
    with open(calls, 'a') as stream:
        stream.write(f'PYTHONPATH={os.environ.get("PYTHONPATH")} {" ".join(sys.argv[1:])}\n')
if os.environ.get('STAND_IN_FAILS'):
    sys.exit('RuntimeError: inconsistent atlas')
if os.environ.get('STAND_IN_KILLED'):
    os.kill(os.getpid(), signal.SIGKILL)
if os.environ.get('STAND_IN_SILENT'):
    sys.exit()

image = nib.load(options.input[0])
labels = np.full(image.shape, 165, np.int32)
n = image.shape[0] // 2
labels[1:n, 1:-1, 1:-1], labels[n:-1, 1:-1, 1:-1] = 2, 41
labels[1:n, 1:3, 1:-1], labels[n:-1, 1:3, 1:-1] = 3, 42
labels[n - 1 : n + 2, 4, 4] = 77
options.output.mkdir(exist_ok=True)
nib.save(nib.MGHImage(labels, image.affine), options.output / 'seg.mgz')
voxel = abs(np.linalg.det(image.affine[:3, :3]))
rows = [
    f'{row + 1:3d} {label:4d} 0 {(labels == label).sum() * voxel:.6f} name'
    for row, label in enumerate((2, 3, 41, 42, 77, 165))
]
head = '# ColHeaders  Index SegId NVoxels Volume_mm3 StructName'
(options.output / 'samseg.fs.stats').write_text('\n'.join([head, *rows, '']))
