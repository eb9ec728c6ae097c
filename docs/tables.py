"""Tables of the pages that the scripts beside this one write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def list_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table."""
    lines = ['.. list-table::', '   :header-rows: 1', '']
    for cells in [head, *rows]:
        lines += [f'   {"*" if n == 0 else " "} - {cell}' for n, cell in enumerate(cells)]
    return '\n'.join([*lines, ''])
