"""The frame of both reports: one file that holds all it needs and asks nobody for anything."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from importlib.resources import files

from .html import Html, el, join

#: Without a network even if something were to slip in: only our own script, by its checksum.
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
    "base-uri 'none'; form-action 'none'"
)
_LOGO = (
    '<svg viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="8" '
    'fill="#0b5fa5"/><path d="M16 6.5c-5.6 0-9.5 4-9.5 9s3.6 10 9.5 10 9.5-5 9.5-10-3.9-9-9.5-9z'
    'm0 0v19" fill="none" stroke="#fff" stroke-width="1.6"/>'
    '<path d="M13.2 12.5c-2.4.3-3.4 2-2.7 4.3s2 2.4 2.7 1.2zm5.6 0c2.4.3 3.4 2 2.7 4.3s-2 2.4-2.7 '
    '1.2z" fill="#ffd166"/></svg>'
)
_KEYS = {
    'f': 'flicker: scan with and without labels',
    '1 2 3 4': 'contours, filled labels, scan only, side by side',
    'e': 'picture in full screen and back',
    'j k': 'next and previous section',
    '/': 'search the table',
    't': 'light or dark',
    '?': 'this list',
}


def build_page(
    title: str,
    navigation: Sequence[Html],
    content: Iterable[object],
    *,
    where: object = '',
    scripts: Sequence[str] = (),
) -> str:
    """Put a report together.

    Parameters
    ----------
    title : str
    navigation : sequence of Html
        Links to the sections.
    content : iterable of object
        Of the main part.
    where : object
        Shown at the top, beside the name of the program.
    scripts : sequence of str
        Further scripts, by the name of their file.

    Returns
    -------
    str
    """
    script = '\n'.join(_resource(name) for name in ('report.js', *scripts))
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    icon = b64encode(_LOGO.replace('<svg', '<svg xmlns="http://www.w3.org/2000/svg"', 1).encode())
    head = [
        el('meta', charset='utf-8'),
        el('meta', http_equiv='Content-Security-Policy', content=_POLICY.format(digest=digest)),
        el('meta', name='viewport', content='width=device-width, initial-scale=1'),
        el('title', title),
        Html(f'<link rel="icon" href="data:image/svg+xml;base64,{icon.decode()}"/>'),
        Html(f'<style>{_resource("report.css")}</style>'),
        # Rows that only a script can bring back.
        Html('<noscript><style>tr[hidden] { display: table-row !important; }</style></noscript>'),
    ]
    body = [
        el('a', 'Skip to content', class_='skip', href='#main'),
        _bar(where),
        el(
            'div',
            el('nav', navigation, class_='side', aria_label='Sections'),
            el('main', content, id='main'),
            class_='frame',
        ),
        _help(),
        Html(f'<script>{script}</script>'),
    ]
    page = el('html', el('head', head), el('body', body), lang='en')
    return f'<!DOCTYPE html>\n{page}\n'


def section(
    name: str, title: str, *content: object, badge: object = None, lead: object = None
) -> Html:
    """Make a section with its heading; nothing if it has no content."""
    inside = join(content)
    if not inside:
        return inside
    heading = el('h2', title, id=f'{name}-title')
    intro = el('p', lead, class_='quiet small') if lead else None
    return el(
        'section',
        el('header', heading, badge, intro),
        inside,
        id=name, class_='card', aria_labelledby=f'{name}-title', data_step=True,
    )  # fmt: skip


def badge(state: str, text: str | None = None) -> Html:
    """Show a status or verdict as a coloured word; nothing if there is none."""
    return el('span', text or state, class_=f'badge {state}') if state else Html('')


def tile(value: object, name: str, parts: dict[str, int] | None = None) -> Html:
    """Show one number in large type, with a bar of what it is made of."""
    counts = {state: n for state, n in (parts or {}).items() if n}
    bar = [el('i', class_=f'i-{state}', style=f'flex:{n}') for state, n in counts.items()]
    said = ' · '.join(f'{n} {state}' for state, n in counts.items())
    return el(
        'div',
        el('b', value),
        el('div', bar, class_='parts', aria_hidden='true') if bar else None,
        el('span', name, Html('<br/>') if said else None, said),
        class_='tile',
    )


def _resource(name: str) -> str:
    return files('synthseg_bids').joinpath(f'reports/{name}').read_text(encoding='utf-8')


def _bar(where: object) -> Html:
    return el(
        'header',
        el('span', Html(_LOGO), 'synthseg-bids', class_='brand'),
        el('span', where, class_='where'),
        el('span', class_='spring'),
        el('button', 'Keys', id='help-button', type='button'),
        el('button', 'Light/dark', id='theme', type='button'),
        class_='bar',
    )


def _help() -> Html:
    rows = [
        [el('dt', [[el('kbd', key), ' '] for key in keys.split()]), el('dd', what)]
        for keys, what in _KEYS.items()
    ]
    close = el('button', 'Close', type='button')
    title = el('h2', 'Keys', id='help-title')
    return el('dialog', title, el('dl', rows), close, id='help', aria_labelledby='help-title')
