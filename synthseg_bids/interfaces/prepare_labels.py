"""Make a label map of a head of one of a brain."""

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
        File(exists=True), desc='label maps of heads to put around it (default: fluid alone)'
    )
    number = traits.Int(0, usedefault=True, desc='which donor, counted around')
    table = File(exists=True, desc='table with columns name, age, dataset, licence, remarks')
    age_group = traits.Str('adult', usedefault=True, desc='if no table names the map')


class _OutputSpec(TraitedSpec):
    out_labels = File(exists=True, desc='label map of a head, to train on')
    out_sidecar = File(exists=True, desc='its age group, source, and labels not distinguished')
    out_figure = File(exists=True, desc='three planes of it')


class PrepareLabels(SimpleInterface):
    """Make a label map of a head of FreeSurfer's label map of a brain.

    Connect ``out_sidecar`` too, to ``sidecars`` of ``TrainSynthSeg``: it must stay beside the
    label map, and Nipype deletes what no other node takes.
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
