"""What Nipype asks of interfaces (its own tools/checkspecs.py) and NiPreps of workflows."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pickle
import pkgutil
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from nipype.interfaces.base import BaseInterface, isdefined

import synthseg_bids.interfaces
import synthseg_bids.workflows

EXAMPLES = Path(__file__).parents[2] / 'examples'
EXAMPLE = EXAMPLES / 'nipype_workflow.py'
METADATA = {
    *('desc', 'mandatory', 'usedefault', 'nohash', 'requires', 'xor', 'units', 'deprecated'),
    *('new_name', 'min_ver', 'max_ver', 'copyfile', 'hash_files', 'argstr'),
}
#: What traits keep for themselves.
BUILT_IN = {
    *('type', 'copy', 'parent', 'instance_handler', 'comparison_mode', 'array', 'default'),
    *('editor', 'parent_metadata', 'rich_compare', 'extensions'),
}
#: How fast and where something is computed, not what: must not make a cached result outdated.
HOW_NOT_WHAT = {
    *('use_gpu', 'device', 'devices', 'slots_per_device', 'lock_dir', 'num_threads'),
    *('gpu_fallback', 'low_memory', 'memory_limit'),
    *('environ', 'use_cpu', 'seconds', 'priors_dir'),
}


@cache
def load_example(path=EXAMPLE):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    # Nipype pickles the interfaces of a workflow by the name of their module.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def modules():
    package = synthseg_bids.interfaces
    for entry in pkgutil.iter_modules(package.__path__):
        yield importlib.import_module(f'{package.__name__}.{entry.name}')
    yield load_example()


INTERFACES = {
    value
    for module in modules()
    for value in vars(module).values()
    if isinstance(value, type)
    and issubclass(value, BaseInterface)
    and value.__module__ == module.__name__
}
TRAITS = [
    (interface, side, name, trait)
    for interface in sorted(INTERFACES, key=lambda interface: interface.__name__)
    for side in ('input', 'output')
    for name, trait in getattr(interface, f'{side}_spec')().traits(transient=None).items()
]
WORKFLOWS = [
    (synthseg_bids.workflows.init_image_wf, {}),
    (synthseg_bids.workflows.init_training_wf, {}),
    (load_example().init_structures_wf, {}),
    (load_example(EXAMPLES / 'training_workflow.py').init_train_and_segment_wf, {}),
]


def test_every_interface_is_exported():
    names = {i.__name__ for i in INTERFACES if i.__module__.startswith('synthseg_bids')}
    assert names == {*synthseg_bids.interfaces.__all__}
    assert len(names) > 5


@pytest.mark.parametrize(
    ('interface', 'side', 'name', 'trait'),
    [pytest.param(*row, id=f'{row[0].__name__}-{row[1]}-{row[2]}') for row in TRAITS],
)
def test_every_trait_is_well_described(interface, side, name, trait):
    # A line of a list in help(): lower case, no full stop.
    assert re.fullmatch(r'[a-z1A-Z].*[^.]', trait.desc or ''), trait.desc
    assert {*vars(trait)} <= METADATA | BUILT_IN
    assert trait.mandatory in (None, True)
    assert not (trait.mandatory and trait.usedefault)
    if side == 'output':
        assert not {'mandatory', 'usedefault', 'nohash'} & {*vars(trait)}
        return
    value = getattr(interface.input_spec(), name)
    if trait.usedefault:
        assert isdefined(value)
    elif not isinstance(value, list | dict):
        assert not isdefined(value), 'a default that the user is not told of'
    assert bool(trait.nohash) is (name in HOW_NOT_WHAT)


@pytest.mark.parametrize('interface', sorted(INTERFACES, key=str), ids=lambda i: i.__name__)
def test_interfaces_explain_themselves(interface):
    help_text = interface.help(returnhelp=True)
    assert interface.__doc__.splitlines()[0].endswith('.')
    for name in [*interface.input_spec().copyable_trait_names()]:
        assert f'{name}:' in help_text
    sent = pickle.loads(pickle.dumps(interface()))
    assert sent.inputs.get_traitsfree() == interface().inputs.get_traitsfree()
    mandatory = [*interface.input_spec().traits(mandatory=True)]
    with pytest.raises(ValueError, match=mandatory[0] if len(mandatory) == 1 else 'requires'):
        interface().run()


@pytest.mark.parametrize(('init', 'options'), WORKFLOWS, ids=lambda value: str(value)[:30])
def test_docstrings_list_the_fields_of_a_workflow(init, options):
    workflow = init(**options)
    for section, node in (('Inputs', 'inputnode'), ('Outputs', 'outputnode')):
        pattern = rf'\n{section}\n-+\n(.*?)\n\n'
        text = re.search(pattern, inspect.getdoc(init), re.DOTALL)[1]
        named = re.findall(r'^(\w[\w, ]*) : ', text, re.MULTILINE)
        fields = [field for names in named for field in names.split(', ')]
        assert sorted(fields) == sorted(workflow.get_node(node).interface._fields)
    assert init(name='other', **options).name == 'other'


def test_building_a_workflow_imports_nothing_heavy():
    """Whoever forks workers must not have used CUDA, and a cluster's head node may lack it."""
    code = (
        'import sys\nfrom synthseg_bids.workflows import init_image_wf, init_training_wf\n'
        'init_training_wf()\n'
        'init_image_wf(posteriors="native", compare=True)\n'
        'print(sorted({"torch", "matplotlib"} & {*sys.modules}))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == '[]', done.stderr


@pytest.mark.parametrize('package', ['interfaces', 'workflows', 'interfaces.segment'])
def test_nobody_is_asked_for_versions(package):
    env = {k: v for k, v in os.environ.items() if k not in ('NO_ET', 'NIPYPE_NO_ET')}
    code = (
        f'import synthseg_bids.{package}, os, sys\n'
        'from synthseg_bids.interfaces import SegmentImage\n'
        'SegmentImage()\n'
        "print(os.environ['NO_ET'], os.environ['NIPYPE_NO_ET'], 'etelemetry' in sys.modules)\n"
    )
    # Without a file, as in a notebook, Nipype asks as soon as it is imported.
    command = [sys.executable, '-W', 'ignore', '-c', code]
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ['1', '1', 'False']
