"""Draw ``docs/pictures``: what each step of the generator does, and segmented scans.

LABEL_MAP is a whole head of 1 mm with FreeSurfer's numbers; the pictures in the repository are of
sub-01, one of the label maps that come with SynthSeg (Apache-2.0). Takes a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from PIL import Image
from scipy.ndimage import affine_transform

from synthseg_bids import Segmenter
from synthseg_bids.images.transform_file import read_transform
from synthseg_bids.labels import LESION, generation_labels, segmentation_labels
from synthseg_bids.synth.artefacts import Artefacts, Ghost
from synthseg_bids.synth.generator import apply, deformed_labels
from synthseg_bids.synth.label_maps import LabelMap, load_label_map
from synthseg_bids.synth.lesions import WHITE_MATTER, LesionConfig, draw_lesions
from synthseg_bids.synth.myelination import MyelinationConfig, draw_myelination
from synthseg_bids.synth.nearness import label_mask
from synthseg_bids.synth.parameters import Draw, GeneratorConfig, draw
from synthseg_bids.synth.presets import PRESETS
from synthseg_bids.synth.resolution import Noise, Resolution
from synthseg_bids.synth.texture import TextureConfig, draw_texture

FOLDER = Path(__file__).parent / 'pictures'
OWN = PRESETS['synthseg-bids']
#: A T1w-like scan to which nothing else has been done.
PLAIN = replace(
    OWN,
    ventricles=None,
    deformation=replace(OWN.deformation, rotation_deg=0, scaling=0, shear=0, svf_std=(0, 0),
                        flip_probability=0),
    intensity=replace(OWN.intensity, std=(2, 6), realistic_probability=1, symmetric_probability=1,
                      dark_background=(1, 0), bias_probability=0, gamma=0),
    blur=(0.4, 0.4),
    crop_jitter=0,
    resolution=None,
    noise=None,
    lesions=None,
    texture=None,
    artefacts=None,
    skull_strip_probability=0,
    no_csf_probability=0,
)  # fmt: skip
#: Seeds of the contrasts of real sequences.
T1W, T2W, PDW, FLAIR = 3, 6, 4, 1
#: Axes that planes are across.
AXIAL, CORONAL = 2, 1


class Painter:
    """Draws a head under chosen parameters of the generator.

    Parameters
    ----------
    label_map : LabelMap
    """

    def __init__(self, label_map: LabelMap) -> None:
        self.map = label_map

    def draw(self, config: GeneratorConfig = PLAIN, seed: int = T1W, **changes: Any) -> Draw:
        """Draw parameters by a seed, then change some of them."""
        shape = self.map.indices.shape
        generator = torch.Generator().manual_seed(seed)
        drawn = draw(config, (shape[0], shape[1], shape[2]), generator, self.map.centre)
        return replace(drawn, **changes)

    def scan(self, parameters: Draw, config: GeneratorConfig = PLAIN, axis: int = AXIAL) -> Image:
        """Draw a plane of a synthetic scan."""
        image, _ = apply(self.map.indices, parameters, config)
        return upright(image.clamp(0, 1).mul(255).byte().numpy(), axis)

    def labels(self, parameters: Draw, config: GeneratorConfig = PLAIN) -> Image:
        """Draw a plane of its labels, in their colours."""
        colors = np.array([label.rgb for label in generation_labels()], np.uint8)
        return upright(colors[deformed_labels(self.map.indices, parameters, config).numpy()])


def upright(volume: np.ndarray, axis: int = AXIAL) -> Image:
    """Return the middle plane of a volume in RAS orientation, the front or the top upwards."""
    plane = volume.take(volume.shape[axis] // 2, axis)
    return Image.fromarray(np.ascontiguousarray(plane.swapaxes(0, 1)[::-1])).convert('RGB')


def save(name: str, rows: Sequence[Sequence[Image]], folder: Path, scale: int = 2) -> None:
    """Write pictures side by side, each row as wide as the first."""
    gap = 4
    width = sum(tile.width for tile in rows[0]) + gap * (len(rows[0]) - 1)
    heights = [max(tile.height for tile in row) for row in rows]
    canvas = Image.new('RGB', (width, sum(heights) + gap * (len(rows) - 1)), 'white')
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for tile in row:
            canvas.paste(tile, (left, top))
            left += tile.width + gap
        top += height + gap
    size = canvas.width * scale, canvas.height * scale
    folder.mkdir(exist_ok=True)
    canvas.resize(size, Image.Resampling.BICUBIC).save(folder / f'{name}.webp', quality=75)


def shapes(painter: Painter) -> dict[str, list[list[Image]]]:
    """Draw what changes the labels: deformation, ventricles, lesions, head."""
    moved = replace(PLAIN, deformation=OWN.deformation)
    size = OWN.size or (160, 192, 160)
    plain = painter.draw()
    flair = painter.draw(seed=FLAIR)
    one = LesionConfig(probability=1, share=(0.03, 0.03))
    lesions = [draw_lesions(one, size, 1.0, torch.Generator().manual_seed(s)) for s in (1, 6, 10)]
    heads = [plain, replace(plain, skull_strip=True), replace(plain, no_csf=True),
             replace(plain, skull_strip=True, no_csf=True)]  # fmt: skip
    return {
        'deformation': [
            [painter.labels(plain), *(painter.labels(painter.draw(moved, s), moved)
                                      for s in (1, 5, 8))]
        ],
        'ventricles': [[painter.labels(replace(plain, growth=g)) for g in (-4.0, 0.0, 4.0, 10.0)]],
        'lesions': [[painter.scan(replace(flair, lesions=one)) for one in (None, *lesions)]],
        'head': [[painter.scan(one) for one in heads]],
    }  # fmt: skip


def myelinating(painter: Painter) -> list[Image]:
    """Draw white matter that is myelinated nowhere, then ever nearer to the cortex."""
    plain, size = painter.draw(), OWN.size or (160, 192, 160)
    white = label_mask(WHITE_MATTER, torch.device('cpu'))
    grown = plain.intensities
    young = replace(grown, means=grown.means.where(~white, torch.tensor(70.0)),
                    deep_mean=float(grown.means[white][0]))  # fmt: skip
    tiles = []
    for front in (-0.5, 0.2, 0.6, 0.9):
        ranges = replace(MyelinationConfig(), front=(front, front), width=(0.3, 0.3))
        drawn = draw_myelination(ranges, size, 1.0, torch.Generator().manual_seed(1))
        tiles.append(painter.scan(replace(plain, intensities=young, myelination=drawn)))
    return tiles


def contrasts(painter: Painter) -> dict[str, list[list[Image]]]:
    """Draw what decides on the intensities: Gaussians, texture, bias field, gamma."""
    of_each = replace(PLAIN, intensity=PRESETS['midl2020'].intensity)
    of_each = replace(of_each, intensity=replace(of_each.intensity, bias_std=(0, 0), gamma=0))
    by_class = replace(PLAIN, intensity=replace(PLAIN.intensity, realistic_probability=0))
    plain = painter.draw()
    size = OWN.size or (160, 192, 160)
    textures = [
        draw_texture(TextureConfig((1, 1), (mm, mm)), size, 1.0, torch.Generator().manual_seed(2))
        for mm in (2, 6, 20)
    ]
    coarse = replace(plain.intensities, stds=plain.intensities.stds * 2.5)
    grainy = replace(plain, intensities=coarse)
    fields = replace(OWN.intensity, bias_std=(0.5, 0.5), bias_probability=1)
    biased = [painter.draw(replace(PLAIN, intensity=fields), s).intensities.log_bias
              for s in (2, 3, 4)]  # fmt: skip

    def scans(config: GeneratorConfig, seeds: Iterable[int]) -> list[Image]:
        return [painter.scan(painter.draw(config, seed), config) for seed in seeds]

    def changed(**parts: Any) -> Image:
        return painter.scan(replace(plain, intensities=replace(plain.intensities, **parts)))

    return {
        'gaussians': [scans(of_each, range(4)), scans(by_class, range(4)),
                      scans(PLAIN, (T1W, T2W, PDW, FLAIR))],
        'myelination': [myelinating(painter)],
        'texture': [[painter.scan(grainy), *(painter.scan(replace(grainy, texture=t))
                                             for t in textures)]],
        'bias': [[painter.scan(plain), *(changed(log_bias=field) for field in biased)]],
        'gamma': [[changed(gamma=gamma) for gamma in (0.5, 1.0, 1.5, 2.2)]],
    }  # fmt: skip


def acquisitions(painter: Painter) -> dict[str, list[list[Image]]]:
    """Draw what the scanner does: artefacts, resolution, noise."""
    plain = painter.draw()
    whole = tuple(slice(0, n) for n in OWN.size or ())
    cut = (*whole[:2], slice(0, 120)), (slice(30, 160), *whole[1:])
    artefacts = [Artefacts(Ghost(0.15, 2, 3), whole), Artefacts(Ghost(0.15, 0, 3), whole),
                 *(Artefacts(None, part) for part in cut)]  # fmt: skip
    grids = [(4, 4, 4), (8, 1, 1), (1, 1, 6)]
    acquired = [Resolution(tuple(0.4 * s if s > 1 else 0 for s in g), g) for g in grids]
    noises = [Noise(0.02, False), Noise(0.05, False), Noise(0.05, True)]
    coronal = partial(painter.scan, axis=CORONAL)
    return {
        'artefacts': [[coronal(replace(plain, artefacts=one)) for one in artefacts]],
        'resolution': [[coronal(plain), *(coronal(replace(plain, resolution=one))
                                          for one in acquired)]],
        'noise': [[painter.scan(plain), *(painter.scan(replace(plain, noise=one))
                                          for one in noises)]],
    }  # fmt: skip


PARTS: tuple[Callable[[Painter], dict[str, list[list[Image]]]], ...] = (
    shapes,
    contrasts,
    acquisitions,
)


def segmented(scans: Iterable[Path]) -> list[list[Image]]:
    """Segment scans, and draw an axial plane of each, below it with its label map."""
    segment = Segmenter()
    rows: list[list[Image]] = [[], []]
    for path in scans:
        scan = nib.as_closest_canonical(nib.load(path))
        labels = np.asarray(nib.as_closest_canonical(segment(path).labels).dataobj)
        values = scan.get_fdata(dtype=np.float32)
        middle = np.argwhere(labels > 0).mean(0)
        for row, volume in zip(rows, painted(values, labels), strict=True):
            row.append(framed(volume[:, :, round(middle[2])], middle, scan.header.get_zooms()))
    return rows


def painted(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a scan in grey, and with its labels in their colours."""
    colors = np.zeros((LESION + 1, 3), np.uint8)
    for label in segmentation_labels(lesions=True):
        colors[label.index] = label.rgb
    low, high = np.percentile(values[labels > 0], (0.5, 99.5))
    grey = (255 * np.clip((values - low) / (high - low), 0, 1)).astype(np.uint8)[..., None]
    return grey.repeat(3, -1), np.where(labels[..., None] > 0, colors[labels], grey)


