"""Workflow that trains and calibrates a network on label maps of brains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nipype.interfaces.utility import IdentityInterface, Merge
from nipype.pipeline.engine import MapNode, Node, Workflow

from synthseg_bids.interfaces import (
    CalibrateModel,
    PlotSamples,
    PrepareLabels,
    SynthesizeImage,
    TrainSynthSeg,
)

#: Nodes that prepare label maps, and their inputs.
_PARTS = {'prepare': 'label_maps', 'prepare_fit': 'fit_maps', 'prepare_check': 'check_maps'}
_OUTPUTS = ['out_model', 'model_sha256', 'out_curve', 'out_curve_figure', 'out_samples']
_OUTPUTS += ['calibration_error', 'out_label_maps', 'out_sidecars', 'out_label_figures']


def init_training_wf(
    *,
    preset: str = 'synthseg-bids',
    size: Sequence[int] | None = None,
    downsampling: int = 1,
    network: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    seed: int = 0,
    n_samples: int = 4,
    n_scans: int = 2,
    age_group: str = 'adult',
    use_gpu: bool = False,
    device: str = 'auto',
    mem_gb: float = 4,
    name: str = 'training_wf',
) -> Workflow:
    """Build a workflow that trains a network on label maps of brains.

    The label maps are converted to label maps of heads, a figure of a few synthetic scans is
    drawn, a network is trained on such scans, and its posteriors are calibrated on scans of
    held-out label maps. If killed, the workflow resumes from the last checkpoint.

    Parameters
    ----------
    preset : str
        Settings of the generator: ``midl2020``, ``synthseg2023`` or ``synthseg-bids``.
    size : sequence of int, optional
        Crop in voxels of 1 mm, x, y and z (default: that of the preset).
    downsampling : int
        Voxels per output voxel: 2 trains at 2 mm.
    network, training : mapping, optional
        Fields of :class:`~synthseg_bids.models.unet.NetworkConfig` and
        :class:`~synthseg_bids.training.config.TrainingConfig` to change.
    seed : int
        Seed of all random numbers.
    n_samples : int
        Number of synthetic scans in the figure of samples.
    n_scans : int
        Number of synthetic scans for the calibration, per label map and preset.
    age_group : str
        Age group of label maps that are not in the table: ``adult``, ``infant``, ``old``.
    use_gpu : bool
        Generate, train and calibrate on a GPU; each of these nodes takes a GPU slot.
    device : str
        With `use_gpu`: ``auto``, ``cuda`` or ``cuda:N``.
    mem_gb : float
        Memory of the training in GB, for Nipype's scheduler.
    name : str

    Inputs
    ------
    label_maps : list of str
        FreeSurfer's label maps (``aseg``, ``aparc+aseg``) of brains, or label maps of heads, for
        the training. File names must differ from those below.
    fit_maps, check_maps : list of str
        Held-out label maps to fit the temperature, and to measure the calibration error. The
        network is validated on both.
    donors : list of str
        Label maps of heads to put around the brains; without any, only CSF surrounds them.
    table : str
        Tab-separated table with columns name, age, dataset, licence and remarks of label maps;
        may be left out.

    Outputs
    -------
    out_model : str
        Weights of the calibrated network; the model card has the same name and ``.json``.
    model_sha256 : str
        Checksum of the weights.
    out_curve, out_curve_figure : str
        Learning curve, as a table and drawn.
    out_samples : str
        Figure of synthetic scans with their labels.
    calibration_error : float
        Expected calibration error on synthetic scans of `check_maps`.
    out_label_maps, out_sidecars, out_label_figures : list of str
        Prepared label maps for the training, a sidecar of each, and a figure of each.

    Returns
    -------
    nipype.pipeline.engine.Workflow
    """
    crop = {'size': tuple(size)} if size else {}
    where = {'use_gpu': use_gpu, 'device': device}
    generator = {'preset': preset, 'seed': seed, **crop, **where}
    workflow = Workflow(name=name)
    prepare, fit, check = _add_preparation(workflow, age_group)
    samples = _add_samples(workflow, prepare, SynthesizeImage(n_images=n_samples, **generator))
    train = Node(
        TrainSynthSeg(
            downsampling=downsampling,
            network=dict(network or {}),
            training=dict(training or {}),
            **generator,
        ),
        name='train',
        mem_gb=mem_gb,
    )
    calibrate = Node(CalibrateModel(n_scans=n_scans, **where), name='calibrate', mem_gb=mem_gb)
    held_out = Node(Merge(2), name='held_out')
    sidecars = Node(Merge(3), name='sidecars')
    outputnode = Node(IdentityInterface(_OUTPUTS), name='outputnode')
    workflow.connect([
        (prepare, sidecars, [('out_sidecar', 'in1')]),
        (fit, sidecars, [('out_sidecar', 'in2')]),
        (check, sidecars, [('out_sidecar', 'in3')]),
        (fit, held_out, [('out_labels', 'in1')]),
        (check, held_out, [('out_labels', 'in2')]),
        (prepare, train, [('out_labels', 'label_maps')]),
        (held_out, train, [('out', 'validation_maps')]),
        (sidecars, train, [('out', 'sidecars')]),
        (train, calibrate, [('out_model', 'in_model')]),
        (fit, calibrate, [('out_labels', 'fit_maps')]),
        (check, calibrate, [('out_labels', 'check_maps')]),
        (calibrate, outputnode, [('out_model', 'out_model'), ('out_sha256', 'model_sha256'),
                                 ('error', 'calibration_error')]),
        (train, outputnode, [('out_curve', 'out_curve'),
                             ('out_curve_figure', 'out_curve_figure')]),
        (samples, outputnode, [('out_figure', 'out_samples')]),
        (prepare, outputnode, [('out_labels', 'out_label_maps'), ('out_sidecar', 'out_sidecars'),
                               ('out_figure', 'out_label_figures')]),
    ])  # fmt: skip
    return workflow


def _add_preparation(workflow: Workflow, age_group: str) -> list[Node]:
    """Add the inputs and the nodes that prepare the label maps of each of :data:`_PARTS`."""
    inputnode = Node(IdentityInterface([*_PARTS.values(), 'donors', 'table']), name='inputnode')
    nodes = []
    for name, field in _PARTS.items():
        node = MapNode(
            PrepareLabels(age_group=age_group),
            iterfield=['in_file', 'number'],
            name=name,
            mem_gb=2,
        )
        workflow.connect([
            (inputnode, node, [(field, 'in_file'), ((field, _numbers), 'number'),
                               ('donors', 'donors'), ('table', 'table')]),
        ])  # fmt: skip
        nodes.append(node)
    return nodes


def _numbers(paths: list[str]) -> list[int]:
    """Return a different donor's number for each label map."""
    return list(range(len(paths)))


def _add_samples(workflow: Workflow, prepare: Node, interface: SynthesizeImage) -> Node:
    """Add the nodes that generate and draw synthetic scans of prepared label maps."""
    synthesize = Node(interface, name='synthesize', mem_gb=4)
    plot = Node(PlotSamples(), name='plot_samples', mem_gb=1)
    workflow.connect([
        (prepare, synthesize, [('out_labels', 'label_maps')]),
        (synthesize, plot, [('out_images', 'in_images'), ('out_labels', 'in_labels')]),
    ])  # fmt: skip
    return plot
