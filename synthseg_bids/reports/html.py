"""HTML that is safe by construction: whatever is not yet markup is escaped when it is put in."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

#: Elements without content.
_VOID = frozenset({'br', 'circle', 'hr', 'img', 'input', 'line', 'meta', 'path', 'rect'})


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def el(tag: str, *content: object, **attributes: object) -> Html:
    """Make an element.

    Parameters
    ----------
    tag : str
    *content : object
        :class:`Html` is put in as it is, everything else is escaped; None and empty lists vanish,
        lists are flattened.
    **attributes : object
        Underscores become hyphens, a trailing one (``class_``) vanishes. None and False: no such
        attribute; True: one without a value.

    Returns
    -------
    Html

    Examples
    --------
    >>> el('a', '<script>', href='x"y', class_='link')
    '<a href="x&quot;y" class="link">&lt;script&gt;</a>'
    """
    names = {name.rstrip('_').replace('_', '-'): value for name, value in attributes.items()}
    opened = ''.join(
        f' {name}' if value is True else f' {name}="{escape(str(value))}"'
        for name, value in names.items()
        if value is not None and value is not False
    )
    if tag in _VOID:
        return Html(f'<{tag}{opened}/>')
    return Html(f'<{tag}{opened}>{join(content)}</{tag}>')


def join(content: Iterable[object]) -> Html:
    """Put pieces one after another; see :func:`el`."""
    return Html(''.join(map(_piece, content)))


def _piece(item: object) -> str:
    if item is None:
        return ''
    if isinstance(item, Html):
        return item
    if isinstance(item, list | tuple):
        return join(item)
    return escape(str(item))


def table(
    head: Iterable[object],
    rows: Iterable[Html | Iterable[object]],
    box: str = 'scroll',
    **attributes: object,
) -> Html:
    """Make a table that scrolls sideways where the page is too narrow for it.

    Parameters
    ----------
    head : iterable of object
        Header cells: text, or ``th`` elements.
    rows : iterable of iterable of object
        Cells: text, or ``td`` and ``th`` elements; or whole ``tr`` elements.
    box : str
        Class of what scrolls.
    **attributes : object
        Of the ``table`` element.
    """
    body = [
        row if isinstance(row, Html) else el('tr', [_cell(cell, 'td') for cell in row])
        for row in rows
    ]
    titles = [_cell(cell, 'th', scope='col') for cell in head]
    whole = el('table', el('thead', el('tr', titles)), el('tbody', body), **attributes)
    return el('div', whole, class_=box, tabindex='0')


def column_heads(titles: Iterable[str], kind: str = 'num') -> list[Html]:
    """Make the header cells of columns of numbers."""
    return [el('th', title, class_=kind, scope='col') for title in titles]


def _cell(content: object, tag: str, **attributes: object) -> Html:
    if isinstance(content, Html) and content.startswith(('<td', '<th')):
        return content
    return el(tag, content, **attributes)


def embedded_json(name: str, content: Any) -> Html:
    """Embed data for scripts; nothing in it can end the element."""
    text = json.dumps(content, separators=(',', ':'), ensure_ascii=False, allow_nan=False)
    for character in '<>&\u2028\u2029':
        text = text.replace(character, f'\\u{ord(character):04x}')
    return Html(f'<script type="application/json" id="{escape(name)}">{text}</script>')


def data_uri(path: Path) -> str:
    """Return a PNG file as a URI that holds its content."""
    return f'data:image/png;base64,{b64encode(path.read_bytes()).decode()}'


_INLINE = re.compile(
    r'`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|(https?://[^\s<>()]+[^\s<>().,;])'
)


def markdown(text: str) -> Html:
    r"""Turn the Markdown of our own methods text into HTML.

    Headings, paragraphs, bullet lists, code, bold, italics and bare addresses; everything else
    stays as it is written.

    Examples
    --------
    >>> markdown('# Methods\n\nUsed *SynthSeg* <b>.')
    '<h3>Methods</h3><p>Used <em>SynthSeg</em> &lt;b&gt;.</p>'
    """
    return join(_block(block) for block in re.split(r'\n\s*\n', text.strip()) if block.strip())


def _block(block: str) -> Html:
    lines = [line.rstrip() for line in block.strip().splitlines()]
    if heading := re.fullmatch(r'(#{1,4})\s+(.*)', lines[0]):
        title = el(f'h{min(len(heading[1]) + 2, 6)}', _inline(heading[2]))
        return join([title, _block('\n'.join(lines[1:]))]) if lines[1:] else title
    items = re.split(r'\n[-*+]\s+', '\n' + '\n'.join(lines))
    if items[0] == '' and len(items) > 1:
        return el('ul', [el('li', _inline(item)) for item in items[1:]])
    return el('p', _inline(' '.join(lines)))


def _inline(text: str) -> Html:
    pieces: list[object] = []
    end = 0
    for match in _INLINE.finditer(text):
        pieces.append(text[end : match.start()])
        code, bold, italic, address = match.groups()
        if code:
            pieces.append(el('code', code))
        elif bold:
            pieces.append(el('strong', bold))
        elif italic:
            pieces.append(el('em', italic))
        else:
            pieces.append(el('a', address, href=address, rel='noreferrer'))
        end = match.end()
    return join([*pieces, text[end:]])