def together(raw: Path, folder: Path) -> list[list[Image]]:
    """Draw a session in the space halfway, by outputs of ``--combine session``.

    Parameters
    ----------
    raw : Path
        Folder of its images.
    folder : Path
        Folder of the outputs.

    Returns
    -------
    list of list of Image
        A coronal plane: the images, below them with their own label map, and with that of all.
    """
    combined = nib.load(next(folder.glob('*_space-session_*_desc-combined_dseg.nii.gz')))
    shape = combined.shape
    plane = round(np.argwhere(np.asarray(combined.dataobj) > 0).mean(0)[CORONAL])
    rows: list[list[Image]] = [[], [], []]
    for path in sorted(folder.glob('*_to-session_mode-image_xfm.txt'), reverse=True):
        start, contrast = path.name.partition('_to-')[0].split('_from-')
        to_scan = read_transform(path) @ combined.affine

        def halfway(image: Any, order: int, to_scan: np.ndarray = to_scan) -> np.ndarray:
            matrix = np.linalg.inv(image.affine) @ to_scan
            values = np.asarray(image.dataobj, dtype=np.float32)
            return affine_transform(values, matrix, output_shape=shape, order=order)

        scan = halfway(nib.load(next(raw.glob(f'{start}_{contrast}.nii*'))), 1)
        for row, method in zip(rows[1:], ('synthseg', 'synthsegsession'), strict=True):
            name = f'{start}_seg-{method}_desc-{contrast}_dseg.nii.gz'
            labels = halfway(nib.load(folder / name), 0).astype(int)
            grey, drawn = painted(scan, labels)
            row.append(upright(drawn[:, plane : plane + 1], CORONAL))
        rows[0].append(upright(grey[:, plane : plane + 1], CORONAL))
    return rows


