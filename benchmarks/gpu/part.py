"""One part of ``python -m gpu``, in a process of its own.

Usage: python -m gpu.part NAME --device NAME --files FOLDER --out FOLDER --seconds N [--tiny]
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

# Packages that were brought come after those that are installed.
if os.environ.get('GPU_PACKAGES'):
    sys.path.append(os.environ['GPU_PACKAGES'])

import torch

#: Module and function of each part; only the one that runs is imported.
PARTS = {
    'tests': ('marked_tests', 'run_tests'),
    'agreement': ('scans', 'agreement'),
    'generator': ('measure', 'generator'),
    'network': ('measure', 'network'),
    'scans': ('scans', 'throughput'),
    'training': ('training', 'train'),
}


class Run:
    """What a part has to work with, and where it notes numbers.

    Attributes
    ----------
    device : torch.device
    files, out : Path
    tiny : bool
        Whether this is a rehearsal.
    start_from : str or None
        Weights that the training starts from.
    found : dict
        What was noted.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = torch.device(args.device)
        self.files, self.out, self.tiny = args.files, args.out, args.tiny
        self.start_from = args.start_from
        self._end = time.monotonic() + args.seconds
        self._note = args.out / f'{args.name}.json'
        self.found: dict[str, Any] = {}

    @property
    def left(self) -> float:
        """Seconds until the part should end."""
        return self._end - time.monotonic()

    def note(self, **numbers: object) -> None:
        """Add numbers to what the part has found; they survive whatever follows."""
        self.found |= {name: _rounded(value) for name, value in numbers.items()}
        temporary = self._note.with_suffix('.part')
        temporary.write_text(json.dumps(self.found))
        temporary.replace(self._note)

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f'{value:.4g}')
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return value


def main() -> None:
    """Run the part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('name', choices=PARTS)
    parser.add_argument('--device', required=True)
    parser.add_argument('--files', type=Path, required=True)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--seconds', type=float, required=True)
    parser.add_argument('--tiny', action='store_true')
    parser.add_argument('--start-from')
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format='%(levelname)s: %(message)s')
    run = Run(args)
    if run.device.type == 'cuda':
        run.note(gpu=torch.cuda.get_device_name(run.device), torch=torch.__version__)
    module, function = PARTS[args.name]
    getattr(importlib.import_module(f'gpu.{module}'), function)(run)


if __name__ == '__main__':
    main()
