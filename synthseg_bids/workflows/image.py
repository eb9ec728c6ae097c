"""Workflow for one image: segment, measure, assess, compare."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from synthseg_bids.bids.names import TISSUE_KINDS
from synthseg_bids.external.methods import METHODS, OURS, Program
from synthseg_bids.images.ct import ct_setting
from synthseg_bids.interfaces import (
    AssessQuality,
    CompareSegmentations,
    MeasureVolumes,
    PlotSegmentation,
    SegmentImage,
)

from .program import add_program
from .resources import Resources


def init_image_wf(
    *,
    model: str = 'default',
    model_sha256: str = '',
    flip: bool = True,
    autocrop: bool = True,
    ct: bool | None = None,
    lesions: str = 'label',
    program: Program | None = None,
    suffix: str = '',
    posteriors: str = 'none',
    output_grid: str = 'native',
    aseg_stats: bool = False,
    tissues: Collection[str] = (),
    parc: bool = False,
    parcels_sha256: str = '',
    compare: bool = False,
    priors_dir: str = '',
    resources: Resources | None = None,
    name: str = 'image_wf',
) -> Workflow:
    """Build a workflow that segments one image.

    Parameters
    ----------
    model : str
        Name or weights file.
    model_sha256 : str
        Checksum of the weights, so that cached results of another file with the same name are
        not used.
    flip : bool
        Average with the segmentation of the mirrored image.
    autocrop : bool
        Crop to the brain first, if the network was trained on crops.
    ct : bool, optional
        Whether the image is CT (default: by its suffix or, without, by its intensities).
    lesions : {'label', 'fold'}
        See :class:`~synthseg_bids.inference.options.SegmentOptions`.
    program : Program, optional
        External program to use instead of our network; the parameters above, `posteriors` and
        `output_grid` are for our network only.
    suffix : str
        BIDS suffix of the image (``T1w``, ``T2w``, ...), for the options of a program.
    posteriors : str
        Write posterior maps: ``none``, or on the grid ``native`` or ``1mm``.
    output_grid : str
        ``native``; ``1mm`` and ``both`` write a label map on a 1 mm grid as well.
    aseg_stats : bool
        Write tables like FreeSurfer's ``aseg.stats``.
    tissues : collection of str
        Masks and tissue maps to write: ``masks``, ``tissue_maps``, ``five_tissue``; see
        :class:`synthseg_bids.interfaces.SegmentImage`.
    parc : bool
        Write label maps with parcels of the cortex, and measure them.
    parcels_sha256 : str
        Checksum of the weights of the network that names them, as `model_sha256`.
    compare : bool
        Compare with references.
    priors_dir : str
        Folder in which to keep what the network alone predicts, for segmentations of several
        images together (empty: not kept).
    resources : Resources, optional
        By default one thread on the CPU.
    name : str

    Inputs
    ------
    in_file : str
        Image of any contrast and resolution.
    references : dict of str to str
        FreeSurfer-style label maps by name; used with `compare`.
    model, model_sha256 : str
        To be connected if another node makes the model; otherwise the parameters.

    Outputs
    -------
    out_labels : str
        Label map on the grid of the image.
    out_labels_1mm : str
        Label map on a 1 mm grid; by `output_grid`.
    out_parcels, out_parcels_1mm : str
        The same with parcels in the place of the cortex; with `parc`.
    out_posteriors, out_posteriors_1mm : str
        Posterior maps on the grid of the image, or on that of 1 mm; by `posteriors`.
    out_brain_mask, out_intracranial_mask, out_tissues, out_gm, out_wm, out_csf : str
    out_five_tissue : str
        Masks and tissue maps on the grid of the image; by `tissues`.
    out_volumes : str
        Table of volumes.
    out_stats : str
        The same with intensities, like FreeSurfer's ``aseg.stats``; with `aseg_stats`.
    out_parcel_stats : str
        That of the parcels; with both.
    out_quality : str
        Table of quality measures.
    verdict, reasons : str
        Overall verdict, ``pass``, ``review`` or ``fail``, and its reasons.
    quality_notes : list of str
        Verdict and reasons if it is not ``pass``, and other messages for the user.
    out_scan_figure, out_label_figure : str
        Slices of the image, and of its label map; undefined if they cannot be drawn.
    out_parcel_figure : str
        The same slices with parcels; with `parc`.
    figure_notes : list of str
        Reasons why they cannot be drawn.
    out_overlaps : str
        Table of overlaps with the references; with `compare`, undefined if none can be used.
    compared, refused : list of str
        Names of the references in that table, and why others are not in it; with `compare`.
    provenance : dict
        Provenance of the label map.

    Returns
    -------
    nipype.pipeline.engine.Workflow
    """
    resources = resources or Resources()
    if resources.mem_gb is None:
        method = program.method if program else METHODS[OURS]
        resources = replace(resources, mem_gb=method.mem_gb)
    workflow = Workflow(name=name)
    inputnode = Node(
        IdentityInterface(['in_file', 'references', 'model', 'model_sha256']), name='inputnode'
    )
    inputnode.inputs.trait_set(model=model, model_sha256=model_sha256)
    outputs = ['out_labels', 'out_labels_1mm', 'out_posteriors', 'out_posteriors_1mm']
    outputs += ['out_parcels', 'out_parcels_1mm', 'out_parcel_stats', 'out_parcel_figure']
    outputs += [f'out_{kind}' for kinds in TISSUE_KINDS.values() for kind in kinds]
    outputs += ['out_volumes', 'out_stats', 'out_quality', 'verdict', 'reasons', 'quality_notes']
    outputs += ['out_scan_figure', 'out_label_figure', 'figure_notes']
    outputs += ['out_overlaps', 'compared', 'refused', 'provenance']
    outputnode = Node(IdentityInterface(outputs), name='outputnode')

    workflow.add_nodes([inputnode])
    segment = (
        add_program(workflow, program, suffix, flip, resources)
        if program
        else _init_network(
            resources,
            flip=flip,
            autocrop=autocrop,
            ct=ct_setting(ct, suffix),
            lesions=lesions,
            posteriors=posteriors == 'native',
            labels_1mm=output_grid != 'native',
            posteriors_1mm=posteriors == '1mm',
            parcels=parc,
            parcels_sha256=parcels_sha256,
            **dict.fromkeys(tissues, True),
            **({'priors_dir': priors_dir} if priors_dir else {}),
        )
    )
    measure = Node(MeasureVolumes(), name='measure', mem_gb=1)
    assess = Node(AssessQuality(), name='assess', mem_gb=1)
    plot = Node(PlotSegmentation(), name='plot', mem_gb=1)
    workflow.connect([
        (inputnode, assess, [('in_file', 'in_file')]),
        (segment, assess, [('out_labels', 'in_labels')]),
        (assess, outputnode, [('out_table', 'out_quality'),
                              ('verdict', 'verdict'), ('reasons', 'reasons'),
                              ('notes', 'quality_notes')]),
        (inputnode, plot, [('in_file', 'in_file')]),
        (segment, plot, [('out_labels', 'in_labels')]),
        (segment, measure, [('out_labels', 'in_labels'),
                            ('soft_volumes_mm3', 'soft_volumes_mm3')]),
        (segment, outputnode, [('out_labels', 'out_labels'), ('provenance', 'provenance')]),
        (measure, outputnode, [('out_table', 'out_volumes')]),
        (plot, outputnode, [('out_scan', 'out_scan_figure'),
                            ('out_overlay', 'out_label_figure'), ('notes', 'figure_notes')]),
    ])  # fmt: skip
    if program is None:
        workflow.connect([
            (inputnode, segment, [('in_file', 'in_file'), ('model', 'model'),
                                  ('model_sha256', 'model_sha256')]),
            (segment, assess, [('network_report', 'network_report')]),
            (segment, plot, [('ct', 'ct')]),
        ])  # fmt: skip
    if aseg_stats:
        workflow.connect(inputnode, 'in_file', measure, 'in_file')
        workflow.connect(measure, 'out_stats', outputnode, 'out_stats')
    if parc:
        _connect_parcels(workflow, aseg_stats)
    for name in optional_maps(posteriors, output_grid, tissues, parc):
        workflow.connect(segment, f'out_{name}', outputnode, f'out_{name}')
    if compare:
        comparison = Node(CompareSegmentations(), name='compare', mem_gb=1)
        if parc:
            workflow.connect(segment, 'out_parcels', comparison, 'in_parcels')
        workflow.connect([
            (inputnode, comparison, [('references', 'references')]),
            (segment, comparison, [('out_labels', 'in_labels')]),
            (comparison, outputnode, [('out_table', 'out_overlaps'),
                                      ('compared', 'compared'), ('refused', 'refused')]),
        ])  # fmt: skip
    return workflow


def _connect_parcels(workflow: Workflow, aseg_stats: bool) -> None:
    """Have the parcels of the cortex measured, assessed and drawn."""
    names = ('segment', 'measure', 'assess', 'plot', 'outputnode')
    segment, measure, assess, plot, outputnode = (workflow.get_node(name) for name in names)
    for node in (measure, assess, plot):
        workflow.connect(segment, 'out_parcels', node, 'in_parcels')
    workflow.connect(plot, 'out_parcels', outputnode, 'out_parcel_figure')
    if aseg_stats:
        workflow.connect(measure, 'out_parcel_stats', outputnode, 'out_parcel_stats')


def _init_network(resources: Resources, ct: bool | None, **options: Any) -> Node:
    """Build the node of our network."""
    if ct is not None:
        options['ct'] = ct
    # A GPU node takes n_procs GPU slots, hence 1 even if it uses more CPU threads.
    segment = Node(
        SegmentImage(**options),
        name='segment',
        n_procs=1 if resources.use_gpu else resources.threads,
        mem_gb=resources.mem_gb,
    )
    segment.inputs.trait_set(
        use_gpu=resources.use_gpu,
        devices=list(resources.devices),
        slots_per_device=resources.slots_per_device,
        lock_dir=resources.lock_dir,
        num_threads=resources.threads,
        gpu_fallback=resources.gpu_fallback,
        low_memory=resources.low_memory,
        memory_limit=resources.memory_limit or 0,
    )
    return segment


def optional_maps(
    posteriors: str, output_grid: str, tissues: Collection[str] = (), parc: bool = False
) -> list[str]:
    """List the maps of a workflow other than the label map on the grid of the image.

    Examples
    --------
    >>> optional_maps('native', 'both')
    ['labels_1mm', 'posteriors']
    >>> optional_maps('none', 'native', ['masks'])
    ['brain_mask', 'intracranial_mask']
    """
    wanted = {
        'labels_1mm': output_grid != 'native',
        'parcels': parc,
        'parcels_1mm': parc and output_grid != 'native',
        'posteriors': posteriors == 'native',
        'posteriors_1mm': posteriors == '1mm',
    }
    maps = [name for which in tissues for name in TISSUE_KINDS[which]]
    return [*(name for name, yes in wanted.items() if yes), *maps]
