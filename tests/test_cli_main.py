from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from synthseg_bids.cli.synthesize import PRESET_NAMES
from synthseg_bids.synth.generator import PRESETS


def test_presets_are_those_of_the_generator():
    assert tuple(PRESETS) == PRESET_NAMES


@pytest.mark.parametrize('command', [[], ['train'], ['segment'], ['synthesize']])
def test_help_imports_nothing_heavy(command):
    code = (
        'import sys; from synthseg_bids.cli.main import build_parser\n'
        'try: build_parser().parse_args(sys.argv[1:])\n'
        'except SystemExit: pass\n'
        'heavy = {"torch", "numpy", "nipype", "nibabel", "pandas"} & set(sys.modules)\n'
        'assert not heavy, heavy\n'
    )
    run = subprocess.run(
        [sys.executable, '-c', code, *command, '--help'], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert 'usage: synthseg' in run.stdout


PACKAGE = Path(__file__).parents[1] / 'synthseg_bids'
TORCH = {'synth', 'network', 'weights', 'losses', 'training', 'device', 'inference'}
#: Who may import what: third-party package -> the modules or subpackages that may.
ALLOWED = {
    'torch': TORCH | {'interfaces'},
    'nipype': {'interfaces', 'workflows', 'cli'},
    'matplotlib': {'reports'},
    'argparse': {'cli'},
    'nibabel': {'volume_io', 'synth', 'geometry', 'interfaces'},
    'bids': {'bids'},
}
#: Inner layers -> what of the package they must never import.
FORBIDDEN = {
    'labels': {'*'},
    'geometry': TORCH | {'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'volume_io': TORCH | {'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'measures': TORCH | {'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'synth': {'network', 'training', 'inference', 'bids', 'interfaces', 'workflows', 'cli'},
    'network': {'*'},
    'losses': {'*'},
    'training': {'inference', 'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'inference': {'training', 'synth', 'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'bids': TORCH | {'interfaces', 'workflows', 'cli', 'reports'},
    'interfaces': {'workflows', 'cli'},
    'workflows': {'cli'},
}


def imports(path):
    """Yield (package, top module within ours or None) of each import of a file."""
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split('.')[0], None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split('.')[0], None
        elif isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (('synthseg_bids', name.split('.')[0]) for name in names)


@pytest.mark.parametrize('path', sorted(PACKAGE.rglob('*.py')), ids=lambda p: p.stem)
def test_layers_stay_apart(path):
    layer = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
    for package, module in imports(path):
        assert layer in ALLOWED.get(package, {layer}), f'{layer} imports {package}'
        if module:
            forbidden = FORBIDDEN.get(layer, set())
            assert module not in forbidden, f'{layer} imports {module}'
            assert '*' not in forbidden, f'{layer} imports {module}'
            assert module != 'cli' or layer == 'cli', f'{layer} imports cli'
