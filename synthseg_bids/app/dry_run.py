"""What a dry run prints: what would become of every image, session and participant."""

from __future__ import annotations

from .config import RunConfig
from .longitudinal import list_visits
from .plan import Plan


def print_plan(config: RunConfig, plan: Plan) -> None:
    """Print a table of every image."""
    from synthseg_bids.bids.query import LITTER_REASON
    from synthseg_bids.bids.save import output_files

    rows = [('ACTION', 'IMAGE', 'REASON', 'OUTPUTS')]
    for image in plan.pending:
        files = output_files(image.stem, image.kinds(**config.outputs))
        names = [file.rpartition('/')[2] for file in files if not file.endswith('.json')]
        rows.append(('segment', image.relative, image.reason, ' '.join(names)))
    rows += [('none', image.relative, image.reason, '') for image in plan.current]
    skipped = [image for image in plan.skipped if config.verbose or image.reason != LITTER_REASON]
    for image in skipped:
        action = 'fail' if image.status == 'failed' else 'skip'
        rows.append((action, image.relative, image.reason, ''))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print('  '.join([*cells, row[-1]]).rstrip())
    for line in _together(config, plan):
        print(line)
    failed = sum(image.status == 'failed' for image in skipped)
    print(
        f'{len(plan.pending)} to segment, '
        f'{len(plan.current) + len(skipped) - failed} skipped, {failed} failed'
    )


def _together(config: RunConfig, plan: Plan) -> list[str]:
    """Tell which sessions and visits will be segmented together, if their images succeed."""
    from synthseg_bids.bids.sessions import list_sessions

    lines, hoped = [], ('pending', 'current')
    if config.combine == 'session':
        for session in list_sessions([*plan.current, *plan.pending], hoped):
            names = ' '.join(image.path.name for image in session.images)
            lines.append(f'together (--combine session)  {session.relative}  {names}')
    if config.longitudinal:
        for label, images in list_visits(plan, hoped).items():
            visits = ' '.join(sorted({f'ses-{image.entities["ses"]}' for image in images}))
            lines.append(f'together (--longitudinal)  sub-{label}  {visits}')
    return lines
