"""Workflow for the sessions of a dataset, behind that for its images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nipype.pipeline.engine import Node, Workflow

from synthseg_bids.bids.sessions import SessionRecord
from synthseg_bids.external.methods import SESSION
from synthseg_bids.images.ct import ct_setting
from synthseg_bids.interfaces import (
    AssessTogether,
    CompareSession,
    PlotTogether,
    SaveSession,
    SegmentSession,
)
from synthseg_bids.interfaces.network import CT_WORDS

from .resources import Resources
from .settings import apply_settings

#: Memory of the network that names parcels, in GB.
PARCELS_GB = 0.3


def init_sessions_wf(
    sessions: Iterable[SessionRecord],
    out_dir: Path,
    *,
    priors_dir: Path,
    model: str = 'default',
    model_sha256: str = '',
    flip: bool = True,
    autocrop: bool = True,
    ct: bool | None = None,
    lesions: str = 'label',
    parc: bool = False,
    parcels_sha256: str = '',
    overwrite: bool = False,
    resources: Resources | None = None,
    crash_dir: Path | None = None,
    name: str = 'sessions_wf',
) -> Workflow:
    """Build a workflow that segments the images of each session together.

    It comes after that of :func:`.dataset.init_synthseg_wf`, not into one graph with it: there, a
    session would fail with any of its images.

    Parameters
    ----------
    sessions : iterable of SessionRecord
    out_dir : Path
        Root of the output dataset.
    priors_dir : Path
        Folder with what the network has predicted for the images.
    model, model_sha256, flip, autocrop, ct, lesions, parc, parcels_sha256
        See :func:`.dataset.init_synthseg_wf`.
    overwrite, resources, crash_dir
        See :func:`.dataset.init_synthseg_wf`.
    name : str

    Inputs
    ------
    None; they are set from `sessions`.

    Outputs
    -------
    None; every session has a node ``save`` whose ``out_files`` are its derivatives.

    Returns
    -------
    nipype.pipeline.engine.Workflow
    """
    resources = resources or Resources()
    workflow = Workflow(name=name)
    by_subject: dict[str, Workflow] = {}
    for session in sessions:
        subject = f'sub-{session.participant}'
        if subject not in by_subject:
            by_subject[subject] = Workflow(name=subject.replace('+', 'plus'))
            workflow.add_nodes([by_subject[subject]])
        one = Workflow(name=session.name)
        in_files = [str(image.path.absolute()) for image in session.images]
        cts = [CT_WORDS[ct_setting(ct, image.suffix)] for image in session.images]
        segment = Node(
            SegmentSession(
                in_files=in_files,
                ct=cts,
                model=model,
                model_sha256=model_sha256,
                flip=flip,
                autocrop=autocrop,
                lesions=lesions,
                parcels=parc,
                parcels_sha256=parcels_sha256,
                priors_dir=str(priors_dir),
                num_threads=resources.threads,
            ),
            name='segment',
            n_procs=resources.threads,
            mem_gb=max(SESSION.mem_gb + parc * PARCELS_GB, resources.mem_gb or 0),
        )
        assess = Node(AssessTogether(in_files=in_files, ct=cts), name='assess', mem_gb=1)
        plot = Node(PlotTogether(in_files=in_files, ct=cts), name='plot', mem_gb=1)
        save = Node(SaveSession(out_dir=str(out_dir.absolute()), session=session), name='save')
        one.connect([
            (segment, save, [('used', 'used'), ('refused', 'refused'), ('overlaps', 'overlaps'),
                             ('residuals_mm', 'residuals_mm'), ('out_common', 'in_common'),
                             ('out_labels', 'in_labels'), ('out_volumes', 'in_volumes'),
                             ('out_transforms', 'in_transforms'), ('out_pairs', 'in_pairs')]),
            (segment, assess, [('out_labels', 'in_labels'), ('used', 'used')]),
            (assess, save, [('out_tables', 'in_quality')]),
            (segment, plot, [('out_labels', 'in_labels'), ('used', 'used')]),
            (plot, save, [('figures', 'in_figures'), ('notes', 'figure_notes')]),
        ])  # fmt: skip
        if parc:
            connect_parcels(one)
            one.connect(segment, 'out_common_parcels', save, 'in_common_parcels')
        if any(image.references for image in session.images):
            references = [
                {name: str(path.absolute()) for name, path in image.references.items()}
                for image in session.images
            ]
            compare = Node(CompareSession(references=references), name='compare')
            one.connect([
                (segment, compare, [('out_labels', 'in_labels'), ('used', 'used')]),
                (compare, save, [('out_tables', 'in_overlaps'), ('compared', 'compared'),
                                 ('refused', 'not_compared')]),
            ])  # fmt: skip
            if parc:
                one.connect(segment, 'out_parcels', compare, 'in_parcels')
        apply_settings(one, crash_dir and crash_dir / subject, overwrite)
        by_subject[subject].add_nodes([one])
    return workflow


def connect_parcels(workflow: Workflow) -> None:
    """Have the parcels of images that were segmented together assessed, drawn and saved."""
    names = ('segment', 'assess', 'plot', 'save')
    segment, assess, plot, save = (workflow.get_node(name) for name in names)
    for node in (assess, plot, save):
        workflow.connect(segment, 'out_parcels', node, 'in_parcels')
    workflow.connect(segment, 'parcels_sha256', save, 'parcels_sha256')
