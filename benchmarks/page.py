"""Templates and tables of generated pages, also for docs/build.py."""

from __future__ import annotations

import platform
import textwrap
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(name: str, **content: object) -> str:
    """Fill a template of ``docs/templates``.

    Parameters
    ----------
    name : str
        Name of the page.
    **content : object
        What its template shows.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1] / 'docs' / 'templates'),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters['fill'] = fill
    return environment.get_template(f'{name}.rst.j2').render(content)


def fill(text: str, width: int, indent: str = '') -> str:
    """Break a paragraph into lines, the later ones indented."""
    text = ' '.join(text.split())
    return textwrap.fill(text, width, subsequent_indent=indent, break_on_hyphens=False) + '\n'


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
