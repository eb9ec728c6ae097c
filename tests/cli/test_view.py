"""The command ``synthseg view``."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import webbrowser
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote
from urllib.request import urlopen

import pytest
from report_tree import write_tree

from synthseg_bids.cli.main import main
from synthseg_bids.cli.view import opened
from synthseg_bids.external import niivue
from synthseg_bids.files import write_json

needs_niivue = pytest.mark.skipif(
    find_spec('ipyniivue') is None, reason='ipyniivue is not installed'
)


@pytest.fixture(scope='module')
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp('view'), ['01'], label_maps=False)


@pytest.fixture
def without_niivue(monkeypatch) -> Iterator[None]:
    niivue.niivue_module.cache_clear()
    monkeypatch.setattr(niivue, 'find_spec', lambda name: None)
    yield
    niivue.niivue_module.cache_clear()


@needs_niivue
def test_it_serves_until_it_is_interrupted(out):
    command = [sys.executable, '-m', 'synthseg_bids.cli', 'view', str(out), '--no-browser']
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Shells start jobs in the background with the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as view:
        try:
            first, second = (view.stdout.readline() for _ in range(2))
            address = first.partition(': ')[2].strip()
            port = re.fullmatch(r'http://127\.0\.0\.1:(\d+)/[\w-]{32}/', address)[1]
            assert f'ssh -NL {port}:localhost:{port}' in second
            assert 'sub-01' in urlopen(address, timeout=20).read().decode()
            with pytest.raises(HTTPError, match='403'):
                urlopen(f'http://127.0.0.1:{port}/', timeout=20)
            view.send_signal(signal.SIGINT)
            assert view.wait(20) == 0
            assert (view.stdout.read(), view.stderr.read()) == ('', '')
        finally:
            view.kill()
    with pytest.raises(OSError, match='refused'):
        urlopen(address, timeout=5)


@needs_niivue
def test_a_port_that_is_taken_is_named(out, capsys):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        assert main(['view', str(out), '--no-browser', '--port', str(port)]) == 1
    assert capsys.readouterr().err == (
        f'synthseg: --port {port}: Address already in use; give another one\n'
    )


def test_without_niivue_it_says_what_to_install(out, capsys, without_niivue):
    assert main(['view', str(out), '--no-browser']) == 1
    error = capsys.readouterr().err
    assert error == 'synthseg: NiiVue is not installed; pip install "ipyniivue>=2.4"\n'


def test_what_it_refuses_to_serve(out, tmp_path, capsys):
    write_json(
        tmp_path / 'other/dataset_description.json', {'GeneratedBy': [{'Name': 'fmriprep'}]}
    )
    for arguments, message in (
        ([tmp_path / 'none'], 'no such folder'),
        ([tmp_path], 'not written by synthseg-bids'),
        ([tmp_path / 'other'], 'not written by synthseg-bids'),
        ([out, '--bids-dir', tmp_path / 'none'], 'no such folder'),
        ([out, '--port', -1], 'give a number from 1 to 65535'),
        ([out, '--port', 65536], 'give a number from 1 to 65535'),
    ):
        assert main(['view', *map(str, arguments), '--no-browser']) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count('\n') == 1


def test_the_browser_is_not_given_the_address_where_others_see_it(monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(webbrowser, 'open', asked.append)
    with opened('http://127.0.0.1:1/token/'):
        (page,) = asked
        path = Path(unquote(page.removeprefix('file://')))
        assert 'token' not in page
        assert 'url=http://127.0.0.1:1/token/' in path.read_text()
        assert stat.S_IMODE(os.stat(path.parent).st_mode) == 0o700
    assert not path.parent.exists()
