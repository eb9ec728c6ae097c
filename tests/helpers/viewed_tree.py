"""An output dataset with the scans that it was made from, and a server that shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import nibabel as nib
from report_tree import small_head, write_tree

from synthseg_bids.bids.names import participant_folders
from synthseg_bids.reports.group import write_group_report
from synthseg_bids.reports.server import ViewerServer
from synthseg_bids.reports.subject import write_subject_report
from synthseg_bids.reports.viewer import list_label_maps

STEM = 'sub-01/anat/sub-01_seg-synthseg_desc-T1w'


def write_viewed_tree(
    root: Path, subjects: Sequence[str] = ('01', '02'), parcels: bool = False
) -> Path:
    """Write both datasets, ``raw`` and ``synthseg-bids``; the scan of sub-02's T2w is missing."""
    out = write_tree(root, subjects, parcels=parcels)
    scan, _, affine = small_head()
    for participant in participant_folders(out):
        for label_map in list_label_maps(out, participant):
            path = root / 'raw' / label_map.image.relative
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(scan, affine), path)
        write_subject_report(out, participant)
    write_group_report(out)
    (root / 'raw/sub-02/anat/sub-02_T2w.nii.gz').unlink(missing_ok=True)
    return out


@contextmanager
def served(out: Path, bids_dir: Path | None = None) -> Iterator[ViewerServer]:
    """Serve a dataset from another thread."""
    with ViewerServer(out, bids_dir) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
