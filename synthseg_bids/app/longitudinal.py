"""Segment all visits of participants together, once their images were segmented one by one."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .config import RunConfig
from .execute import Setup, priors_dir, workflow_name
from .plan import Plan

if TYPE_CHECKING:
    from synthseg_bids.bids.image_record import ImageRecord

logger = logging.getLogger(__name__)


def segment_visits(config: RunConfig, plan: Plan, setup: Setup) -> tuple[set[str], bool]:
    """Segment all visits of every participant together, where that is not up to date.

    Parameters
    ----------
    config : RunConfig
    plan : Plan
        Its images have been segmented, or have failed.
    setup : Setup

    Returns
    -------
    changed : set of str
        Participants with new outputs.
    complete : bool
        Whether none has failed.
    """
    from synthseg_bids.bids.locks import hold_participants
    from synthseg_bids.bids.metadata import write_label_lookup, write_parcel_lookup
    from synthseg_bids.bids.status import write_status
    from synthseg_bids.external.methods import LONGITUDINAL
    from synthseg_bids.workflows.longitudinal import execute_longitudinal

    out_dir = config.output_dir.resolve()
    wanted = _outdated(config, list_visits(plan), setup.chosen.parcel_fields)
    if not wanted:
        return set(), True
    logger.info('visits of %d participants to segment together', len(wanted))
    write_label_lookup(out_dir, LONGITUDINAL)
    if config.parc:
        write_parcel_lookup(out_dir, LONGITUDINAL)
    with hold_participants(out_dir, wanted):
        failed = execute_longitudinal(
            wanted,
            out_dir,
            base_dir=setup.work_dir / workflow_name(config),
            name='visits',
            log_dir=setup.log_dir,
            resources=setup.resources,
            plugin=setup.plugin,
            model=str(setup.chosen.model),
            model_sha256=setup.chosen.model_sha256,
            flip=not config.fast,
            autocrop=config.autocrop,
            ct=config.ct,
            lesions=config.lesions,
            parc=config.parc,
            parcels_sha256=setup.chosen.parcels_sha256,
            priors_dir=priors_dir(config, setup),
            overwrite=config.overwrite,
        )
        changed = wanted.keys() - failed.keys()
        complete = _write_changes(config, {label: wanted[label] for label in changed})
    for label, reason in failed.items():
        logger.error('sub-%s: its visits were not segmented together: %s', label, reason)
    statuses = [
        replace(image, provenance={}).settle(
            'failed' if label in failed else 'done', failed.get(label, '')
        )
        for label, images in wanted.items()
        for image in images
    ]
    write_status(out_dir, statuses, LONGITUDINAL.seg)
    return set(changed), complete and not failed


def list_visits(
    plan: Plan, statuses: Container[str] = ('done', 'current')
) -> dict[str, list[ImageRecord]]:
    """Return the images of every participant with two visits or more.

    Parameters
    ----------
    plan : Plan
    statuses : container of str
        Statuses of the images that count (default: of those that have been segmented).
    """
    found: dict[str, list[ImageRecord]] = defaultdict(list)
    for image in (*plan.pending, *plan.current):
        if image.status in statuses and 'ses' in image.entities:
            found[image.participant].append(image)
    several = {}
    for label in sorted({image.participant for image in (*plan.pending, *plan.current)}):
        images = sorted(found[label], key=lambda image: image.relative)
        if len({image.entities['ses'] for image in images}) > 1:
            several[label] = images
        else:
            logger.info('sub-%s: fewer than two visits are segmented: no change', label)
    return several


def _outdated(
    config: RunConfig,
    participants: Mapping[str, Sequence[ImageRecord]],
    parcel_fields: Mapping[str, str],
) -> dict[str, Sequence[ImageRecord]]:
    from synthseg_bids.bids.longitudinal import change_file, is_current
    from synthseg_bids.workflows.longitudinal import expected_fields

    out_dir = config.output_dir.resolve()
    return {
        label: images
        for label, images in participants.items()
        if config.overwrite
        or not (out_dir / change_file(label)).is_file()
        or not is_current(
            out_dir, images, {**expected_fields(images), **parcel_fields}, config.verify
        )
    }


def _write_changes(config: RunConfig, participants: Mapping[str, Sequence[ImageRecord]]) -> bool:
    from synthseg_bids.bids.longitudinal import longitudinal_stem, remove_stale, write_change

    out_dir, complete = config.output_dir.resolve(), True
    for label, images in participants.items():
        try:
            remove_stale(out_dir, label, [longitudinal_stem(image) for image in images])
            write_change(out_dir, label, config.bids_dir)
        except (OSError, ValueError) as error:
            logger.error('sub-%s: annual change not written (%s)', label, error)
            complete = False
    return complete
