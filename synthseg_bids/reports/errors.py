"""What was not segmented, and why."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from .html import Html, el, join
from .page import badge, section
from .tree import Image, read_text

#: Of more failures than this the crash is named but not shown.
_MOST_CRASHES = 50


def errors_section(out_dir: Path, images: Sequence[Image], run_uuid: str = '') -> Html:
    """List the images that failed, with the text of the crash, then those left out on purpose.

    Parameters
    ----------
    out_dir : Path
    images : sequence of Image
    run_uuid : str
        Run whose crashes are shown as well, mended since or not.
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
    if run_uuid:
        blocks.append(_crashes(out_dir, run_uuid, {image.participant for image in images}))
    return section('errors', 'Not segmented', blocks)


def _crashes(out_dir: Path, run_uuid: str, participants: Collection[str]) -> Html:
    """Show every crash of a run that is about some participants."""
    logs = out_dir / 'logs' / run_uuid
    files = [
        path.relative_to(out_dir).as_posix()
        for path in sorted(logs.glob('sub-*/*.txt'))
        if path.parent.name in participants
    ]
    shown = [
        el('details', el('summary', file), el('pre', read_text(out_dir, file), tabindex='0'))
        for file in files[:_MOST_CRASHES]
    ]
    title = f'{len(files)} crash{"" if len(files) == 1 else "es"} in the run {run_uuid}'
    return join([el('h3', title), shown])


def _block(out_dir: Path, image: Image, kind: str, show_crash: bool) -> Html:
    crash_file = image.status['crash_file']
    crash = read_text(out_dir, crash_file) if show_crash else ''
    said = f'What the program said ({crash_file})'
    return join([
        el('h3', image.participant, ' · ', image.title, ' ', badge(image.status['status'])),
        el('p', image.status['reason'], class_=f'note {kind}'),
        el('details', el('summary', said), el('pre', crash, tabindex='0')) if crash else None,
    ])  # fmt: skip
