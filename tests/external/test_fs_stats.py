"""Tables like FreeSurfer's aseg.stats, read as asegstats2table reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from synthseg_bids.bids.tables import morph_rows
from synthseg_bids.external.fs_stats import read_volumes, write_stats
from synthseg_bids.labels import channel_labels, segmentation_labels
from synthseg_bids.measure.overlap import total_intracranial, volumes_from_labels

#: Where asegstats2table finds each of its measures in a row.
COLUMNS = {'nvoxels': 2, 'volume': 3, 'mean': 5, 'std': 6, 'max': 8}


def parse(path: Path) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Return global measures by their fields, and the cells of each row by its structure."""
    lines = path.read_text().splitlines()
    measures = [line.split(',') for line in lines if line.startswith('# Measure ')]
    rows = [line.split() for line in lines if not line.startswith('#')]
    return (
        {parts[1].strip(): float(parts[3]) for parts in measures},
        {cells[4]: cells for cells in rows},
    )


@pytest.fixture
def scan(rng) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.choice([label for label in channel_labels() if label != 28], (20, 21, 22))
    labels[0, 0, 0] = 28
    return rng.normal(100, 20, labels.shape).astype('f4'), labels.astype('i4')


def test_as_asegstats2table_reads_it(tmp_path, scan):
    image, labels = scan
    volumes = volumes_from_labels(labels, np.diag([1, 1.5, 2, 1]))
    total = total_intracranial(volumes)
    write_stats(tmp_path / 'aseg.stats', morph_rows(volumes, total), image, labels)
    measures, rows = parse(tmp_path / 'aseg.stats')
    assert measures['eTIV'] == pytest.approx(total) == pytest.approx(3 * (labels > 0).sum())
    assert measures['CortexVol'] == measures['lhCortexVol'] + measures['rhCortexVol']
    assert measures['CortexVol'] == 3 * np.isin(labels, (3, 42)).sum()
    cerebellum = 3 * np.isin(labels, (8, 47)).sum()
    grey = measures['CortexVol'] + measures['SubCortGrayVol'] + cerebellum
    assert measures['TotalGrayVol'] == pytest.approx(grey)
    assert [*rows] == [label.name for label in segmentation_labels()[1:]]
    for label in segmentation_labels()[1:]:
        cells, values = rows[label.name], image[labels == label.index]
        assert len(cells) == 10
        found = {what: float(cells[column]) for what, column in COLUMNS.items()}
        assert found['nvoxels'] == values.size
        assert found['volume'] == 3 * values.size
        assert found['mean'] == pytest.approx(values.mean(), abs=1e-3)
        if values.size > 1:
            assert found['std'] == pytest.approx(values.std(ddof=1), abs=1e-3)
        assert found['max'] == pytest.approx(values.max(), abs=1e-3)
        assert float(cells[9]) == pytest.approx(np.ptp(values), abs=1e-3)
    assert rows['Left-VentralDC'][6] == '0.0000'
    assert read_volumes(tmp_path / 'aseg.stats') == {
        label: volume for label, (_, volume) in volumes.items() if label
    }


def test_structures_that_are_absent_or_not_segmented(tmp_path, scan):
    image, labels = scan
    labels[labels == 17] = 0
    soft = np.ones(len(channel_labels()))
    soft[channel_labels().index(24)] = soft[channel_labels().index(3)] = np.nan
    volumes = volumes_from_labels(labels, np.eye(4))
    rows = morph_rows(volumes, total_intracranial(volumes), soft.tolist())
    write_stats(tmp_path / 'aseg.stats', rows, image, labels)
    measures, found = parse(tmp_path / 'aseg.stats')
    assert not {'eTIV', 'lhCortexVol', 'CortexVol', 'TotalGrayVol'} & {*measures}
    assert {'rhCortexVol', 'CerebralWhiteMatterVol', 'SubCortGrayVol'} <= {*measures}
    assert not {'CSF', 'Left-Cerebral-Cortex'} & {*found}
    assert {float(cell) for cell in found['Left-Hippocampus'][5:]} == {0.0}
