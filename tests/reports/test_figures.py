from __future__ import annotations

import numpy as np
from matplotlib.image import imread

from synthseg_bids.reports.figures import learning_curve, overlay, sample_grid


def test_learning_curve(tmp_path):
    rows = [{'step': i, 'loss': 1 / i, 'dice_midl2020': i / 10} for i in range(1, 4)]
    learning_curve(rows, tmp_path / 'curve.png')
    assert imread(tmp_path / 'curve.png').std() > 0.05
    assert [p.name for p in tmp_path.iterdir()] == ['curve.png']


def test_overlay_draws_the_labels(tmp_path, rng):
    scan = rng.normal(size=(20, 24, 22))
    labels = np.zeros(scan.shape, np.int16)
    labels[5:15, 5:15, 5:15] = 10
    overlay(scan, labels, tmp_path / 'labels.png')
    overlay(scan, np.zeros_like(labels), tmp_path / 'plain.png')
    with_labels, plain = (
        imread(tmp_path / f'{name}.png')[..., :3] for name in ('labels', 'plain')
    )
    # the thalamus is green; a plain scan is grey everywhere
    assert np.ptp(plain, axis=-1).max() < 0.01
    assert (with_labels[..., 1] - with_labels[..., 0] > 0.2).mean() > 0.02


def test_sample_grid_has_a_row_for_each_scan_and_colours_beside_them(tmp_path, rng):
    labels = np.zeros((20, 24, 22), np.int16)
    labels[5:15, 5:15, 5:15] = 10
    shapes = (labels.shape, (12, 12, 12))
    volumes = [rng.normal(size=shape) for shape in shapes]
    maps = [labels, np.zeros(shapes[1], np.int16)]
    sample_grid(volumes, maps, tmp_path / 'both.png')
    sample_grid(volumes[:1], maps[:1], tmp_path / 'one.png')
    both, one = (imread(tmp_path / f'{name}.png')[..., :3] for name in ('both', 'one'))
    assert both.shape[0] > 1.6 * one.shape[0]
    colour = np.ptp(both, axis=-1) > 0.2
    upper, left = both.shape[0] // 2, both.shape[1] // 2
    assert colour[:upper, left:].mean() > 0.02
    assert not colour[:, :left].any()
    assert not colour[upper + 20 :].any()
