"""Locks of participants."""

from __future__ import annotations

import errno

from synthseg_bids.bids import locks


def test_without_locks_it_goes_on_and_says_so_once(tmp_path, monkeypatch, caplog):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(locks.fcntl, 'lockf', refuse)
    for label in ('1', '2'):
        with locks.hold_participants(tmp_path, {label}):
            assert locks.held_by_others(tmp_path, {label}) == set()
    (warning,) = caplog.records
    expected = f'{tmp_path}/logs/.participants.lock: cannot be locked (No locks available)'
    assert warning.getMessage().startswith(expected)
