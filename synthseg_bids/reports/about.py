"""How the segmentations were made: methods, versions and settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .html import Html, el, join, markdown, table
from .page import section
from .tree import Image, label_map_sidecar, read_json, read_text, run_settings

#: Fields of a label map's sidecar that are shown, in this order, with their names there.
_SHOWN = (
    'SoftwareVersion',
    'ModelName',
    'MethodVersion',
    'Device',
    'Seconds',
    'NetworkInputShape',
)
_SHORT = 12


def methods_section(out_dir: Path) -> Html:
    """Show the text for a paper's methods."""
    # The section has this heading already.
    texts = [
        read_text(out_dir, f'logs/{path.name}').removeprefix('# Methods\n')
        for path in sorted((out_dir / 'logs').glob('CITATION*.md'))
    ]
    return section('methods', 'Methods', [markdown(text) for text in texts if text])


def provenance_section(out_dir: Path, images: Sequence[Image] = (), run_uuid: str = '') -> Html:
    """Show versions, models, checksums and the settings of a run, by default the last one."""
    description = read_json(out_dir / 'dataset_description.json')
    which = 'Run' if run_uuid else 'Last run'
    run, settings = run_settings(out_dir, run_uuid)
    facts = {**_software(description), which: run}
    shown = [
        [el('dt', name), el('dd', value)] for name, value in facts.items() if value
    ]  # fmt: skip
    return section(
        'provenance',
        'Versions and settings',
        el('dl', shown, class_='facts') if shown else None,
        _sidecars(out_dir, images),
        el('details', el('summary', f'Settings of the {which.lower()} (logs/{run}/config.toml)'),
           el('pre', settings, tabindex='0')) if settings else None,
    )  # fmt: skip


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


def _sidecars(out_dir: Path, images: Sequence[Image]) -> Html:
    """Tabulate how every label map was made."""
    rows = []
    for image in images:
        sidecar = label_map_sidecar(out_dir, image)
        rows.append([
            el('th', image.title, scope='row'),
            *(_text(sidecar.get(name)) for name in _SHOWN),
            *(_checksum(sidecar.get(name)) for name in ('ModelSHA256', 'InputSHA256')),
        ])  # fmt: skip
    head = ['Image', 'Version', 'Model', 'Method', 'Device', 'Time, s', 'Network grid',
            'Model SHA-256', 'Image SHA-256']  # fmt: skip
    return table(head, rows) if rows else join([])


def _text(value: object) -> str:
    return ' by '.join(map(str, value)) if isinstance(value, list) else str(value or '')


def _checksum(value: object) -> Html:
    text = str(value or '')
    return el('code', text[:_SHORT], title=text)
