"""Files that a dataset's ``.bidsignore`` names, in the syntax of ``.gitignore``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

_TOKEN = re.compile(r'/\*\*/|^\*\*/|/\*\*$|\*+|\?|\[!?[^\]]+\]|\\.|.', re.DOTALL)
_REGEX = {'/**/': '/(?:.*/)?', '**/': '(?:.*/)?', '/**': '/.*', '?': '[^/]'}


def read_bidsignore(bids_dir: Path) -> Callable[[str], bool]:
    """Return a function that tells whether a relative path is ignored.

    Parameters
    ----------
    bids_dir : Path
        Without a readable ``.bidsignore`` nothing is ignored.
    """
    try:
        lines = (bids_dir / '.bidsignore').read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    rules = [
        (not line.startswith('!'), _pattern(line.removeprefix('!')))
        for line in map(str.strip, lines)
        if line and not line.startswith('#')
    ]

    def ignored(relative: str) -> bool:
        # The last rule that matches decides.
        return next((yes for yes, rule in reversed(rules) if rule.fullmatch(relative)), False)

    return ignored


def _pattern(line: str) -> re.Pattern[str]:
    r"""Translate a line to a regular expression for the paths of files.

    Examples
    --------
    >>> bool(_pattern('*_angio.nii*').fullmatch('sub-1/anat/sub-1_angio.nii.gz'))
    True
    >>> bool(_pattern('/anat/').fullmatch('sub-1/anat/sub-1_T1w.nii'))
    False
    """
    folder = line.endswith('/')
    anchored = '/' in line.rstrip('/')
    parts = [_translate(token) for token in _TOKEN.findall(line.strip('/'))]
    start = '' if anchored else '(?:.*/)?'
    end = '/.*' if folder else '(?:/.*)?'
    return re.compile(start + ''.join(parts) + end)


def _translate(token: str) -> str:
    if token in _REGEX:
        return _REGEX[token]
    if token.startswith('*'):
        return '[^/]*'
    if token.startswith('['):
        return token.replace('[!', '[^', 1)
    return re.escape(token.removeprefix('\\') or token)
