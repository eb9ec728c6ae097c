"""Errors of the system are told with their path, their cause, and advice that fits."""

from __future__ import annotations

import errno
import gzip
import multiprocessing
import multiprocessing.util
import os
import tempfile
from types import SimpleNamespace

import pytest
from app import options

from synthseg_bids.app import main as app
from synthseg_bids.app.resources import choose_plugin
from synthseg_bids.cli import main as cli
from synthseg_bids.errors import UsageError, explain_error
from synthseg_bids.workflows.crashes import find_reason
from synthseg_bids.workflows.resources import Resources


@pytest.mark.parametrize('number', sorted(errno.errorcode))
@pytest.mark.parametrize('path', [None, '/a b', b'/\xff', '/dev/shm/sem.1', 3])
def test_whatever_the_system_says_is_told_in_a_line(number, path):
    said = explain_error(OSError(number, os.strerror(number), path))
    assert os.strerror(number) in said
    assert 'Errno' not in said
    assert len(said.splitlines()) == 1
    if isinstance(path, str):
        assert said.startswith(path)
    if path == '/dev/shm/sem.1':
        assert said.endswith('or give --nprocs 1')
        assert 'folder' not in said


def test_both_paths_of_a_renaming_are_told():
    said = explain_error(OSError(errno.EXDEV, 'x', '/a', None, '/b'))
    assert said.startswith('/a -> /b: ')


def test_errors_that_are_not_the_systems_say_what_they_say():
    with pytest.raises(gzip.BadGzipFile) as error:
        gzip.decompress(b'no archive')
    assert 'Not a gzipped file' in explain_error(error.value)
    assert explain_error(TimeoutError()) == 'TimeoutError'


def test_a_node_that_does_not_know_its_file_names_its_folder():
    said = find_reason('OSError: [Errno 28] No space left on device\n', '/work/segment')
    assert said.startswith('/work/segment: No space left')


FAILURES = [OSError(errno.EIO, 'x', '/f'), gzip.BadGzipFile('Not a gzipped file')]


@pytest.mark.parametrize('error', FAILURES, ids=repr)
def test_commands_tell_errors_of_the_system(error, monkeypatch, capsys, raw, tmp_path):
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(app, 'run', fail)
    assert app.main(options(raw, tmp_path, 'model')) == 1
    assert explain_error(error) in capsys.readouterr().err
    monkeypatch.setattr(cli, 'build_parser', lambda _: SimpleNamespace(
        parse_args=lambda _: SimpleNamespace(run=fail)))  # fmt: skip
    assert cli.main([]) == 1
    assert capsys.readouterr().err == f'synthseg: {explain_error(error)}\n'


@pytest.mark.parametrize('error', [OSError(errno.EROFS, 'x'), ImportError('no semaphores'),
                                   FileNotFoundError(errno.ENOENT, 'x')], ids=repr)  # fmt: skip
def test_one_process_needs_no_shared_memory(error, monkeypatch, caplog):
    def fail(self: object) -> None:
        raise error

    monkeypatch.setattr(multiprocessing.context.BaseContext, 'Lock', fail)
    one, two = Resources(nprocs=1), Resources(nprocs=2)
    assert choose_plugin(('MultiProc', {}), one)[0] == 'Linear'
    assert '/dev/shm' in caplog.text
    with pytest.raises(UsageError, match=r'^/dev/shm: .*several processes need shared memory'):
        choose_plugin(('MultiProc', {}), two)


def test_sockets_have_short_paths(tmp_path, monkeypatch, caplog):
    folder = tmp_path / ('long' * 30)
    folder.mkdir()
    monkeypatch.setattr(multiprocessing.util, 'get_temp_dir', lambda: str(folder))
    monkeypatch.setattr(tempfile, 'tempdir', str(folder))
    assert choose_plugin(('MultiProc', {}), Resources(nprocs=1))[0] == 'Linear'
    assert 'AF_UNIX path too long' in caplog.text
    with pytest.raises(UsageError, match=rf'^{folder}: .*set TMPDIR to .*, or give --nprocs 1'):
        choose_plugin(('MultiProc', {}), Resources(nprocs=2))
