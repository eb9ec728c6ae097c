"""Workflow for all images of a dataset, with a workflow for each subject."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from nipype.pipeline.engine import Node, Workflow

from synthseg_bids.bids.image_record import ImageRecord
from synthseg_bids.external.methods import Program
from synthseg_bids.interfaces import SaveDerivatives

from .image import init_image_wf, optional_maps
from .resources import Resources
from .settings import apply_settings


def init_synthseg_wf(
    images: Iterable[ImageRecord],
    out_dir: Path,
    *,
    model: str = 'default',
    model_sha256: str = '',
    flip: bool = True,
    autocrop: bool = True,
    ct: bool | None = None,
    lesions: str = 'label',
    program: Program | None = None,
    posteriors: str = 'none',
    output_grid: str = 'native',
    aseg_stats: bool = False,
    tissues: Collection[str] = (),
    parc: bool = False,
    parcels_sha256: str = '',
    priors_dir: str = '',
    overwrite: bool = False,
    resources: Resources | None = None,
    crash_dir: Path | None = None,
    name: str = 'synthseg_wf',
) -> Workflow:
    """Build a workflow that segments images and saves their derivatives.

    Parameters
    ----------
    images : iterable of ImageRecord
        Those to segment, which are independent of each other.
    out_dir : Path
        Root of the output dataset.
    model, model_sha256 : str
        Name or weights file, and its checksum; see :func:`.image.init_image_wf`.
    flip : bool
        Average with the segmentation of the mirrored image.
    autocrop : bool
        Crop to the brain first, if the network was trained on crops.
    ct : bool, optional
        Whether the images are CT; see :func:`.image.init_image_wf`.
    lesions : {'label', 'fold'}
        See :class:`~synthseg_bids.inference.options.SegmentOptions`.
    program : Program, optional
        External program to use instead of our network.
    posteriors : str
        Write posterior maps: ``none``, or on the grid ``native`` or ``1mm``.
    output_grid : str
        Grid of the label maps: ``native``, ``1mm`` or ``both``.
    aseg_stats : bool
        Write tables like FreeSurfer's ``aseg.stats`` for every image.
    tissues : collection of str
        Masks and tissue maps to write; see :func:`.image.init_image_wf`.
    parc : bool
        Write label maps with parcels of the cortex as well.
    parcels_sha256 : str
        See :func:`.image.init_image_wf`.
    priors_dir : str
        Folder for segmentations of several images together; see :func:`.image.init_image_wf`.
    overwrite : bool
        Do not use results in the working directory.
    resources : Resources, optional
        By default one thread on the CPU.
    crash_dir : Path, optional
        Folder of crash files, with a subfolder for each subject.
    name : str

    Inputs
    ------
    None; they are set from `images`.

    Outputs
    -------
    None; every image has a node ``save`` whose ``out_files`` are its derivatives.

    Returns
    -------
    nipype.pipeline.engine.Workflow
    """
    workflow = Workflow(name=name)
    by_subject: dict[str, list[ImageRecord]] = defaultdict(list)
    for image in images:
        by_subject[image.participant].append(image)
    options = {
        'model': model,
        'model_sha256': model_sha256,
        'flip': flip,
        'autocrop': autocrop,
        'ct': ct,
        'lesions': lesions,
        'program': program,
        'posteriors': posteriors,
        'output_grid': output_grid,
        'aseg_stats': aseg_stats,
        'tissues': tissues,
        'parc': parc,
        'parcels_sha256': parcels_sha256,
        'priors_dir': priors_dir,
        'resources': resources,
    }
    for subject, subject_images in by_subject.items():
        label = f'sub-{subject}'
        subject_wf = Workflow(name=label.replace('+', 'plus'))
        subject_wf.add_nodes(
            [_init_saving_wf(image, out_dir, options) for image in subject_images]
        )
        apply_settings(subject_wf, crash_dir and crash_dir / label, overwrite)
        workflow.add_nodes([subject_wf])
    return workflow


def _init_saving_wf(image: ImageRecord, out_dir: Path, options: dict[str, Any]) -> Workflow:
    """Build the workflow of one image of a dataset, with a node that saves its derivatives."""
    workflow = init_image_wf(
        compare=bool(image.references), suffix=image.suffix, name=image.name, **options
    )
    inputnode, outputnode = (workflow.get_node(name) for name in ('inputnode', 'outputnode'))
    inputnode.inputs.in_file = str(image.path.absolute())
    save = Node(
        SaveDerivatives(
            out_dir=str(out_dir.absolute()),
            stem=image.stem,
            source=image.source,
            reference_uris=image.reference_uris,
            output_grid=options['output_grid'],
        ),
        name='save',
    )
    connections = [
        ('out_labels', 'in_labels'),
        ('out_volumes', 'in_volumes'),
        ('out_quality', 'in_quality'),
        ('out_scan_figure', 'in_scan_figure'),
        ('out_label_figure', 'in_label_figure'),
        ('figure_notes', 'figure_notes'),
        ('quality_notes', 'quality_notes'),
        ('provenance', 'provenance'),
    ]
    connections += [
        (f'out_{name}', f'in_{name}')
        for name in optional_maps(
            options['posteriors'], options['output_grid'], options['tissues'], options['parc']
        )
    ]
    if options['aseg_stats']:
        connections.append(('out_stats', 'in_stats'))
    if options['parc']:
        connections.append(('out_parcel_figure', 'in_parcel_figure'))
        if options['aseg_stats']:
            connections.append(('out_parcel_stats', 'in_parcel_stats'))
    if image.references:
        references = {name: str(p.absolute()) for name, p in image.references.items()}
        inputnode.inputs.references = save.inputs.references = references
        connections += [
            ('out_overlaps', 'in_overlaps'),
            ('compared', 'compared'),
            ('refused', 'refused'),
        ]
    workflow.connect([(outputnode, save, connections)])
    return workflow
