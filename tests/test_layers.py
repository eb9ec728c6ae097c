"""Who may import whom: arrows point downwards only, function-level imports included."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import synthseg_bids

PACKAGE = Path(synthseg_bids.__file__).parent
#: From top to bottom. Rooms of one line do not import each other; the lowest import nobody.
LAYERS = (
    ('app', 'cli'),
    ('workflows',),
    ('interfaces',),
    ('reports',),
    ('training',),
    ('bids', 'inference'),
    ('synth', 'models'),
    ('measure', 'external'),
    ('images', 'hardware', 'parcels'),
    ('labels', 'linear', 'files', 'errors', 'progress'),
)
LEVEL = {room: level for level, rooms in enumerate(reversed(LAYERS)) for room in rooms}
#: Packages that only some rooms, or modules, may import.
ONLY = {
    'torch': {'synth', 'models', 'training', 'inference', 'hardware', 'linear'},
    'nipype': {'interfaces', 'workflows', 'app.execute'},
    'matplotlib': {'reports'},
    'argparse': {'app', 'cli'},
    'bids': {'bids'},
}


def room_of(module: str) -> str:
    return module.split('.')[0]


@cache
def imports(path: Path) -> list[tuple[str, str]]:
    """Return what a file imports: the package, and for our own the module."""
    here = path.relative_to(PACKAGE).with_suffix('').parts
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name.partition('.')[0], '') for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package, _, module = (node.module or '').partition('.')
            if node.level:
                base = here[: len(here) - node.level]
                package, module = 'synthseg_bids', '.'.join([*base, node.module or ''])
            names = [alias.name for alias in node.names]
            inner = [f'{module}.{name}'.strip('.') for name in names]
            known = [name for name in inner if is_module(name)]
            found += [(package, name) for name in known or [module.strip('.')]]
    return found


@cache
def is_module(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split('.'))
    return path.with_suffix('.py').is_file() or (path / '__init__.py').is_file()


MODULES = {
    '.'.join(path.relative_to(PACKAGE).with_suffix('').parts): path
    for path in sorted(PACKAGE.rglob('*.py'))
}


@pytest.mark.parametrize('module', MODULES)
def test_arrows_point_downwards(module):
    room = room_of(module)
    for package, target in imports(MODULES[module]):
        if package == 'synthseg_bids' and target and room != '__init__':
            other = room_of(target)
            lower = LEVEL[other] < LEVEL[room]
            assert other == room or lower, f'{module} imports {target}'
        allowed = ONLY.get(package)
        if allowed is not None and package != 'synthseg_bids':
            assert {room, module} & allowed, f'{module} imports {package}'


def test_no_circles_between_files():
    graph = {
        module: {
            target
            for package, target in imports(path)
            if package == 'synthseg_bids' and target in MODULES
        }
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f'circle: {" -> ".join((*above, module))}'
        if module not in done:
            for target in graph[module]:
                visit(target, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())
