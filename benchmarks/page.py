"""What the pages that benchmarks write have in common."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_name() -> str:
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def table(title: str, header: list[str], lines: list[list[str]]) -> str:
    """Write a table whose numbers show on any renderer, unlike those included from a file."""
    quoted = [', '.join(f'"{cell}"' for cell in line) for line in lines]
    head = ', '.join(f'"{cell}"' for cell in header)
    body = ''.join(f'   {line}\n' for line in quoted)
    return f'{f".. csv-table:: {title}".rstrip()}\n   :header: {head}\n\n{body}'
