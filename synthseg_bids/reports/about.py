"""Section of a report on methods, versions and settings, and on images without segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .tree import Image, label_map_sidecar, read_json, read_text, run_settings

#: Fields of a label map's sidecar that are shown, in this order.
_SHOWN = (
    'SoftwareVersion',
    'ModelName',
    'MethodVersion',
    'Device',
    'Seconds',
    'NetworkInputShape',
)
#: Largest number of failures whose crash files are shown.
_MOST_CRASHES = 50


def read_about(
    out_dir: Path, images: Sequence[Image], segmented: Sequence[Image] = (), run_uuid: str = ''
) -> dict[str, Any]:
    """Gather what ``about.html.j2`` shows.

    Parameters
    ----------
    out_dir : Path
    images : sequence of Image
        Those that may have failed.
    segmented : sequence of Image
        Those whose label map's origin is shown.
    run_uuid : str
        Run whose settings and crashes are shown, mended since or not (default: settings of the
        last one).

    Returns
    -------
    dict
        ``errors``, ``methods`` and ``provenance``, empty where there is nothing to show.
    """
    texts = [
        # The section has this heading already.
        read_text(out_dir, f'logs/{path.name}').removeprefix('# Methods\n')
        for path in sorted((out_dir / 'logs').glob('CITATION*.md'))
    ]
    return {
        'errors': _errors(out_dir, images, run_uuid),
        'methods': [text for text in texts if text],
        'provenance': _provenance(out_dir, segmented, run_uuid),
    }


def _errors(out_dir: Path, images: Sequence[Image], run_uuid: str) -> dict[str, Any]:
    """List the images that failed, those left out on purpose, and the crashes of a run."""
    failed = [image for image in images if image.state == 'failed']
    skipped = [image for image in images if image.state == 'skipped']
    if not (failed or skipped or run_uuid):
        return {}
    participants = {image.participant for image in images}
    crashes = [
        path.relative_to(out_dir).as_posix()
        for path in sorted((out_dir / 'logs' / run_uuid).glob('sub-*/*.txt'))
        if run_uuid and path.parent.name in participants
    ]
    return {
        'failed': [
            (image, read_text(out_dir, image.status['crash_file']) if i < _MOST_CRASHES else '')
            for i, image in enumerate(failed)
        ],
        'skipped': skipped,
        'run': run_uuid,
        'n_crashes': len(crashes),
        'crashes': [(file, read_text(out_dir, file)) for file in crashes[:_MOST_CRASHES]],
    }


def _provenance(out_dir: Path, images: Sequence[Image], run_uuid: str) -> dict[str, Any]:
    """Read versions, models and checksums, and the settings of a run."""
    which = 'Run' if run_uuid else 'Last run'
    run, settings = run_settings(out_dir, run_uuid)
    facts = {**_software(read_json(out_dir / 'dataset_description.json')), which: run}
    made = []
    for image in images:
        sidecar = label_map_sidecar(out_dir, image)
        checksums = [str(sidecar.get(name) or '') for name in ('ModelSHA256', 'InputSHA256')]
        made.append((image, [_text(sidecar.get(name)) for name in _SHOWN], checksums))
    if not (made or any(facts.values())):
        return {}
    return {'which': which, 'run': run, 'settings': settings, 'facts': facts, 'images': made}


def _software(description: dict[str, Any]) -> dict[str, str]:
    tools = description.get('GeneratedBy')
    first = tools[0] if isinstance(tools, list) and tools and isinstance(tools[0], dict) else {}
    container = first.get('Container')
    facts = {
        'Dataset': str(description.get('Name', '')),
        'Software': f'{first.get("Name", "")} {first.get("Version", "")}'.strip(),
    }
    if isinstance(container, dict):
        facts['Container'] = ' '.join(str(value) for value in container.values())
    return facts


def _text(value: object) -> str:
    return ' by '.join(map(str, value)) if isinstance(value, list) else str(value or '')
