"""Segment the pending images of a plan, in chunks of participants."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .config import RunConfig
from .method import ChosenMethod
from .plan import Plan, check_pending

if TYPE_CHECKING:
    from synthseg_bids.bids.checksums import Checksums
    from synthseg_bids.bids.image_record import ImageRecord
    from synthseg_bids.workflows.resources import Resources
    from synthseg_bids.workflows.runner import Ledger

logger = logging.getLogger(__name__)

#: Records of images, or of sessions.
AnyRecord = TypeVar('AnyRecord', bound='ImageRecord')

#: Number of images in one Nipype graph. The time to build a graph grows with the square of its
#: nodes, whereas new workers start within seconds.
CHUNK = 200


@dataclass(frozen=True)
class Setup:
    """Method, resources and folders of a run.

    Attributes
    ----------
    chosen : ChosenMethod
    resources : Resources
    plugin : tuple of str and dict
        Nipype plugin and its arguments.
    work_dir, log_dir : Path
    checksums : Checksums
    """

    chosen: ChosenMethod
    resources: Resources
    plugin: tuple[str, dict[str, Any]]
    work_dir: Path
    log_dir: Path
    checksums: Checksums


def workflow_name(config: RunConfig) -> str:
    """Name the folder of intermediate files; two datasets may share a working directory."""
    folders = f'{config.bids_dir.resolve()}\n{config.output_dir.resolve()}'
    return f'{config.method}_{hashlib.sha256(folders.encode()).hexdigest()[:8]}_wf'


def sessions_name(config: RunConfig) -> str:
    """Name the folder of intermediate files of sessions."""
    return f'sessions_{workflow_name(config)}'


def priors_dir(config: RunConfig, setup: Setup) -> Path:
    """Return the folder for what the network alone predicts for the images."""
    return setup.work_dir / workflow_name(config) / 'priors'


def clean_workdir(config: RunConfig, work_dir: Path) -> None:
    """Remove the intermediate files of this dataset, and nothing else."""
    for name in (workflow_name(config), sessions_name(config)):
        folder = work_dir / name
        if folder.is_dir():
            logger.info('%s: removed (--clean-workdir)', folder)
            shutil.rmtree(folder)


def segment_images(config: RunConfig, plan: Plan, ledger: Ledger, setup: Setup) -> None:
    """Segment the pending images; the status table is kept up to date on the way.

    Where Nipype itself fails, not a node, the chunks that follow are segmented all the same, and
    the first such error is raised in the end.

    Parameters
    ----------
    config : RunConfig
    plan : Plan
    ledger : Ledger
        Gathers what becomes of the images.
    setup : Setup
    """
    from synthseg_bids.bids.locks import hold_participants
    from synthseg_bids.bids.status import write_status

    out_dir = config.output_dir.resolve()
    failure: Exception | None = None
    for number, chunk in enumerate(split(plan.pending, CHUNK)):
        with hold_participants(out_dir, {image.participant for image in chunk}):
            images = _still_pending(config, chunk, setup)
            if images:
                graph = config.write_graph and number == 0
                error = _attempt(config, images, ledger, setup, graph)
                failure = failure or error
                _remove_leftovers(out_dir, images)
        for image in images:
            if checksum := image.provenance.get('InputSHA256'):
                setup.checksums.note(image.source, image.path, checksum)
        setup.checksums.save()
        finished = [image for image in plan.pending if image.status != 'pending']
        write_status(out_dir, finished, setup.chosen.method.seg)
        if config.stop_on_first_crash and any(image.status == 'failed' for image in finished):
            break
    if failure:
        raise failure


def split(images: Sequence[AnyRecord], size: int) -> Iterator[list[AnyRecord]]:
    """Split images into chunks of at least `size`, no participant in two of them.

    Parameters
    ----------
    images : sequence of ImageRecord
        Those of a participant follow each other.
    size : int
    """
    chunk: list[AnyRecord] = []
    for image in images:
        if len(chunk) >= size and image.participant != chunk[-1].participant:
            yield chunk
            chunk = []
        chunk.append(image)
    if chunk:
        yield chunk


def _still_pending(
    config: RunConfig, chunk: Sequence[ImageRecord], setup: Setup
) -> list[ImageRecord]:
    """Drop images that another run has segmented since the plan was made."""
    _remove_leftovers(config.output_dir.resolve(), chunk)
    for image in chunk:
        check_pending(config, image, setup.chosen, setup.checksums)
        if image.status == 'current':
            logger.info('%s: another run has segmented it', image.relative)
    return [image for image in chunk if image.status == 'pending']


def _remove_leftovers(out_dir: Path, images: Sequence[ImageRecord]) -> None:
    """Remove temporary files of killed processes, of this run or an earlier one."""
    from synthseg_bids.files import remove_leftovers

    folders = {(out_dir / image.stem).parent for image in images}
    folders |= {out_dir / f'sub-{image.participant}' / 'figures' for image in images}
    for folder in folders:
        remove_leftovers(folder)


def _attempt(
    config: RunConfig, images: Sequence[ImageRecord], ledger: Ledger, setup: Setup, graph: bool
) -> Exception | None:
    """Segment a chunk; return the error if its whole workflow failed."""
    from synthseg_bids.workflows.crashes import PluginError

    try:
        _execute(config, images, ledger, setup, graph)
    except PluginError:
        raise  # The settings are wrong, and so they are for all chunks.
    except Exception as error:
        ledger.abandon(images, error)
        return error
    return None


def _execute(
    config: RunConfig, images: Sequence[ImageRecord], ledger: Ledger, setup: Setup, graph: bool
) -> None:
    from synthseg_bids.workflows.runner import execute

    execute(
        images,
        ledger,
        config.output_dir.resolve(),
        base_dir=setup.work_dir,
        name=workflow_name(config),
        log_dir=setup.log_dir,
        resources=setup.resources,
        plugin=setup.plugin,
        stop_on_first_crash=config.stop_on_first_crash,
        graph=graph,
        monitor=config.resource_monitor,
        model=str(setup.chosen.model),
        model_sha256=setup.chosen.model_sha256,
        parcels_sha256=setup.chosen.parcels_sha256,
        program=setup.chosen.program,
        flip=not config.fast,
        autocrop=config.autocrop,
        ct=config.ct,
        lesions=config.lesions,
        **config.outputs,
        priors_dir=str(priors_dir(config, setup)) if config.keeps_priors else '',
        overwrite=config.overwrite,
    )
