"""Draw figures 4 and 5, each from its table alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from synthseg_bids.files import read_table
from synthseg_bids.labels import PAPER_STRUCTURES, segmentation_labels
from synthseg_bids.reports.figures import dice_boxes, picture_grid

from .options import SYSTEMS
from .slices import SCAN


def draw_figure4(tables: Path) -> None:
    """Draw box plots of each structure and system, a figure per contrast."""
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in read_table(tables / 'figure4.tsv'):
        of_system = values.setdefault(row['contrast'], {}).setdefault(
            SYSTEMS[row['system']], {name: [] for name in PAPER_STRUCTURES}
        )
        if row['dice'] != 'n/a':
            of_system[row['structure']].append(float(row['dice']))
    for contrast, of_contrast in values.items():
        dice_boxes(of_contrast, tables / f'figure4_{contrast}.png', title=contrast)


def draw_figure5(tables: Path) -> None:
    """Draw the median scan of each contrast, as segmented by every system."""
    pictures: dict[str, dict[str, np.ndarray]] = {}
    lines: dict[tuple[str, str], list[bytes]] = {}
    names: dict[str, str] = {}
    for row in read_table(tables / 'figure5.tsv'):
        lines.setdefault((row['contrast'], row['panel']), []).append(bytes.fromhex(row['pixels']))
        names[row['contrast']] = row['scan']
    for (contrast, panel), rows in lines.items():
        pixels = np.array([np.frombuffer(row, np.uint8) for row in rows])
        pictures.setdefault(contrast, {})[panel] = pixels
    if not pictures:
        return
    panels = list(dict.fromkeys(panel for own in pictures.values() for panel in own))
    grid = [[painted(own, panel) for panel in panels] for own in pictures.values()]
    titles = [SYSTEMS.get(panel, panel) for panel in panels]
    picture_grid(grid, titles, tables / 'figure5.png', list(names.values()))


def painted(own: dict[str, np.ndarray], panel: str) -> np.ndarray:
    """Colour the scan by a panel's labels; black if there is no such panel."""
    grey = np.repeat(own[SCAN][..., None] / 255, 3, -1)
    if panel == SCAN:
        return grey
    if panel not in own:
        return np.zeros_like(grey)
    colors = np.zeros((256, 3))
    for label in segmentation_labels():
        colors[label.index] = np.array(label.rgb) / 255
    labels = own[panel]
    return np.where((labels > 0)[..., None], 0.35 * grey + 0.65 * colors[labels], grey)
