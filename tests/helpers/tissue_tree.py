"""An output tree with masks and tissue maps of made label maps, without a network."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from synthseg_bids.bids.image_record import ImageRecord
from synthseg_bids.bids.metadata import describe_dataset
from synthseg_bids.bids.names import parse_name
from synthseg_bids.bids.plan import plan_outputs
from synthseg_bids.bids.save import save_image_outputs
from synthseg_bids.bids.status import write_status
from synthseg_bids.bids.tables import morph_rows, write_morph_table, write_qc_table
from synthseg_bids.files import sha256
from synthseg_bids.images.geometry import spacing_mm
from synthseg_bids.images.volume_io import read_volume, write_label_map, write_posteriors
from synthseg_bids.labels import network_labels
from synthseg_bids.measure import tissues

SHAPE = (12, 14, 16)


def make_labels() -> np.ndarray:
    """Fluid around cortex around white matter, with a ventricle and a thalamus."""
    labels = np.zeros(SHAPE, np.int16)
    for label, margin in ((24, 1), (3, 3), (2, 4)):
        labels[margin:-margin, margin:-margin, margin:-margin] = label
    labels[5:7, 6:8, 7:9] = 4
    labels[5:7, 8:10, 7:9] = 10
    return labels


def add_image(
    root: Path, relative: str, mm: float = 2.0, verdict: str = 'pass', status: str = 'done'
) -> ImageRecord:
    """Write a scan below ``root/raw``, in LIA, and its outputs below ``root/out``."""
    scan = root / 'raw' / relative
    scan.parent.mkdir(parents=True, exist_ok=True)
    affine = np.array([[-mm, 0, 0, 9], [0, 0, mm, -9], [0, -mm, 0, 5], [0, 0, 0, 1]])
    labels = make_labels()
    image = nib.Nifti1Image((labels % 7 * 30 + 20).astype(np.int16), affine)
    image.header.set_xyzt_units('mm', 'sec')
    nib.save(image, scan)
    parsed = parse_name(scan.name)
    assert parsed is not None
    found = ImageRecord(scan, relative, parsed[0], parsed[1])
    plan_outputs([found], {})
    work = root / 'work' / scan.name
    work.mkdir(parents=True, exist_ok=True)
    files = write_results(work, scan, labels, verdict)
    provenance = {'SoftwareVersion': '1', 'InputSHA256': sha256(scan)}
    describe_dataset(root / 'out', root / 'raw', {}, tissues=True)
    save_image_outputs(root / 'out', found.stem, files, found.source, {}, [], provenance)
    found.provenance = {'Seconds': 1.0, 'Device': 'cpu'}
    write_status(root / 'out', [found.settle(status, '')])  # type: ignore[arg-type]
    return found


def write_results(work: Path, scan: Path, labels: np.ndarray, verdict: str) -> dict[str, Path]:
    """Write what the nodes of a workflow would; return the paths by kind."""
    like = read_volume(scan)
    channels = tissues.channels_of_parts(network_labels())
    values = [[network_labels()[c] for c in part] for part in channels]
    parts = np.stack([np.isin(labels, part) * np.uint8(255) for part in values])
    maps = {
        'dseg': labels,
        'brain_mask': tissues.brain_mask(labels, spacing_mm(like.affine)),
        'intracranial_mask': tissues.intracranial_mask(labels),
        'tissues': tissues.three_tissues(labels),
    }
    files = {kind: work / f'{kind}.nii.gz' for kind in (*maps, 'gm', 'wm', 'csf')}
    for kind, data in maps.items():
        write_label_map(files[kind], data, like)
    for kind, data in zip(('gm', 'wm', 'csf'), tissues.three_probabilities(parts), strict=True):
        write_posteriors(files[kind], data, like.affine, like)
    files |= {kind: work / f'{kind}.tsv' for kind in ('morph', 'qc')}
    write_morph_table(files['morph'], morph_rows({17: (1, 8.0)}, 8.0))
    row = {'measure': 'verdict', 'value': verdict, 'flag': verdict, 'reason': ''}
    write_qc_table(files['qc'], [row])
    return files
