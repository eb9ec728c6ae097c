"""Workflow for the visits of participants, after their images were segmented one by one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nipype.pipeline.engine import Node, Workflow

from synthseg_bids.bids.image_record import ImageRecord
from synthseg_bids.bids.longitudinal import longitudinal_stem
from synthseg_bids.bids.save import single_sidecar
from synthseg_bids.errors import describe
from synthseg_bids.external.methods import LONGITUDINAL
from synthseg_bids.images.ct import ct_setting
from synthseg_bids.inference.options import STRAIN, TEMPLATE_WEIGHT, VOLUME_CHANGE
from synthseg_bids.interfaces import AssessTogether, PlotTogether, SaveVisits, SegmentVisits
from synthseg_bids.interfaces.network import CT_WORDS

from .crashes import Crash, PluginError
from .resources import Resources
from .runner import configure_nipype, run_workflow
from .sessions import PARCELS_GB, connect_parcels
from .settings import apply_settings

logger = logging.getLogger(__name__)

#: Memory of the posteriors of one image as bytes, as predicted and refined, in GB, beside those
#: that are worked on.
PRIOR_GB = 0.4
#: Name of a participant's workflow, before its label.
_PREFIX = 'visits_sub_'


def expected_fields(images: Sequence[ImageRecord]) -> dict[str, Any]:
    """Return the fields of the sidecars of a participant that depend on all of its images."""
    return {
        'TemplateWeight': TEMPLATE_WEIGHT,
        'Strain': STRAIN,
        'VolumeChange': VOLUME_CHANGE,
        'RefinedBeforeMean': True,
        'Visits': sorted(image.source for image in images),
    }


def init_longitudinal_wf(
    participants: Mapping[str, Sequence[ImageRecord]],
    out_dir: Path,
    *,
    model: str = 'default',
    model_sha256: str = '',
    flip: bool = True,
    autocrop: bool = True,
    ct: bool | None = None,
    lesions: str = 'label',
    parc: bool = False,
    parcels_sha256: str = '',
    priors_dir: Path | None = None,
    overwrite: bool = False,
    resources: Resources | None = None,
    crash_dir: Path | None = None,
    name: str = 'longitudinal_wf',
) -> Workflow:
    """Build a workflow that segments all visits of each participant together.

    Parameters
    ----------
    participants : mapping of str to sequence of ImageRecord
        The images of each participant, of two sessions at least, whose single segmentations are
        in the output dataset.
    out_dir : Path
        Root of the output dataset.
    model, model_sha256, flip, autocrop, ct, lesions, parc, parcels_sha256
        See :func:`.dataset.init_synthseg_wf`.
    overwrite, resources, crash_dir
        See :func:`.dataset.init_synthseg_wf`.
    priors_dir : Path, optional
        Folder with what the segmentations of single images have kept.
    name : str

    Inputs
    ------
    None; they are set from `participants`.

    Outputs
    -------
    None; every participant has a node ``save`` whose ``out_files`` are its outputs.

    Returns
    -------
    nipype.pipeline.engine.Workflow
    """
    workflow, resources = Workflow(name=name), resources or Resources()
    for label, images in participants.items():
        in_files = [str(image.path.absolute()) for image in images]
        cts = [CT_WORDS[ct_setting(ct, image.suffix)] for image in images]
        segment = Node(
            SegmentVisits(
                in_files=in_files,
                visits=[image.entities['ses'] for image in images],
                contrasts=[_contrast(image) for image in images],
                ct=cts,
                model=model,
                model_sha256=model_sha256,
                flip=flip,
                autocrop=autocrop,
                lesions=lesions,
                parcels=parc,
                parcels_sha256=parcels_sha256,
                num_threads=resources.threads,
            ),
            name='segment',
            n_procs=resources.threads,
            mem_gb=max(LONGITUDINAL.mem_gb + parc * PARCELS_GB, resources.mem_gb or 0)
            + PRIOR_GB * len(images),
        )
        if priors_dir is not None:
            segment.inputs.priors_dir = str(priors_dir)
        assess = Node(AssessTogether(in_files=in_files, ct=cts), name='assess', mem_gb=1)
        plot = Node(PlotTogether(in_files=in_files, ct=cts), name='plot', mem_gb=1)
        common = expected_fields(images)
        save = Node(
            SaveVisits(
                out_dir=str(out_dir.absolute()),
                stems=[longitudinal_stem(image) for image in images],
                sources=[image.source for image in images],
                provenance=[{**single_sidecar(out_dir, image.stem), **common} for image in images],
            ),
            name='save',
        )
        of_one = Workflow(name=f'{_PREFIX}{label}'.replace('+', 'plus'))
        of_one.connect([
            (segment, save, [('out_labels', 'in_labels'), ('out_volumes', 'in_volumes'),
                             ('out_transforms', 'in_transforms'), ('overlaps', 'overlaps'),
                             ('followed', 'followed')]),
            (segment, assess, [('out_labels', 'in_labels')]),
            (assess, save, [('out_tables', 'in_quality')]),
            (segment, plot, [('out_labels', 'in_labels')]),
            (plot, save, [('figures', 'in_figures')]),
        ])  # fmt: skip
        if parc:
            connect_parcels(of_one)
        apply_settings(of_one, crash_dir and crash_dir / f'sub-{label}', overwrite)
        workflow.add_nodes([of_one])
    return workflow


def _contrast(image: ImageRecord) -> str:
    """Name what images that are acquired alike at each visit have in common."""
    own = {'sub', 'ses', 'run'}
    return '_'.join([
        *(f'{key}-{value}' for key, value in image.entities.items() if key not in own),
        image.suffix,
    ])  # fmt: skip


def execute_longitudinal(
    participants: Mapping[str, Sequence[ImageRecord]],
    out_dir: Path,
    *,
    base_dir: Path,
    name: str,
    log_dir: Path,
    resources: Resources,
    plugin: tuple[str, dict[str, Any]] = ('MultiProc', {}),
    **options: Any,
) -> dict[str, str]:
    """Segment the visits of participants; see :func:`.runner.execute`.

    Returns
    -------
    dict of str to str
        Why some participants failed, by label.
    """
    configure_nipype(base_dir, log_dir, stop_on_first_crash=False)
    workflow = init_longitudinal_wf(
        participants, out_dir, resources=resources, crash_dir=log_dir, name=name, **options
    )
    workflow.base_dir = str(base_dir)
    labels = {f'{_PREFIX}{label}'.replace('+', 'plus'): label for label in participants}
    failed: dict[str, str] = {}

    def on_status(node: Any, status: str) -> None:
        if status == 'end' and node.name == 'save':
            logger.info('sub-%s: all visits together: done', _label(node.fullname))

    def on_crash(crash: Crash) -> None:
        failed[_label(crash.node)] = crash.reason

    def _label(node: str) -> str:
        return next(labels[part] for part in node.split('.') if part in labels)

    callbacks: dict[str, Callable[..., None]] = {
        'status_callback': on_status,
        'on_crash': on_crash,
    }
    try:
        run_workflow(workflow, log_dir, resources, plugin, callbacks)
    except PluginError:
        raise
    except Exception as error:
        failed |= {label: describe(error) for label in participants if label not in failed}
        logger.debug('longitudinal workflow', exc_info=error)
    return failed
