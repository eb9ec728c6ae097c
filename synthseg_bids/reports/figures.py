"""Figures: learning curves, overlaps, and segmentations drawn over scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..files import write_whole
from ..labels import LESION, Label, generation_labels, segmentation_labels

#: Views of a volume, by the axis they are across.
PLANES = ('sagittal', 'coronal', 'axial')


def _save(figure: Figure, path: Path) -> None:
    canvas = FigureCanvasAgg(figure)
    write_whole(path, lambda temporary: canvas.print_png(str(temporary)))


def _rgb(label: Label) -> np.ndarray:
    return np.array(label.rgb) / 255


def _middle(brain: np.ndarray) -> np.ndarray:
    """Return the centre of a mask ``(x, y, z)`` in voxels, that of the volume if it is empty."""
    places = np.argwhere(brain)
    return places.mean(0) if len(places) else (np.array(brain.shape) - 1) / 2


def _label_colors(labels: np.ndarray) -> np.ndarray:
    """Return red, green, blue and opacity for each segmentation label up to the largest."""
    colors = np.zeros((int(max(labels.max(), LESION)) + 1, 4))
    for label in segmentation_labels(lesions=True)[1:]:
        colors[label.index] = [*_rgb(label), 0.6]
    return colors


def _square_planes(volume: np.ndarray, middle: np.ndarray) -> list[np.ndarray]:
    """Return the planes of :data:`PLANES` through a point, padded with zeros to squares."""
    side = max(volume.shape)
    planes = []
    for axis in range(3):
        plane = np.take(volume, int(middle[axis]), axis).T[::-1]
        missing = [(side - n) // 2 for n in plane.shape]
        around = [(m, side - n - m) for m, n in zip(missing, plane.shape, strict=True)]
        planes.append(np.pad(plane, around))
    return planes


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
    figure.suptitle(title, x=0.01, ha='left')
    axes.set_xticks(range(len(structures)), structures, rotation=30, ha='right')
    axes.grid(axis='y', color='0.9')
    axes.set_axisbelow(True)
    axes.legend(loc='lower right', bbox_to_anchor=(1, 1), ncols=4, frameon=False)
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
    colors = _label_colors(labels)
    centre = np.round(_middle(labels > 0)).astype(int)
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


def generation_steps(steps: Mapping[str, np.ndarray], path: Path) -> None:
    """Draw the steps of a synthetic scan: a column per step, a row per plane.

    Parameters
    ----------
    steps : mapping of str to (x, y, z) array
        The deformed labels (rows of the generation table), and the image after each step, in RAS
        orientation. The labels may have voxels of their own size.
    path : Path
        PNG file to write.
    """
    table = generation_labels()
    colors = np.array([_rgb(label) for label in table])
    brain = np.array([label.target != 0 for label in table])[steps['labels']]
    middle = _middle(brain)
    windows = {name: np.percentile(volume, (0.5, 99.5)) for name, volume in steps.items()}
    rows: list[list[np.ndarray]] = []
    for axis in range(3):
        rows.append([])
        for name, volume in steps.items():
            at = int(middle[axis] / brain.shape[axis] * volume.shape[axis])
            plane = np.take(volume, at, axis).T[::-1]
            low, high = windows[name]
            grey = np.clip((plane - low) / max(high - low, 1e-6), 0, 1)
            rows[-1].append(colors[plane] if name == 'labels' else grey)
    picture_grid(rows, list(steps), path)


def label_map_picture(labels: np.ndarray, path: Path) -> None:
    """Draw a label map of a head in three planes through its brain.

    Parameters
    ----------
    labels : (x, y, z) integer array
        Generation labels in RAS orientation; those around the brain are drawn in greys.
    path : Path
        PNG file to write.
    """
    table = generation_labels()
    colors = np.zeros((int(labels.max()) + 1, 3))
    greys = iter(np.linspace(0.35, 0.9, sum(label.extracerebral for label in table)))
    for label in table:
        color = [next(greys)] * 3 if label.extracerebral else _rgb(label)
        if label.index < len(colors):
            colors[label.index] = color
    middle = _middle(np.isin(labels, [label.index for label in table if label.target]))
    planes = [colors[plane] for plane in _square_planes(labels, middle)]
    picture_grid([planes], PLANES, path)


def sample_grid(images: Sequence[np.ndarray], labels: Sequence[np.ndarray], path: Path) -> None:
    """Draw scans in three planes through their brains, without and with their labels.

    Parameters
    ----------
    images : sequence of (x, y, z) array
        In RAS orientation, voxels isotropic; a row each.
    labels : sequence of (x, y, z) integer array
        Their segmentation labels, on the same grids.
    path : Path
        PNG file to write.
    """
    rows = []
    for image, segmentation in zip(images, labels, strict=True):
        middle, colors = _middle(segmentation > 0), _label_colors(segmentation)
        low, high = np.percentile(image, (0.5, 99.5))
        grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
        row = [np.repeat(plane[..., None], 3, -1) for plane in _square_planes(grey, middle)]
        for plane, drawn in zip(row[:3], _square_planes(segmentation, middle), strict=True):
            color, opacity = colors[drawn][..., :3], colors[drawn][..., 3:]
            row.append(plane * (1 - opacity) + color * opacity)
        rows.append(row)
    picture_grid(rows, (*PLANES, *(f'{plane}, labels' for plane in PLANES)), path)


def picture_grid(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    path: Path,
    names: Sequence[str] = (),
) -> None:
    """Draw pictures in rows and columns on black.

    Parameters
    ----------
    rows : sequence of sequence of (height, width) or (height, width, 3) array
        Grey values or colours from 0 to 1; as many in each row as there are titles.
    titles : sequence of str
        Of the columns.
    path : Path
        PNG file to write.
    names : sequence of str
        Of the rows, if they have any.
    """
    heights = [row[0].shape[0] / row[0].shape[1] for row in rows]
    figure = Figure(
        figsize=(2.2 * len(titles), 2.2 * sum(heights) + 0.3),
        dpi=120,
        facecolor='black',
        layout='constrained',
    )
    axes = figure.subplots(
        len(rows), len(titles), squeeze=False, gridspec_kw={'height_ratios': heights}
    )
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            axes[i, j].imshow(picture, cmap='gray', vmin=0, vmax=1)
            axes[i, j].set(xticks=[], yticks=[])
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, color='white', fontsize=9)
    for axis, name in zip(axes[:, 0], names, strict=False):
        axis.set_ylabel(name, color='white', fontsize=9)
    _save(figure, path)
