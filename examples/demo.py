"""Segment one head in three contrasts: the real MNI T1w scan and two synthetic ones.

The MNI template (ICBM 152, nonlinear symmetric 2009a: Fonov et al., NeuroImage 54:313, 2011;
NeuroImage 47:S102, 2009) comes with nilearn, and has a licence of its own. It is segmented once;
from that segmentation our generator makes two more scans of the same head, a T2w-like and a
FLAIR-like one. The three become a BIDS data set, which ``synthseg-bids`` then segments, comparing
the synthetic scans with the labels that they were made from.

Usage: python examples/demo.py FOLDER
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from itertools import count
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch

from synthseg_bids.images.volume_io import read_volume, write_image, write_label_map
from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.labels import generation_labels
from synthseg_bids.reports.figures import overlay
from synthseg_bids.synth.deform import DeformationConfig
from synthseg_bids.synth.label_maps import LabelMap, load_label_map, synthesize
from synthseg_bids.synth.parameters import GeneratorConfig, draw
from synthseg_bids.synth.presets import PRESETS

TEMPLATE = 'mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz'
STILL = DeformationConfig(rotation_deg=0, scaling=0, shear=0, translation=0, svf_std=(0, 0))
#: White matter (2), cortex (3) and lateral ventricles (4), from dark to bright.
CONTRASTS = {'T2w': (2, 3, 4), 'FLAIR': (4, 2, 3)}
#: Least difference of their mean intensities, which are between 0 and 255.
LEAST_CONTRAST = 20


def build(folder: Path) -> tuple[Path, Path]:
    """Make the BIDS data set and the reference segmentations of its synthetic scans."""
    bids, reference = folder / 'bids', folder / 'reference'
    anat = bids / 'sub-mni' / 'anat'
    truth = reference / 'sub-mni' / 'anat' / 'sub-mni_desc-truth_dseg.nii.gz'
    anat.mkdir(parents=True)
    truth.parent.mkdir(parents=True)
    for root, name in ((bids, 'MNI demo'), (reference, 'Labels of the synthetic scans')):
        description = {'Name': name, 'BIDSVersion': '1.10.1'}
        if root is reference:
            description |= {'DatasetType': 'derivative', 'GeneratedBy': [{'Name': 'reference'}]}
        (root / 'dataset_description.json').write_text(json.dumps(description, indent=2))
    (bids / 'README').write_text(
        'The MNI template (Fonov et al., NeuroImage 54:313, 2011; copyright and licence: '
        'https://nist.mni.mcgill.ca/atlases/) and two synthetic scans of the same head.\n'
    )

    template = anat / 'sub-mni_T1w.nii.gz'
    shutil.copy(str(files('nilearn.datasets.data').joinpath(TEMPLATE)), template)
    scan = read_volume(template)
    # Of label maps to generate scans from, lesions are not a label.
    segment = Segmenter(lesions='fold')
    write_label_map(truth, segment.segment(scan.data, scan.affine).labels, scan)
    # The same head, so nothing is deformed; the same tissue looks the same on both sides.
    preset = PRESETS['synthseg-bids']
    intensity = replace(preset.intensity, realistic_probability=1, symmetric_probability=1)
    config = replace(preset, size=None, ventricles=None, deformation=STILL, intensity=intensity,
                     resolution=None, lesions=None, artefacts=None)  # fmt: skip
    head = load_label_map(truth)
    for suffix, order in CONTRASTS.items():
        image, _, affine = synthesize(head, config, first_seed(head, config, order))
        write_image(anat / f'sub-mni_{suffix}.nii.gz', image.numpy(), affine)
    return bids, reference


def first_seed(head: LabelMap, config: GeneratorConfig, order: Sequence[int]) -> int:
    """Return the first seed whose contrast has labels in an order, from dark to bright."""
    indices = [label.index for label in generation_labels()]
    rows = [indices.index(label) for label in order]
    x, y, z = head.indices.shape

    def steps(seed: int) -> torch.Tensor:
        drawn = draw(config, (x, y, z), torch.Generator().manual_seed(seed))
        return drawn.intensities.means[rows].diff()

    return next(seed for seed in count() if (steps(seed) > LEAST_CONTRAST).all())


def main(folder: Path) -> int:
    """Build the data set, run the app on it, print a table and draw the results."""
    shutil.rmtree(folder, ignore_errors=True)
    bids, reference = build(folder)
    out = folder / 'derivatives' / 'synthseg-bids'
    command = ['-m', 'synthseg_bids.app.main', str(bids), str(out), 'participant']
    command += ['-d', f'truth={reference}', '-w', str(folder / 'work')]
    code = subprocess.run([sys.executable, *command], check=False).returncode
    if code:
        return code

    columns = {}
    for image in sorted((bids / 'sub-mni' / 'anat').glob('*.nii.gz')):
        suffix = image.name.split('_')[-1].removesuffix('.nii.gz')
        stem = out / 'sub-mni' / 'anat' / f'sub-mni_seg-synthseg_desc-{suffix}'
        volumes = pd.read_table(f'{stem}_morph.tsv').set_index('name')['volume_mm3']
        columns[suffix, 'volume_cm3'] = (volumes / 1000).round(1)
        dice = Path(f'{stem}_dice.tsv')
        if dice.exists() and suffix in CONTRASTS:
            columns[suffix, 'dice'] = pd.read_table(dice).set_index('name')['dice'].round(3)
        scan = nib.as_closest_canonical(nib.load(image))
        labels = nib.as_closest_canonical(nib.load(f'{stem}_dseg.nii.gz'))
        overlay(
            scan.get_fdata(dtype=np.float32),
            np.asarray(labels.dataobj),
            folder / f'overlay_{suffix}.png',
            title=image.name,
            spacing_mm=scan.header.get_zooms()[:3],
        )
    print(pd.DataFrame(columns).to_string())
    print(f'\nOutputs: {out}\nPictures: {folder}/overlay_*.png')
    return 0


if __name__ == '__main__':
    torch.set_grad_enabled(False)
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else 'demo')))
