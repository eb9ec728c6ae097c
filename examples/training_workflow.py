"""From label maps of brains to a segmented scan, in one workflow.

The label maps (``aseg`` or ``aparc+aseg`` of FreeSurfer) become label maps of heads, on synthetic
scans of which a network is trained and calibrated; it then segments a scan. ``FOLDER`` receives
the model with its card, its learning curve, a picture of synthetic scans, and the label map and
the volumes of the scan. The same command goes on where it was killed, training included.

Usage: python examples/training_workflow.py LABEL_MAPS SCAN FOLDER --fit-on A --check-on B
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nipype import config
from nipype.interfaces.io import DataSink
from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from synthseg_bids.workflows import Resources, init_image_wf, init_training_wf


def init_train_and_segment_wf(
    *,
    resources: Resources | None = None,
    name: str = 'train_and_segment_wf',
    **training: Any,
) -> Workflow:
    """Build a workflow that trains a network and segments a scan with it.

    Parameters
    ----------
    resources : Resources, optional
        For the segmentation; by default one thread on the CPU.
    name : str
    **training
        Parameters of :func:`synthseg_bids.workflows.init_training_wf`.

    Inputs
    ------
    in_file : str
        Scan to segment, of any contrast.
    label_maps, fit_maps, check_maps : list of str
        Label maps to train on, and others to calibrate and to check the network on.
    donors : list of str
        Label maps of heads to put around the brains; may be left out.

    Outputs
    -------
    out_model : str
        Weights, with the card beside them.
    out_curve_figure, out_samples : str
        Pictures of the learning curve and of synthetic scans.
    out_labels, out_volumes : str
        Label map of the scan on its own grid, and its volumes.

    Returns
    -------
    nipype.pipeline.engine.Workflow
    """
    maps = ['label_maps', 'fit_maps', 'check_maps', 'donors']
    trained = ['out_model', 'out_curve_figure', 'out_samples']
    segmented = ['out_labels', 'out_volumes']
    inputnode = Node(IdentityInterface(['in_file', *maps]), name='inputnode')
    outputnode = Node(IdentityInterface([*trained, *segmented]), name='outputnode')
    train = init_training_wf(**training)
    segment = init_image_wf(resources=resources)
    workflow = Workflow(name=name)
    workflow.connect([
        (inputnode, train, [(field, f'inputnode.{field}') for field in maps]),
        (inputnode, segment, [('in_file', 'inputnode.in_file')]),
        (train, segment, [('outputnode.out_model', 'inputnode.model'),
                          ('outputnode.model_sha256', 'inputnode.model_sha256')]),
        (train, outputnode, [(f'outputnode.{field}', field) for field in trained]),
        (segment, outputnode, [(f'outputnode.{field}', field) for field in segmented]),
    ])  # fmt: skip
    return workflow


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('label_maps', type=Path, help='folder of label maps')
    add('scan', type=Path)
    add('folder', type=Path)
    add('--fit-on', nargs='+', required=True, metavar='NAME', help='label maps to calibrate on')
    add('--check-on', nargs='+', required=True, metavar='NAME', help='and to check it on')
    add('--heads', type=Path, nargs='+', default=[], metavar='DIR', help='donors of heads')
    add('--steps', type=int, default=100_000)
    add('--epoch-steps', type=int, default=500, help='between checkpoints')
    add('--size', type=int, nargs=3, default=(160, 192, 160), help='of the crops, in voxels')
    add('--features', type=int, default=24)
    add('--levels', type=int, default=5)
    add('--samples', type=int, default=4, help='synthetic scans in the picture')
    add('--scans', type=int, default=2, help='for the calibration, per label map and preset')
    add('--use-gpu', action='store_true')
    add('--plugin', default='MultiProc', help='any plugin of Nipype')
    add('--nprocs', type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Train on a folder of label maps and segment one scan."""
    from synthseg_bids.synth.label_maps import find_label_maps, is_named
    from synthseg_bids.synth.prepare_labels import find_donors

    args = parse()
    # What is in a file decides whether it is computed anew, not when it was written.
    config.update_config({'execution': {'hash_method': 'content', 'create_report': False}})
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    segmentation = init_train_and_segment_wf(
        resources=Resources(devices=('cuda',) if args.use_gpu else ('cpu',)),
        size=args.size,
        network={'features': args.features, 'levels': args.levels},
        training={'steps': args.steps, 'epoch_steps': args.epoch_steps},
        n_samples=args.samples,
        n_scans=args.scans,
        use_gpu=args.use_gpu,
    )
    paths = find_label_maps(args.label_maps.resolve())
    held_out = [*args.fit_on, *args.check_on]
    inputs = segmentation.inputs.inputnode
    inputs.in_file = str(args.scan.resolve())
    inputs.label_maps = [str(path) for path in paths if not is_named(path, held_out)]
    inputs.fit_maps = [str(path) for path in paths if is_named(path, args.fit_on)]
    inputs.check_maps = [str(path) for path in paths if is_named(path, args.check_on)]
    if args.heads:
        inputs.donors = [str(path.resolve()) for path in find_donors(args.heads)]
    sink = Node(DataSink(base_directory=str(folder), parameterization=False), name='sink')
    workflow = Workflow(name='example', base_dir=str(folder / 'work'))
    fields = ['out_model', 'out_curve_figure', 'out_samples', 'out_labels', 'out_volumes']
    workflow.connect([(segmentation, sink, [(f'outputnode.{f}', f'@{f}') for f in fields])])
    plugin_args = {'n_procs': args.nprocs, **({'n_gpu_procs': 1} if args.use_gpu else {})}
    workflow.run(plugin=args.plugin, plugin_args=plugin_args)


if __name__ == '__main__':
    main()
