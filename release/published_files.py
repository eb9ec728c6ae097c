"""What wheel and sdist hold, and what each file of a release says about it.

A fact is what one source says: ``{'name': 'synthseg-bids', 'version': '1.0.0', ...}``, with those
of ``name``, ``version``, ``license`` and ``summary`` that the source has.
"""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from collections.abc import Collection, Mapping
from email.parser import Parser
from pathlib import Path

import yaml

PACKAGE = 'synthseg_bids/'
#: Tracked files that an sdist has no use for.
_NOT_SHIPPED = ('.ci/', '.dockerignore', '.gitignore', 'training/')
#: What setuptools adds to an sdist.
_ADDED = ('PKG-INFO', 'setup.cfg', 'synthseg_bids.egg-info/')
_LABEL = r'org\.opencontainers\.image\.([\w.]+)[= ]"?([^"\n]*)'

Facts = dict[str, str]


def list_wheel(wheel: Path) -> list[str]:
    """Return the names of a wheel's files."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def list_sdist(sdist: Path) -> list[str]:
    """Return the names of an sdist's files, below its folder."""
    with tarfile.open(sdist) as archive:
        return [member.name.partition('/')[2] for member in archive if member.isfile()]


def wheel_problems(names: Collection[str], tracked: Collection[str]) -> list[str]:
    """Compare a wheel with the package: it holds each file of it, and no other.

    Parameters
    ----------
    names : collection of str
        Files of the wheel.
    tracked : collection of str
        Files of the repository that git knows.

    Returns
    -------
    list of str
        What is wrong, a line each.
    """
    held = {name for name in names if '.dist-info/' not in name}
    problems = _differences('wheel', held, {n for n in tracked if n.startswith(PACKAGE)})
    if not any(name.endswith('.safetensors') for name in held):
        problems.append('wheel: no weights; see package_data in setup.py')
    if not any(name.endswith('.dist-info/licenses/LICENSE') for name in names):
        problems.append('wheel: no LICENSE; see MANIFEST.in')
    return problems


def sdist_problems(names: Collection[str], tracked: Collection[str]) -> list[str]:
    """Compare an sdist with the repository; parameters and result as in :func:`wheel_problems`."""
    held = {name for name in names if not name.startswith(_ADDED)}
    return _differences('sdist', held, {n for n in tracked if not n.startswith(_NOT_SHIPPED)})


def _differences(what: str, held: set[str], wanted: set[str]) -> list[str]:
    lines = [f'{what}: lacks {name}; see setup.py and MANIFEST.in' for name in wanted - held]
    lines += [f'{what}: holds {name}, which should not be there' for name in held - wanted]
    return sorted(lines)


def disagreements(facts: Mapping[str, Facts]) -> list[str]:
    """Compare what sources say with what the first of them says.

    Parameters
    ----------
    facts : mapping of str to dict
        What each source says, by its name.

    Returns
    -------
    list of str
        A line for each value that differs.
    """
    first, right = next(iter(facts.items()))
    return [
        f'{source}: {key} {value!r}, but {first} has {right[key]!r}'
        for source, found in facts.items()
        for key, value in found.items()
        if value != right[key]
    ]


def read_facts(source: Path, wheel: Path, make: str) -> dict[str, Facts]:
    """Read what each file says about the release, the wheel first.

    Parameters
    ----------
    source : Path
        The repository, or a copy of it.
    wheel : Path
    make : str
        What ``make --dry-run docker singularity`` prints.

    Returns
    -------
    dict of str to dict
        Facts by source.
    """
    facts = {'wheel': wheel_facts(wheel), 'CITATION.cff': citation_facts(source / 'CITATION.cff')}
    version = facts['wheel']['version']
    changes = (source / 'CHANGES.rst').read_text(encoding='utf-8')
    facts['CHANGES.rst'] = {'version': newest_changes(changes, version)}
    commands = make.replace('\\\n', ' ').splitlines()
    for name in ('docker/Dockerfile', 'singularity/synthseg-bids.def'):
        [command] = [line for line in commands if name in line]
        given = re.search(r'--build-arg VERSION=(\S+)', command)
        text = (source / name).read_text(encoding='utf-8')
        facts[name] = label_facts(text, given[1] if given else 'missing')
        if tag := re.search(r'--tag (\S+)', command):
            facts[f'tag of {name}'] = _image_facts(tag[1])
    boutiques = json.loads((source / 'release/synthseg-bids.json').read_text(encoding='utf-8'))
    facts['release/synthseg-bids.json'] = {
        'name': boutiques['name'],
        'version': boutiques['tool-version'],
    }
    facts['image of release/synthseg-bids.json'] = _image_facts(
        boutiques['container-image']['image']
    )
    babs = yaml.safe_load((source / 'examples/babs.yaml').read_text(encoding='utf-8'))
    [(name, zipped)] = babs['zip_foldernames'].items()
    facts['examples/babs.yaml'] = {'name': name, 'version': zipped.replace('-', '.')}
    return facts


def wheel_facts(wheel: Path) -> Facts:
    """Read the metadata of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        [path] = [name for name in archive.namelist() if name.endswith('.dist-info/METADATA')]
        metadata = Parser().parsestr(archive.read(path).decode())
    return {
        'name': metadata['Name'],
        'version': metadata['Version'],
        'license': metadata['License-Expression'] or metadata['License'],
        'summary': metadata['Summary'],
    }


def citation_facts(path: Path) -> Facts:
    """Read CITATION.cff."""
    citation = yaml.safe_load(path.read_text(encoding='utf-8'))
    keys = {'name': 'title', 'version': 'version', 'license': 'license', 'summary': 'abstract'}
    return {key: str(citation[name]) for key, name in keys.items()}


def newest_changes(text: str, version: str) -> str:
    """Return the version of the topmost section of CHANGES.rst.

    Parameters
    ----------
    text : str
    version : str
        Version of the package. Of one that is under development, such as 1.1.0.dev0, the section
        is called Unreleased.
    """
    [heading, *_] = re.findall(r'^(.+)\n-+$', text, re.MULTILINE)
    return version if heading == 'Unreleased' and '.dev' in version else heading


def label_facts(text: str, version: str) -> Facts:
    """Read the labels of an image from its Dockerfile or definition file.

    Parameters
    ----------
    text : str
    version : str
        Value of the build argument ``VERSION``.
    """
    text = text.replace('${VERSION}', version).replace('{{ VERSION }}', version)
    labels = {key: value.strip() for key, value in re.findall(_LABEL, text)}
    keys = {'name': 'title', 'version': 'version', 'license': 'licenses'}
    return {key: labels.get(name, 'missing') for key, name in keys.items()}


def _image_facts(image: str) -> Facts:
    return dict(zip(('name', 'version'), image.split(':'), strict=True))
