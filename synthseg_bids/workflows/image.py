"""One image: segment, measure, compare."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from synthseg_bids.interfaces import CompareSegmentations, MeasureVolumes, SegmentImage

from .resources import Resources


def init_image_wf(
    *,
    model: str = 'default',
    flip: bool = True,
    posteriors: bool = False,
    compare: bool = False,
    resources: Resources | None = None,
    name: str = 'image_wf',
) -> Workflow:
    """Build a workflow that segments one image.

    Parameters
    ----------
    model : str
        Name or weights file.
    flip : bool
        Average with the segmentation of the mirrored image.
    posteriors : bool
        Write posterior maps.
    compare : bool
        Compare with references.
    resources : Resources, optional
        By default one thread on the CPU.
    name : str

    Inputs
    ------
    in_file : str
        Image of any contrast and resolution.
    references : dict of str to str
        FreeSurfer-style label maps by name; used with `compare`.

    Outputs
    -------
    out_labels : str
        Label map on the grid of the image.
    out_posteriors : str
        Posterior maps on the grid of the image; with `posteriors`.
    out_volumes : str
        Table of volumes.
    out_overlaps : str
        Table of overlaps with the references; with `compare`, undefined if none can be used.
    compared, refused : list of str
        Names of the references in that table, and why the others are not; with `compare`.
    provenance : dict
        How the label map was made.

    Returns
    -------
    nipype.pipeline.engine.Workflow
    """
    resources = resources or Resources()
    workflow = Workflow(name=name)
    inputnode = Node(IdentityInterface(['in_file', 'references']), name='inputnode')
    outputs = ['out_labels', 'out_posteriors', 'out_volumes', 'out_overlaps']
    outputs += ['compared', 'refused', 'provenance']
    outputnode = Node(IdentityInterface(outputs), name='outputnode')

    # A GPU node takes n_procs GPU slots, hence 1 even where it uses more CPU threads.
    segment = Node(
        SegmentImage(model=model, flip=flip, posteriors=posteriors),
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
    )
    measure = Node(MeasureVolumes(), name='measure', mem_gb=1)
    workflow.connect([
        (inputnode, segment, [('in_file', 'in_file')]),
        (segment, measure, [('out_labels', 'in_labels'),
                            ('soft_volumes_mm3', 'soft_volumes_mm3')]),
        (segment, outputnode, [('out_labels', 'out_labels'), ('provenance', 'provenance')]),
        (measure, outputnode, [('out_table', 'out_volumes')]),
    ])  # fmt: skip
    if posteriors:
        workflow.connect(segment, 'out_posteriors', outputnode, 'out_posteriors')
    if compare:
        comparison = Node(CompareSegmentations(), name='compare', mem_gb=1)
        workflow.connect([
            (inputnode, comparison, [('references', 'references')]),
            (segment, comparison, [('out_labels', 'in_labels')]),
            (comparison, outputnode, [('out_table', 'out_overlaps'),
                                      ('compared', 'compared'), ('refused', 'refused')]),
        ])  # fmt: skip
    return workflow
