"""Figures: learning curves and segmentations drawn over scans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..labels import segmentation_labels


def _save(figure: Figure, path: Path) -> None:
    temporary = path.with_name(f'.{path.name}')
    FigureCanvasAgg(figure).print_png(str(temporary))
    temporary.replace(path)


def learning_curve(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw training loss and validation Dice against steps.

    Parameters
    ----------
    rows : sequence of dict
        Rows of the learning curve: ``step``, ``loss`` and ``dice_*`` columns.
    path : Path
        PNG file to write.
    """
    figure = Figure(figsize=(8, 4), dpi=120, layout='constrained')
    loss, dice = figure.subplots(1, 2)
    steps = [row['step'] for row in rows]
    loss.plot(steps, [row['loss'] for row in rows], color='0.3')
    loss.set(xlabel='step', ylabel='training loss', yscale='log')
    for name in (key for key in rows[0] if key.startswith('dice_')):
        dice.plot(steps, [row[name] for row in rows], label=name.removeprefix('dice_'))
    dice.set(xlabel='step', ylabel='validation Dice, 12 structures', ylim=(0, 1))
    if dice.lines:
        dice.legend(loc='lower right')
    _save(figure, path)


def overlay(image: np.ndarray, labels: np.ndarray, path: Path, title: str = '') -> None:
    """Draw a scan in three planes through its brain, plain and with its label map.

    Parameters
    ----------
    image : (x, y, z) array
        In RAS orientation.
    labels : (x, y, z) integer array
        Segmentation labels on the same grid.
    path : Path
        PNG file to write.
    title : str
    """
    colors = np.zeros((int(max(labels.max(), 60)) + 1, 4))
    for label in segmentation_labels()[1:]:
        rgb = [int(label.color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        colors[label.index] = [*rgb, 0.6]
    brain = np.argwhere(labels > 0)
    centre = np.round(brain.mean(0)).astype(int) if len(brain) else np.array(image.shape) // 2
    low, high = np.percentile(image, (0.5, 99.5))
    figure = Figure(figsize=(9, 6.4), dpi=100, facecolor='black', layout='constrained')
    axes = figure.subplots(2, 3)
    for axis in range(3):
        plane = np.take(image, centre[axis], axis).T
        drawn = colors[np.take(labels, centre[axis], axis).T]
        for row in (0, 1):
            axes[row, axis].imshow(plane, cmap='gray', vmin=low, vmax=high, origin='lower')
            axes[row, axis].axis('off')
        axes[1, axis].imshow(drawn, origin='lower', interpolation='nearest')
    figure.suptitle(title, color='white', fontsize=10)
    _save(figure, path)
