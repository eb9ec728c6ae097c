"""The line of progress on a terminal."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from app import APP, options, write_description, write_image

from synthseg_bids.progress import Progress

COLUMNS = 100


@pytest.fixture
def raw(tmp_path) -> Path:
    """Three images, the second of which is damaged."""
    folder = tmp_path / 'raw'
    write_description(folder, 'three')
    for number in (1, 2, 3):
        path = folder / f'sub-{number}' / 'anat' / f'sub-{number}_T1w.nii.gz'
        write_image(path, seed=number)
        if number == 2:
            path.write_bytes(path.read_bytes()[:-200])
    return folder


def at_terminal(*command: str) -> tuple[list[str], list[str]]:
    """Run a program on a terminal of its own; return what it shows in the end, and all states."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack('HHHH', 40, COLUMNS, 0, 0))
    shown = b''
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its):
        os.close(its)
        # Linux reports an error where the last program has left the terminal.
        while part := read(ours):
            shown += part
    os.close(ours)
    text = shown.decode().replace('\r\n', '\n')
    lines = [line.split('\r') for line in text.split('\n')]
    return [overwritten(states) for states in lines], [s for states in lines for s in states]


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b''


def overwritten(states: list[str]) -> str:
    """Return what a line shows that was begun several times."""
    shown = ''
    for state in states:
        shown = state + shown[len(state) :]
    return shown.rstrip()


@pytest.mark.parametrize('plugin', ['MultiProc', 'Linear'])
def test_a_line_of_the_app(plugin, tmp_path, raw, tiny_model):
    (tmp_path / 'plugin.toml').write_text(f'plugin = "{plugin}"\n')
    arguments = options(
        raw, tmp_path / 'out', tiny_model, '--use-plugin', tmp_path / 'plugin.toml'
    )
    lines, states = at_terminal(*APP, *arguments)
    (line,) = [line for line in lines if '/3 [' in line]
    assert line.startswith('100%|')
    assert '3/3 [' in line
    assert line.endswith('2 done, 0 running, 1 failed]')
    assert any(' 0/3 [' in state and '1 running, 0 failed]' in state for state in states)
    assert all(len(state) <= COLUMNS for state in states if '/3 [' in state)
    # The bar leaves nothing in the lines of the log.
    messages = [line for line in lines if 'sub-' in line]
    assert all(message.startswith(('INFO: ', 'WARNING: ', 'ERROR: ')) for message in messages)
    assert sum('done (' in message for message in messages) == 2
    assert sum('T1w.nii.gz: started' in message for message in messages) == 3
    assert '2 done, 0 skipped, 1 failed' in lines


def test_nothing_is_drawn_elsewhere(capsys):
    stream = logging.StreamHandler()
    logging.getLogger().addHandler(stream)
    try:
        with Progress(2, 'image') as progress:
            assert progress.time_left() == ''
            progress.show(1, 'a')
            assert progress.time_left() == '; 00:00 left'
            logging.getLogger('synthseg_bids').warning('as usual')
            progress.show(2, 'b')
            assert progress.time_left() == ''
    finally:
        logging.getLogger().removeHandler(stream)
    assert capsys.readouterr().err == 'as usual\n'


def test_the_time_that_is_left(monkeypatch):
    now = iter([100.0, 100.0, 130.0])
    monkeypatch.setattr('synthseg_bids.progress.time.monotonic', lambda: next(now))
    with Progress(4, 'image') as progress:
        progress.show(1, '')
        assert progress.time_left() == '; 01:30 left'


def test_log_lines_go_where_they_went_before():
    program = (
        'import logging, sys; from synthseg_bids.progress import Progress\n'
        'logging.basicConfig(format="%(message)s")\n'
        'try:\n'
        '    with Progress(2, "image") as progress:\n'
        '        progress.show(1, "one"); logging.warning("within"); raise KeyboardInterrupt\n'
        'except KeyboardInterrupt:\n'
        '    logging.warning("after")\n'
    )
    lines, _ = at_terminal(sys.executable, '-c', program)
    assert lines[0] == 'within'
    assert lines[1].endswith('one]')
    assert lines[2:] == ['after', '']
