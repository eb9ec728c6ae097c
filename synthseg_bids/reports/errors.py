"""What was not segmented, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .html import Html, el, join
from .page import badge, section
from .tree import Image, read_text

#: Of more failures than this the crash is named but not shown.
_MOST_CRASHES = 50


def errors_section(out_dir: Path, images: Sequence[Image]) -> Html:
    """List the images that failed, with the text of the crash, then those left out on purpose.

    Parameters
    ----------
    out_dir : Path
    images : sequence of Image
    """
    failed = [image for image in images if image.status.get('status') == 'failed']
    skipped = [image for image in images if image.status.get('status') == 'skipped']
    blocks: list[Any] = [
        _block(out_dir, image, 'fail', i < _MOST_CRASHES) for i, image in enumerate(failed)
    ]
    listed = [
        el('li', el('code', image.relative), ': ', image.status['reason']) for image in skipped
    ]
    if listed:
        title = el('summary', f'{len(listed)} left out on purpose')
        blocks.append(el('details', title, el('ul', listed), open=not failed))
    return section('errors', 'Not segmented', blocks)


def _block(out_dir: Path, image: Image, kind: str, show_crash: bool) -> Html:
    crash_file = image.status['crash_file']
    crash = read_text(out_dir, crash_file) if show_crash else ''
    said = f'What the program said ({crash_file})'
    return join([
        el('h3', image.participant, ' · ', image.title, ' ', badge(image.status['status'])),
        el('p', image.status['reason'], class_=f'note {kind}'),
        el('details', el('summary', said), el('pre', crash, tabindex='0')) if crash else None,
    ])  # fmt: skip
