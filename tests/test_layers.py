from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'synthseg_bids'
TORCH = {
    *('synth', 'network', 'weights', 'official', 'losses', 'training', 'device', 'inference'),
    *('pairs', 'priors', 'supervised', 'training_config', 'distributed'),
    *('postprocess', 'engine', 'bfloat16', 'predict', 'compat', 'muon', 'api', 'footprint'),
    *('grow', 'calibration', 'refine', 'fallback', 'plans', 'linear'),
}
#: Who may import what: third-party package -> the modules or subpackages that may.
ALLOWED = {
    'torch': TORCH,
    'nipype': {'interfaces', 'workflows', 'cli'},
    'matplotlib': {'reports'},
    'argparse': {'cli'},
    'nibabel': {'volume_io', 'api', 'image_checks', 'synth', 'geometry', 'interfaces'},
    'bids': {'bids'},
    'h5py': {'official'},
}
#: Inner layers -> what of the package they must never import.
FORBIDDEN = {
    'labels': {'*'},
    'geometry': TORCH | {'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'volume_io': TORCH | {'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'image_checks': TORCH | {'volume_io', 'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'measures': TORCH | {'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'qc': TORCH | {'volume_io', 'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'qc_measures': TORCH | {'volume_io', 'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'agreement': TORCH | {'volume_io', 'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'stats': {'*'},
    'evaluation': TORCH | {'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'synth': {'network', 'training', 'inference', 'bids', 'interfaces', 'workflows', 'cli'},
    'network': {'*'},
    'losses': {'*'},
    'weights': {'training', 'inference', 'synth', 'bids', 'interfaces', 'workflows', 'cli'},
    'official': {'training', 'inference', 'synth', 'bids', 'interfaces', 'workflows', 'cli'},
    'training': {'inference', 'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'inference': {'training', 'synth', 'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'engine': {'training', 'inference', 'synth', 'bids', 'interfaces', 'workflows', 'cli'},
    'pairs': {'synth', 'training', 'inference', 'interfaces', 'workflows', 'cli', 'reports'},
    'priors': {'training', 'inference', 'interfaces', 'workflows', 'cli', 'reports'},
    'supervised': {'training', 'inference', 'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'distributed': {'training', 'inference', 'synth', 'bids', 'interfaces', 'workflows', 'cli'},
    'muon': {'*'},
    'grow': {'training', 'inference', 'synth', 'bids', 'interfaces', 'workflows', 'cli'},
    'calibration': {'inference', 'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'bfloat16': {'*'},
    'refine': {'training', 'inference', 'synth', 'bids', 'interfaces', 'workflows', 'cli'},
    'memory': {'*'},
    'linear': {'*'},
    'tether': {'*'},
    'external': TORCH | {'labels', 'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'fs_stats': TORCH | {'volume_io', 'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'prepare': TORCH | {'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'plans': {'training', 'inference', 'synth', 'bids', 'interfaces', 'workflows', 'cli'},
    'predict': {'training', 'inference', 'synth', 'bids', 'interfaces', 'workflows', 'cli'},
    'fallback': {'training', 'inference', 'synth', 'bids', 'interfaces', 'workflows', 'cli'},
    'footprint': {'training', 'inference', 'synth', 'bids', 'interfaces', 'workflows', 'cli'},
    'compat': {'training', 'synth', 'bids', 'interfaces', 'workflows', 'cli', 'reports'},
    'postprocess': {'training', 'synth', 'bids', 'interfaces', 'workflows', 'cli', 'reports'},
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
            package, _, rest = node.module.partition('.')
            ours = package == 'synthseg_bids' and rest
            yield package, rest.split('.')[0] if ours else None
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
