"""The documentation: it builds without a warning, and is made of what the code is."""

from __future__ import annotations

import argparse
import html
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from heads import write_heads
from PIL import Image

import synthseg_bids.interfaces
import synthseg_bids.workflows
from synthseg_bids.app.parser import build_parser
from synthseg_bids.cli.main import build_parser as build_command_parser

ROOT = Path(__file__).parents[2]
DOCS = ROOT / 'docs'
PAGES = sorted([*ROOT.glob('*.rst'), *DOCS.glob('*.rst'), *ROOT.glob('*/README.rst')])
#: How a page is named in the repository.
PAGE = r'(?<![\w/])(?:docs/)?(\w+)\.rst\b'
PROGRAMS = 'synthseg|synthseg-bids|synthseg-bids-docker|torchrun'
#: A command with the lines that continue it; no entry of a table of contents.
COMMAND = re.compile(rf'^ +((?:{PROGRAMS}) (?!<)(?:.*\\\n)*.*)', re.MULTILINE)


@pytest.fixture(scope='module')
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages."""
    for package in ('sphinx', 'sphinxarg', 'furo'):
        pytest.importorskip(package)
    out = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-W', 'ignore', '-m', 'sphinx', '-W', '--keep-going', '--quiet']
    command += ['-d', str(out / 'doctrees'), str(DOCS), str(out / 'html')]
    # Nothing may be asked of the network.
    proxies = dict.fromkeys(('http_proxy', 'https_proxy'), 'http://127.0.0.1:9')
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', **proxies}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return out / 'html'


def text_of(page: Path) -> str:
    return html.unescape(re.sub(r'<[^>]+>', '', page.read_text(encoding='utf-8')))


def option_strings(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, subparser in action.choices.items():
                yield name
                yield from option_strings(subparser)
        elif not isinstance(action, argparse._HelpAction):
            yield from action.option_strings


@pytest.mark.slow
def test_pages_of_commands_have_every_option(site):
    for page, parser in (('options', build_parser()), ('commands', build_command_parser())):
        text = text_of(site / f'{page}.html')
        missing = {name for name in option_strings(parser) if name not in text}
        assert not missing
        assert '%(' not in text
    assert 'do not average with the mirrored image' in text_of(site / 'options.html')


@pytest.mark.slow
def test_pages_of_nipype_have_every_input_and_output(site):
    text = text_of(site / 'interfaces.html')
    for name in synthseg_bids.interfaces.__all__:
        interface = getattr(synthseg_bids.interfaces, name)
        assert f'synthseg_bids.interfaces.{name}(**inputs)' in text
        for spec in (interface.input_spec, interface.output_spec):
            for trait, definition in spec().items() if spec else ():
                assert trait in text
                assert ' '.join(definition.desc.split()) in ' '.join(text.split())
    text = text_of(site / 'workflows.html')
    assert all(f'.workflows.{name}(' in text for name in synthseg_bids.workflows.__all__)


@pytest.mark.slow
def test_names_of_pages_have_become_links(site):
    names = {page.stem for page in DOCS.glob('*.rst')}
    assert {'bids', 'faq', 'qc'} <= names
    for page in site.glob('*.html'):
        article = page.read_text(encoding='utf-8').partition('<article')[2].partition('</art')[0]
        shown = set(re.findall(PAGE, re.sub(r'<[^>]+>', '', article)))
        assert not shown & names, page.name
        assert not re.search(r'href="[^":]*\.rst"', article), page.name
    assert '<a class="reference internal" href="qc.html">' in (site / 'bids.html').read_text()


@pytest.mark.slow
def test_pages_load_nothing_from_the_network(site):
    loaded = re.compile(r'<(?:script|img|iframe)[^>]* src="(\w+:)?//|<link [^>]*href="(\w+:)?//')
    pages = [*site.rglob('*.html')]
    assert len(pages) > 30
    for page in pages:
        assert not loaded.search(page.read_text(encoding='utf-8')), page.name
    for sheet in site.rglob('*.css'):
        assert not re.search(r'url\(["\']?(?:https?:)?//', sheet.read_text(encoding='utf-8'))


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_pages_are_understood(page, capsys):
    for command in COMMAND.findall(page.read_text(encoding='utf-8')):
        text = re.sub(r'\$\(.*?\)', 'FILES', command.replace('\\\n', ' '))
        words = shlex.split(text, comments=True)
        if words[0] == 'torchrun':
            words = words[words.index('synthseg_bids.cli') :]
        parser = build_parser() if words[0].startswith('synthseg-bids') else build_command_parser()
        try:
            parser.parse_args(words[1:])
        except SystemExit:
            pytest.fail(f'{command}\n{capsys.readouterr().err}')


def test_commands_are_found_in_pages():
    found = {page.name: len(COMMAND.findall(page.read_text())) for page in PAGES}
    assert found['bids.rst'] >= 4
    assert found['own_network.rst'] >= 4


def test_pictures_are_those_that_pages_show(tmp_path):
    maps = tmp_path / 'maps'
    maps.mkdir()
    label_map = write_heads(maps, count=1) / 'map-0_dseg.nii.gz'
    draw = runpy.run_path(str(DOCS / 'pictures.py'))['main']
    draw([str(label_map), '--out', str(tmp_path / 'pictures')])
    drawn = {path.name for path in (tmp_path / 'pictures').iterdir()}
    shown = set(re.findall(r'pictures/(\S+)', (DOCS / 'generator.rst').read_text()))
    assert drawn == shown
    assert {path.name for path in (DOCS / 'pictures').iterdir()} == drawn | {
        'scans.webp',
        'session.webp',
    }
    for path in (tmp_path / 'pictures').iterdir():
        with Image.open(path) as image:
            # Three changes of a head, each unlike the head as it was.
            width = image.width // 4
            tiles = [image.crop((i * width, 0, (i + 1) * width - 8, width)) for i in range(4)]
            assert len({tile.tobytes() for tile in tiles}) == 4, path.name
