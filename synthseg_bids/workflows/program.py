"""Segment one image with an external program."""

from __future__ import annotations

import shlex

from nipype.pipeline.engine import Node, Workflow

from synthseg_bids.external.methods import Program
from synthseg_bids.interfaces import CleanScan, RunMriSynthSeg, RunSamseg, TranslateLabels

from .resources import Resources

#: Interface of each method, and its input for the image.
_INTERFACES = {'samseg': (RunSamseg, 'in_files'), 'mri_synthseg': (RunMriSynthSeg, 'in_file')}


def add_program(
    workflow: Workflow, program: Program, suffix: str, flip: bool, resources: Resources
) -> Node:
    """Add the steps from the image of a workflow's ``inputnode`` to our labels.

    Parameters
    ----------
    workflow : nipype.pipeline.engine.Workflow
    program : Program
    suffix : str
        BIDS suffix of the image.
    flip : bool
        Average with the segmentation of the mirrored image, if the method can.
    resources : Resources

    Returns
    -------
    nipype.pipeline.engine.Node
        The node with labels, soft volumes and provenance.
    """
    inputnode = workflow.get_node('inputnode')
    interface, image = _INTERFACES[program.method.name]
    clean = Node(CleanScan(), name='clean', mem_gb=1)
    segment = Node(
        interface(command=shlex.quote(str(program.path)), program_version=program.version),
        name='segment',
        n_procs=resources.threads,
        mem_gb=resources.mem_gb,
    )
    segment.inputs.num_threads = resources.threads
    segment.inputs.trait_set(**dict.fromkeys(program.options(suffix, flip), True))
    translate = Node(
        TranslateLabels(method=program.method.title, identity=program.identity(suffix, flip)),
        name='translate',
        mem_gb=1,
    )
    workflow.connect([
        (inputnode, clean, [('in_file', 'in_file')]),
        (clean, segment, [('out_file', image)]),
        (inputnode, translate, [('in_file', 'in_file')]),
        (clean, translate, [('checksum', 'checksum')]),
        (segment, translate, [('out_labels', 'in_labels'), ('seconds', 'seconds')]),
    ])  # fmt: skip
    if 'out_stats' in segment.outputs.copyable_trait_names():
        workflow.connect(segment, 'out_stats', translate, 'in_stats')
    return translate
