"""Files for ``python -m gpu`` on a machine without network: wheels, label maps, a scan.

Usage: python -m gpu.files FOLDER [--label-maps FOLDER ...] [--scan FILE] [--python 3.12]
           [--wheels NAME ...]

The wheels are for that Python on Linux, x86-64. Label maps are read as for training, and written
as one .npz file. All together must not be larger than --most-mb.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from synthseg_bids.images.volume_io import read_volume
from synthseg_bids.synth.label_maps import LabelMap, find_label_maps, load_label_map
from synthseg_bids.synth.presets import PRESETS

MAPS, SCAN = 'label_maps.npz', 'scan.npz'
#: What segmenting needs beside what is usually installed with PyTorch.
WHEELS = ('nibabel', 'connected-components-3d', 'importlib_resources', 'psutil', 'safetensors')
#: Standards of wheels, the newest first.
PLATFORMS = ('manylinux_2_28_x86_64', 'manylinux_2_17_x86_64', 'manylinux2014_x86_64')


def main(argv: Sequence[str] | None = None) -> int:
    """Write the folder; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    add = parser.add_argument
    add('folder', type=Path)
    add('--label-maps', type=Path, nargs='*', default=[], help='folders to train on')
    add('--scan', type=Path, help='to segment')
    add('--python', default='3.12', help='of the other machine (default: %(default)s)')
    add('--wheels', nargs='*', default=WHEELS, help=f'default: {" ".join(WHEELS)}')
    add('--most-mb', type=float, default=48, help='default: %(default)s')
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.wheels:
        command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps']
        command += ['--only-binary=:all:', '--python-version', args.python]
        command += [word for name in PLATFORMS for word in ('--platform', name)]
        subprocess.run([*command, '--dest', str(args.folder), *args.wheels], check=True)
    size = PRESETS['synthseg-bids'].size
    paths = [path for folder in args.label_maps for path in find_label_maps(folder)]
    if paths:
        save_maps(args.folder / MAPS, [load_label_map(path, size) for path in paths])
    if args.scan:
        volume = read_volume(args.scan)
        save_scan(args.folder / SCAN, volume.data, volume.affine)
    found = sum(path.stat().st_size for path in args.folder.iterdir()) / 1e6
    print(f'{args.folder}: {len(paths)} label maps, {found:.1f} MB in all')
    if found > args.most_mb:
        print(f'{args.folder}: more than {args.most_mb:g} MB; take fewer label maps',
              file=sys.stderr)  # fmt: skip
        return 1
    return 0


def save_maps(path: Path, maps: Sequence[LabelMap]) -> None:
    """Write label maps as one compressed file, without pickled objects."""
    facts = [
        {'name': one.name, 'spacing_mm': one.spacing_mm, 'centre': one.centre,
         'age_group': one.age_group, 'merged': one.merged}
        for one in maps
    ]  # fmt: skip
    arrays = {f'indices{i}': one.indices.numpy() for i, one in enumerate(maps)}
    affines = np.array([one.affine for one in maps])
    np.savez_compressed(path, facts=np.array(json.dumps(facts)), affines=affines, **arrays)


def save_scan(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    """Write a scan, in half precision if that is what its intensities need."""
    short = data.astype(np.int16)
    np.savez_compressed(path, data=short if (short == data).all() else data, affine=affine)


def load_maps(folder: Path, tiny: bool = False) -> list[LabelMap]:
    """Return the label maps that were brought, or a head of ellipsoids.

    Parameters
    ----------
    folder : Path
    tiny : bool
        Whether the ellipsoids are small.
    """
    if (folder / MAPS).exists():
        with np.load(folder / MAPS) as file:
            facts = json.loads(str(file['facts']))
            return [
                LabelMap(
                    one['name'], torch.from_numpy(file[f'indices{i}']), file['affines'][i],
                    one['spacing_mm'], tuple(one['centre']), age_group=one['age_group'],
                    merged=tuple(map(tuple, one['merged'])),
                )
                for i, one in enumerate(facts)
            ]  # fmt: skip
    from inference_rows import our_labels

    labels = our_labels(48 if tiny else 256)
    x, y, z = ((n - 1) / 2 for n in labels.shape)
    return [LabelMap('ellipsoids', labels, np.eye(4), 1.0, (x, y, z))]


def load_scan(folder: Path, tiny: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the scan that was brought and its affine, or a synthetic one."""
    if (folder / SCAN).exists():
        with np.load(folder / SCAN) as file:
            return file['data'].astype(np.float32), file['affine']
    from dataclasses import replace

    from synthseg_bids.synth.label_maps import synthesize

    size = (32, 40, 32) if tiny else (160, 192, 160)
    config = replace(PRESETS['synthseg2023'], size=size)
    image, _, affine = synthesize(load_maps(folder, tiny)[0], config, seed=1)
    return image.numpy(), affine


if __name__ == '__main__':
    sys.exit(main())
