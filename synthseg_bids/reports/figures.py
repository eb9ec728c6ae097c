"""Figures: learning curves, overlaps, and segmentations drawn over scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def dice_boxes(
    values: Mapping[str, Mapping[str, Sequence[float]]], path: Path, title: str = ''
) -> None:
    """Draw box plots of the Dice overlap: a group of boxes per structure, a colour per contrast.

    Boxes reach from the first to the third quartile, whiskers to the last value within 1.5 times
    that range; every scan is a dot.

    Parameters
    ----------
    values : mapping of str to mapping of str to sequence of float
        Contrast, then structure, then one value per scan; every contrast has all structures.
    path : Path
        PNG file to write.
    title : str
    """
    structures = list(next(iter(values.values())))
    figure = Figure(figsize=(11, 4.5), dpi=120, layout='constrained')
    axes = figure.subplots()
    width = 0.8 / len(values)
    for i, (contrast, of_structure) in enumerate(values.items()):
        color = f'C{i % 10}'
        places = [j + (i - (len(values) - 1) / 2) * width for j in range(len(structures))]
        drawn = axes.boxplot(
            [list(of_structure[name]) for name in structures],
            positions=places,
            widths=0.8 * width,
            patch_artist=True,
            showfliers=False,
            manage_ticks=False,
            medianprops={'color': 'black'},
        )
        for box in drawn['boxes']:
            box.set(facecolor=color, alpha=0.6)
        for x, name in zip(places, structures, strict=True):
            dice = of_structure[name]
            axes.scatter([x] * len(dice), dice, s=6, color=color, zorder=3)
        n = max(len(scans) for scans in of_structure.values())
        drawn['boxes'][0].set_label(f'{contrast} (n = {n})')
    axes.set(ylabel='Dice', ylim=(0, 1), xlim=(-0.6, len(structures) - 0.4))
    axes.set_title(title, loc='left')
    axes.set_xticks(range(len(structures)), structures, rotation=30, ha='right')
    axes.grid(axis='y', color='0.9')
    axes.set_axisbelow(True)
    axes.legend(loc='lower right', bbox_to_anchor=(1, 1), ncols=6, frameon=False)
    _save(figure, path)


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    path: Path,
    title: str = '',
    spacing_mm: Sequence[float] = (1, 1, 1),
) -> None:
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
    spacing_mm : sequence of float
        Voxel size along each axis: thick slices are drawn thick.
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
        across, up = (spacing_mm[other] for other in range(3) if other != axis)
        drawn = colors[np.take(labels, centre[axis], axis).T]
        for row in (0, 1):
            axes[row, axis].imshow(
                plane, cmap='gray', vmin=low, vmax=high, origin='lower', aspect=up / across
            )
            axes[row, axis].axis('off')
        axes[1, axis].imshow(drawn, origin='lower', interpolation='nearest', aspect=up / across)
    figure.suptitle(title, color='white', fontsize=10)
    _save(figure, path)
