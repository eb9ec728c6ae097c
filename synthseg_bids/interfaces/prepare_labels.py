"""Convert a label map of a brain to one of a head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    File,
    InputMultiPath,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from .base import VersionedInputSpec


class _InputSpec(VersionedInputSpec):
    in_file = File(exists=True, mandatory=True, desc='aseg or aparc+aseg')
    donors = InputMultiPath(
        File(exists=True), desc='label maps of heads to put around it (default: CSF only)'
    )
    number = traits.Int(0, usedefault=True, desc='number of the donor, modulo their number')
    table = File(exists=True, desc='table with columns name, age, dataset, licence, remarks')
    age_group = traits.Str('adult', usedefault=True, desc='age group of maps not in the table')


class _OutputSpec(TraitedSpec):
    out_labels = File(exists=True, desc='label map of a head, to train on')
    out_sidecar = File(exists=True, desc='its age group, source, and merged labels')
    out_figure = File(exists=True, desc='figure of it in three planes')


class PrepareLabels(SimpleInterface):
    """Convert FreeSurfer's label map of a brain to a label map of a head.

    Connect ``out_sidecar`` to ``sidecars`` of ``TrainSynthSeg``: the file must stay beside the
    label map, and Nipype deletes outputs that no other node needs.
    """

    input_spec = _InputSpec
    output_spec = _OutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.reports.figures import label_map_picture
        from synthseg_bids.synth.prepare_labels import prepare_map
        from synthseg_bids.synth.prepared_files import find_facts, read_facts, save_prepared

        inputs = self.inputs
        source = Path(inputs.in_file)
        donors = inputs.donors if isdefined(inputs.donors) else []
        table = read_facts(Path(inputs.table)) if isdefined(inputs.table) else {}
        prepared = prepare_map(source, [Path(path) for path in donors], inputs.number)
        path, sidecar = save_prepared(
            Path(runtime.cwd), source, prepared, find_facts(table, source), inputs.age_group
        )
        figure = sidecar.with_suffix('.png')
        label_map_picture(prepared.labels, figure)
        self._results['out_labels'] = str(path)
        self._results['out_sidecar'] = str(sidecar)
        self._results['out_figure'] = str(figure)
        return runtime