def framed(plane: np.ndarray, middle: np.ndarray, spacing_mm: Sequence[float]) -> Image:
    """Return 180 x 220 mm of an axial plane around a point, with 3 pixels per mm."""
    picture = Image.fromarray(np.ascontiguousarray(plane.swapaxes(0, 1)[::-1]))
    width, height = (round(3 * n * mm) for n, mm in zip(picture.size, spacing_mm, strict=False))
    left = round(3 * middle[0] * spacing_mm[0]) - 270
    top = height - round(3 * middle[1] * spacing_mm[1]) - 330
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + 540, top + 660))


def main(argv: Sequence[str] | None = None) -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument('label_map', type=Path)
    parser.add_argument('--scans', type=Path, nargs='+', default=[], help='to draw segmented')
    parser.add_argument(
        '--session', type=Path, nargs=2, metavar=('RAW', 'OUT'),
        help='folders of a session: its images, and their outputs with --combine session',
    )  # fmt: skip
    parser.add_argument('--out', type=Path, default=FOLDER, metavar='FOLDER')
    args = parser.parse_args(argv)
    painter = Painter(load_label_map(args.label_map))
    with torch.inference_mode():
        for part in PARTS:
            for name, rows in part(painter).items():
                save(name, rows, args.out)
    if args.scans:
        save('scans', segmented(args.scans), args.out, scale=1)
    if args.session:
        save('session', together(*args.session), args.out)


if __name__ == '__main__':
    main()
