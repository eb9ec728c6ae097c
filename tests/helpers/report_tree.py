"""An output dataset for reports, written with our own writers: small heads, many participants."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
from random_parcels import with_parcels

from synthseg_bids.bids.agreement import write_agreement
from synthseg_bids.bids.group import write_group_tables
from synthseg_bids.bids.image_record import ImageRecord
from synthseg_bids.bids.metadata import describe_dataset
from synthseg_bids.bids.names import anat_folder, bids_uri, derivative_stem
from synthseg_bids.bids.save import figure_files, output_files
from synthseg_bids.bids.status import write_status
from synthseg_bids.bids.tables import (
    morph_rows,
    write_dice_table,
    write_morph_table,
    write_qc_table,
)
from synthseg_bids.files import write_json, write_text
from synthseg_bids.labels import CSF, LESION, segmentation_labels
from synthseg_bids.measure.expected_dice import FITTED, expected_dice
from synthseg_bids.measure.overlap import MEAN_NAME
from synthseg_bids.measure.qc import judge
from synthseg_bids.measure.qc_limits import QC_GROUPS, VOLUME_RANGES_ML
from synthseg_bids.parcels import parcel_labels
from synthseg_bids.reports.mosaic import draw_mosaic, label_palette
from synthseg_bids.reports.png import write_grey, write_indexed

LABELS = [label for label in segmentation_labels() if label.index]
CRASH = 'logs/run-1/sub-01/crash.txt'


def small_head() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a scan, its labels (every one of them a block) and its affine: 8 x 8 x 12 cm."""
    labels = np.zeros((40, 40, 30), np.int16)
    places = product(range(4, 36, 8), range(4, 36, 8), (6, 18))
    for label, (x, y, z) in zip(LABELS, places, strict=True):
        labels[x : x + 7, y : y + 7, z : z + 8] = label.index
    scan = labels * 3.0 + np.random.default_rng(1).normal(0, 4, labels.shape)
    return scan.astype(np.float32), labels, np.diag([2.0, 2.0, 4.0, 1.0])


def write_tree(
    root: Path,
    subjects: Sequence[str] = ('01', '02', '03'),
    sessions: Sequence[str] = (),
    contrasts: Sequence[str] = ('T1w', 'T2w'),
    label_maps: bool = True,
    parcels: bool = False,
    lesions: Sequence[str] = (),
) -> Path:
    """Write an output dataset with its group tables.

    Parameters
    ----------
    root : Path
    subjects, sessions, contrasts : sequence of str
    label_maps : bool
        Write label maps, figures and agreement, too.
    parcels : bool
        Write parcels of the cortex, too.
    lesions : sequence of str
        Contrasts with a lesion in the left white matter.

    Returns
    -------
    Path
        The output dataset; the very first image has reference overlaps, and another one of its
        participant failed.
    """
    out, raw = root / 'synthseg-bids', root / 'raw'
    raw.mkdir(parents=True)
    write_json(raw / 'dataset_description.json', {'Name': 'Test heads', 'BIDSVersion': '1.10.0'})
    describe_dataset(out, raw, {})
    rng = np.random.default_rng(0)
    records = []
    for subject, session, contrast in product(subjects, sessions or [''], contrasts):
        entities = {'sub': subject} | ({'ses': session} if session else {})
        name = '_'.join(f'{k}-{v}' for k, v in entities.items()) + f'_{contrast}.nii.gz'
        relative = str(anat_folder(entities) / name)
        stem = str(anat_folder(entities) / derivative_stem(entities, contrast))
        lesion = contrast in lesions
        _write_image(out, stem, relative, rng, label_maps, not records, parcels, lesion)
        provenance = {'Seconds': 3.21, 'Device': 'cpu'}
        done = ImageRecord(raw / relative, relative, status='done', provenance=provenance)
        records.append(done)
    first = subjects[0]
    reason = 'probably damaged or truncated (CRC check failed); export or download it again'
    failed = f'sub-{first}/anat/sub-{first}_FLAIR.nii.gz'
    record = ImageRecord(raw / failed, failed)
    records.append(record.settle('failed', f'/data/{failed}: {reason}', CRASH))
    write_text(out / CRASH, 'Traceback (most recent call last):\nOSError: CRC check failed\n')
    bold = f'sub-{first}/anat/sub-{first}_bold.nii.gz'
    records.append(ImageRecord(raw / bold, bold).settle('skipped', 'not chosen'))
    write_status(out, records)
    write_text(
        out / 'logs' / 'CITATION.md', '# Methods\n\nScans were segmented with *synthseg*.\n'
    )
    write_text(out / 'logs' / 'run-1' / 'config.toml', 'device = "cpu"\nfast = false\n')
    if label_maps:
        write_agreement(out)
    write_group_tables(out)
    return out


