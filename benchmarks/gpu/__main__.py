"""Everything that wants a GPU: tests, measurements and a training, unattended and in ten minutes.

Usage: python -m gpu [--device cpu --tiny] [--files FOLDER] [--out FOLDER] [--minutes N]
           [--parts NAME ...] [--start-from MODEL]

in this folder's parent, or ``make gpu``. Python, PyTorch and NumPy are enough if FOLDER holds the
other packages as wheels (``python -m gpu.files``); with label maps and a scan in it, real ones are
used. Every part is a process of its own with a time limit. What fails is noted, and the others go
on; the exit code is 1 then. ``gpu.json`` has all numbers; copied to ``docs``, it fills the rows of
``docs/speed.rst`` (``python docs/build.py speed``). The trained network is saved in pieces::

    cat OUT/model.safetensors.* > model.safetensors && cp OUT/model.json .
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: Parts with the seconds that they may take of ten minutes; the last one has what is left.
PARTS = {
    'tests': 60,
    'agreement': 40,
    'generator': 40,
    'network': 120,
    'scans': 80,
    'training': 600,
}
#: Seconds before its limit at which a part should end by itself, to save what it has; and the
#: seconds that a part of a rehearsal measures for, which is stopped only when all time is over.
NOTICE, REHEARSAL = 12, 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run all parts; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    add = parser.add_argument
    add('--device', default='cuda', help='cuda, or cpu for a rehearsal (default: %(default)s)')
    add('--tiny', action='store_true', help='tiny sizes, for a rehearsal')
    add('--files', type=Path, default=ROOT / 'gpu_files', help='from python -m gpu.files')
    add('--out', type=Path, default=ROOT / 'gpu_run', help='for gpu.json, logs and the network')
    add('--minutes', type=float, default=9.5, help='for everything (default: %(default)s)')
    add('--parts', nargs='+', default=list(PARTS), choices=PARTS, help='default: all')
    add('--start-from', metavar='MODEL', help='weights file, for the training')
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    found: dict[str, Any] = {'device': args.device, 'tiny': args.tiny, 'cpu': platform.processor()}
    parts: dict[str, Any] = found.setdefault('parts', {})
    with tempfile.TemporaryDirectory() as packages:
        environment = _environment(args.files, Path(packages))
        for name in args.parts:
            left = 60 * args.minutes - (time.monotonic() - started)
            limit = PARTS[name] * args.minutes / 9.5
            if args.tiny or name == args.parts[-1]:
                limit = left
            parts[name] = _run_part(name, args, environment, min(limit, left))
            found['seconds'] = round(time.monotonic() - started, 1)
            (args.out / 'gpu.json').write_text(json.dumps(found, indent=1) + '\n')
            print(f'{name}: {json.dumps(parts[name])}', flush=True)
    failed = [name for name, result in parts.items() if 'error' in result]
    print(f'{len(parts) - len(failed)} parts done, {len(failed)} failed: {" ".join(failed)}')
    return int(bool(failed))


def _environment(files: Path, packages: Path) -> dict[str, str]:
    """Unpack the wheels that were brought; return the environment of the parts."""
    for wheel in sorted(files.glob('*.whl')):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)
    places = [str(ROOT), str(ROOT / 'benchmarks'), os.environ.get('PYTHONPATH', '')]
    # What is installed was built for this machine's PyTorch and NumPy: it comes first.
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, places)),
            'GPU_PACKAGES': str(packages), 'PYTHONDONTWRITEBYTECODE': '1'}  # fmt: skip


def _run_part(
    name: str, args: argparse.Namespace, environment: dict[str, str], seconds: float
) -> dict[str, Any]:
    """Run a part in a process of its own; return what it noted, and the error if there was one."""
    note, log = args.out / f'{name}.json', args.out / f'{name}.log'
    note.unlink(missing_ok=True)
    command = [sys.executable, '-m', 'gpu.part', name, '--device', args.device]
    command += ['--files', str(args.files), '--out', str(args.out)]
    own = REHEARSAL if args.tiny else max(seconds - NOTICE, 5)
    command += ['--seconds', str(own), *['--tiny'] * args.tiny]
    if args.start_from:
        command += ['--start-from', args.start_from]
    started = time.monotonic()
    with log.open('wb') as lines:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=lines,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _kill(process)
    result: dict[str, Any] = json.loads(note.read_text()) if note.exists() else {}
    result['seconds'] = round(time.monotonic() - started, 1)
    if code is None:
        result['error'] = f'stopped after {seconds:.0f} s'
    elif code:
        last = log.read_text(errors='replace').strip().splitlines() or ['']
        result['error'] = f'exit code {code}: {last[-1]}'
    return result


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a part and the processes that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


if __name__ == '__main__':
    if not shutil.which('nvidia-smi') and '--device' not in sys.argv:
        print('no nvidia-smi here; a rehearsal is --device cpu --tiny', file=sys.stderr)
    sys.exit(main())
