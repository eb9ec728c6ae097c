"""Our workflow as a part of a larger one: volumes from a T1w, intensities from a FLAIR scan.

Both scans of a head are segmented, each on its own grid, so that nothing has to be registered.
The labels of the FLAIR scan then go to an interface of our own, ``StructureIntensities``, which
writes the mean intensity of each structure beside its volume in the T1w scan. The same command
again computes nothing: everything comes from the cache in ``FOLDER/work``.

Usage: python examples/nipype_workflow.py T1W FLAIR FOLDER
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

from nipype import config
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
)
from nipype.interfaces.io import DataSink
from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from synthseg_bids.workflows import Resources, init_image_wf


class _InputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='image')
    in_labels = File(exists=True, mandatory=True, desc='its label map, on the same grid')
    in_volumes = File(exists=True, mandatory=True, desc='table of volumes to add to')


class _OutputSpec(TraitedSpec):
    out_table = File(exists=True, desc='volume and intensity of each structure')


class StructureIntensities(SimpleInterface):
    """Compute the mean and the standard deviation of an image in each structure."""

    input_spec = _InputSpec
    output_spec = _OutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import nibabel as nib
        import numpy as np

        image = nib.load(self.inputs.in_file).get_fdata()
        labels = np.asarray(nib.load(self.inputs.in_labels).dataobj)
        with open(self.inputs.in_volumes, newline='') as stream:
            rows = [row for row in csv.DictReader(stream, delimiter='\t') if row['index'] != 'n/a']
        out_table = Path(runtime.cwd) / 'structures.tsv'
        with out_table.open('w', newline='') as stream:
            writer = csv.writer(stream, delimiter='\t', lineterminator='\n')
            writer.writerow(['index', 'name', 'volume_mm3', 'mean', 'std'])
            for row in rows:
                inside = image[labels == int(row['index'])]
                found = (f'{inside.mean():.6g}', f'{inside.std():.6g}') if inside.size else ()
                writer.writerow(
                    [row['index'], row['name'], row['volume_mm3'], *(found or ('n/a', 'n/a'))]
                )
        self._results['out_table'] = str(out_table)
        return runtime


def init_structures_wf(
    *, model: str = 'default', resources: Resources | None = None, name: str = 'structures_wf'
) -> Workflow:
    """Build a workflow that describes the structures of a head in two contrasts.

    Parameters
    ----------
    model : str
        Name or weights file.
    resources : Resources, optional
        By default one thread on the CPU.
    name : str

    Inputs
    ------
    t1w, flair : str
        Scans of one head.

    Outputs
    -------
    out_table : str
        Volume in the T1w scan, and intensity in the FLAIR scan, of each structure.
    t1w_labels, flair_labels : str
        Label maps.

    Returns
    -------
    nipype.pipeline.engine.Workflow
    """
    workflow = Workflow(name=name)
    inputnode = Node(IdentityInterface(['t1w', 'flair']), name='inputnode')
    outputnode = Node(
        IdentityInterface(['out_table', 't1w_labels', 'flair_labels']), name='outputnode'
    )
    t1w, flair = (
        init_image_wf(model=model, resources=resources, name=f'{contrast}_wf')
        for contrast in ('t1w', 'flair')
    )
    intensities = Node(StructureIntensities(), name='intensities')
    workflow.connect([
        (inputnode, t1w, [('t1w', 'inputnode.in_file')]),
        (inputnode, flair, [('flair', 'inputnode.in_file')]),
        (inputnode, intensities, [('flair', 'in_file')]),
        (flair, intensities, [('outputnode.out_labels', 'in_labels')]),
        (t1w, intensities, [('outputnode.out_volumes', 'in_volumes')]),
        (t1w, outputnode, [('outputnode.out_labels', 't1w_labels')]),
        (flair, outputnode, [('outputnode.out_labels', 'flair_labels')]),
        (intensities, outputnode, [('out_table', 'out_table')]),
    ])  # fmt: skip
    return workflow


def main() -> None:
    """Run the workflow on two files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('t1w', type=Path)
    parser.add_argument('flair', type=Path)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--model', default='default')
    parser.add_argument('--plugin', default='MultiProc', help='any plugin of Nipype')
    parser.add_argument('--nprocs', type=int, default=2)
    args = parser.parse_args()

    execution = {
        # What is in a file decides whether it is computed anew, not when it was written.
        'hash_method': 'content',
        # Nipype looks every 2 s whether a node has ended; ours take less.
        'poll_sleep_duration': 0.1,
        'create_report': False,
    }
    config.update_config({'execution': execution})
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    workflow = Workflow(name='example', base_dir=str(folder / 'work'))
    structures = init_structures_wf(model=args.model)
    structures.inputs.inputnode.t1w = str(args.t1w.resolve())
    structures.inputs.inputnode.flair = str(args.flair.resolve())
    sink = Node(DataSink(base_directory=str(folder)), name='sink')
    workflow.connect(structures, 'outputnode.out_table', sink, '@table')
    workflow.run(plugin=args.plugin, plugin_args={'n_procs': args.nprocs})


if __name__ == '__main__':
    main()