def _write_image(
    out: Path,
    stem: str,
    relative: str,
    rng: np.random.Generator,
    label_maps: bool,
    compared: bool,
    parcels: bool,
    lesion: bool,
) -> None:
    sources = {'Sources': [bids_uri('raw', relative)]}
    size = np.exp(rng.normal(0, 0.12))
    volumes = {
        label.index: (1000, 1000 * size * _typical_ml(label.index) * np.exp(rng.normal(0, 0.08)))
        for label in LABELS
    }
    if lesion:
        volumes[LESION] = (8, 4321.0)
    total = sum(volume for _, volume in volumes.values())
    of_parcels = {
        label.index: (100, volumes[label.target][1] / 34 * np.exp(rng.normal(0, 0.08)))
        for label in parcel_labels()
        if parcels
    }
    rows = morph_rows(volumes, total, parcels=of_parcels)
    write_morph_table(out / f'{stem}_morph.tsv', rows)
    values = {f'confidence_{group}': float(rng.beta(30, 3)) for group in QC_GROUPS}
    expected = expected_dice(values, FITTED['origin']['model_sha256'])
    values |= {name: dice for name, (dice, _) in expected.items()}
    errors = {name: error for name, (_, error) in expected.items()}
    values |= {'snr': float(rng.normal(12, 3)), 'total_intracranial_ml': total / 1000}
    write_qc_table(out / f'{stem}_qc.tsv', judge(values, {}, errors=errors))
    for kind in ('morph', 'qc'):
        write_json(out / f'{stem}_{kind}.json', sources)
    if compared:
        rows = [
            {'reference': 'manual', 'index': label.index, 'name': label.name, 'dice': 0.87,
             'volume_mm3': 1100.0, 'reference_volume_mm3': 1000.0}
            for label in (*LABELS, *(parcel_labels() if parcels else ()))
        ]  # fmt: skip
        rows.append({'reference': 'manual', 'name': MEAN_NAME, 'dice': 0.87})
        write_dice_table(out / f'{stem}_dice.tsv', rows)
        write_json(out / f'{stem}_dice.json', sources)
    made = {'SoftwareVersion': '1.0', 'ModelName': 'tiny', 'Device': 'cpu', 'Seconds': 3.21}
    write_json(out / f'{stem}_dseg.json', {**sources, **made})
    if label_maps:
        scan, labels, affine = small_head()
        if lesion:
            labels[tuple(slice(n, n + 2) for n in np.argwhere(labels == 2)[0] + 2)] = LESION
        nib.save(nib.Nifti1Image(labels, affine), out / f'{stem}_dseg.nii.gz')
        names = figure_files(stem)
        (out / names['scan']).parent.mkdir(exist_ok=True)
        grey, overlay = draw_mosaic(scan, labels, affine)
        write_grey(out / names['scan'], grey)
        write_indexed(out / names['dseg'], overlay, list(label_palette().values()))
        if parcels:
            data = with_parcels(labels, rng)
            name = output_files(stem, ['parcels'])[0]
            nib.save(nib.Nifti1Image(data, affine), out / name)
            _, overlay = draw_mosaic(scan, data, affine)
            write_indexed(out / names['parcels'], overlay, list(label_palette().values()))


def _typical_ml(index: int) -> float:
    if index == CSF:
        return 250.0
    mirrored = {label.index: label.mirror for label in LABELS}
    low, high = VOLUME_RANGES_ML.get(index) or VOLUME_RANGES_ML[mirrored[index]]
    return float(np.sqrt(low * high))
