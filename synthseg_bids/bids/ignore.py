"""Files to ignore: those in ``.bidsignore``, and those left behind by systems and editors."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from pathspec import GitIgnoreSpec

from ..files import EncodingError, read_text
from .errors import QueryError

#: Names of files that macOS, Windows, Emacs, Vim and NFS leave behind.
LITTER = re.compile(r'\._.*|\.DS_Store|Thumbs\.db|desktop\.ini|.*~|#.*#|\..*\.sw[a-p]|\.nfs.*')


def is_litter(name: str) -> bool:
    """Return whether a file of this name was left behind by a file system or an editor.

    Examples
    --------
    >>> is_litter('._sub-01_T1w.nii.gz'), is_litter('sub-01_T1w.nii.gz')
    (True, False)
    """
    return LITTER.fullmatch(name) is not None


def read_bidsignore(bids_dir: Path) -> Callable[[str], bool]:
    """Return a function that tells whether a relative path is ignored.

    Parameters
    ----------
    bids_dir : Path
        Without a ``.bidsignore`` nothing is ignored.

    Raises
    ------
    QueryError
        If it cannot be read: without its rules, images would be segmented that must not be.
    """
    path = bids_dir / '.bidsignore'
    if not path.exists():
        return lambda relative: False
    try:
        lines = read_text(path).split('\n')
    except OSError as error:
        raise QueryError(
            f'{path}: cannot be read ({error.strerror}); mend or remove it'
        ) from error
    except EncodingError as error:
        raise QueryError(str(error)) from error
    return GitIgnoreSpec.from_lines(lines).match_file
