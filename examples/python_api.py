"""Segment scans from Python: one of them in full, then all of them into one table.

Usage: python examples/python_api.py FOLDER SCAN [SCAN ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from synthseg_bids import Segmenter


def segment_one(segment: Segmenter, scan: Path, folder: Path) -> None:
    """Save all that is known about a scan."""
    result = segment(scan)  # a path, or an image of nibabel
    result.labels.to_filename(folder / 'labels.nii.gz')
    result.posteriors.to_filename(folder / 'posteriors.nii.gz')
    result.volumes.to_csv(folder / 'volumes.csv')  # a series of pandas, in mm3
    result.qc.to_csv(folder / 'qc.csv')
    print(f'{scan.name}: quality control says {result.qc.loc["verdict", "flag"]}')


def segment_all(segment: Segmenter, scans: Sequence[Path]) -> pd.DataFrame:
    """Return the volumes of many scans, a row for each, and the error of each that failed."""
    rows = {}
    # While the network segments a scan, the next ones are read.
    for scan, result in segment.batch(scans):
        if isinstance(result, ValueError):  # it cannot be used; the others can
            rows[scan.name] = pd.Series({'error': str(result)})
        else:
            rows[scan.name] = result.volumes
    return pd.DataFrame(rows).T


def main() -> None:
    """Segment the scans of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('scans', type=Path, nargs='+')
    parser.add_argument('--model', default='default')
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    segment = Segmenter(args.model)  # loads the network once
    segment_one(segment, args.scans[0], args.folder)
    segment_all(segment, args.scans).to_csv(args.folder / 'all.csv', index_label='scan')


if __name__ == '__main__':
    main()
