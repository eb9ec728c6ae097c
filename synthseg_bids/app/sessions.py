"""Segment the images of each session together, once they have been segmented alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from .config import RunConfig
from .execute import CHUNK, Setup, priors_dir, sessions_name, split
from .plan import Plan

if TYPE_CHECKING:
    from synthseg_bids.bids.sessions import SessionRecord

logger = logging.getLogger(__name__)


def combine_sessions(config: RunConfig, plan: Plan, setup: Setup) -> list[SessionRecord]:
    """Segment the sessions whose outputs are not up to date.

    An image that has failed is left out of its session; a session fails alone.

    Parameters
    ----------
    config : RunConfig
    plan : Plan
        After its images have been segmented.
    setup : Setup

    Returns
    -------
    list of SessionRecord
        Those that were to be segmented, with what became of them.
    """
    from synthseg_bids.bids.locks import hold_participants
    from synthseg_bids.bids.metadata import write_label_lookup, write_parcel_lookup
    from synthseg_bids.bids.sessions import image_statuses, is_current, list_sessions
    from synthseg_bids.bids.status import write_status
    from synthseg_bids.external.methods import SESSION
    from synthseg_bids.workflows.runner import Ledger

    out_dir = config.output_dir.resolve()
    sessions = list_sessions([*plan.current, *plan.pending])
    parcels_sha256 = setup.chosen.parcels_sha256
    pending = [
        session
        for session in sessions
        if config.overwrite or not is_current(out_dir, session, config.verify, parcels_sha256)
    ]
    logger.info(
        '%d sessions to segment together; %d are up to date',
        len(pending), len(sessions) - len(pending),
    )  # fmt: skip
    if not pending:
        return []
    write_label_lookup(out_dir, SESSION)
    if config.parc:
        write_parcel_lookup(out_dir, SESSION)
    ledger = Ledger(pending, 'session')
    with ledger.progress:
        for chunk in split(pending, CHUNK):
            with hold_participants(out_dir, {session.participant for session in chunk}):
                _attempt(config, chunk, ledger, setup, out_dir)
    for session in pending:
        if session.status == 'pending':
            session.settle('failed', 'not run: stopped before its turn came, or before its end')
    write_status(out_dir, image_statuses(out_dir, pending), SESSION.seg)
    return pending


def _attempt(
    config: RunConfig, chunk: list[SessionRecord], ledger: object, setup: Setup, out_dir: Path
) -> None:
    """Segment some sessions; those fail whose workflow does."""
    from synthseg_bids.workflows.crashes import PluginError
    from synthseg_bids.workflows.runner import Ledger, execute
    from synthseg_bids.workflows.sessions import init_sessions_wf

    assert isinstance(ledger, Ledger)
    try:
        execute(
            chunk,
            ledger,
            out_dir,
            base_dir=setup.work_dir,
            name=sessions_name(config),
            log_dir=setup.log_dir,
            resources=setup.resources,
            plugin=setup.plugin,
            stop_on_first_crash=config.stop_on_first_crash,
            monitor=config.resource_monitor,
            build=init_sessions_wf,
            priors_dir=priors_dir(config, setup),
            model=str(setup.chosen.model),
            model_sha256=setup.chosen.model_sha256,
            flip=not config.fast,
            autocrop=config.autocrop,
            ct=config.ct,
            lesions=config.lesions,
            parc=config.parc,
            parcels_sha256=setup.chosen.parcels_sha256,
            overwrite=config.overwrite,
        )
    except PluginError:
        raise
    except Exception as error:
        ledger.abandon(chunk, error)
