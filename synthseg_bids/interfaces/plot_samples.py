"""Draw synthetic scans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiPath,
    SimpleInterface,
    TraitedSpec,
)


class _InputSpec(BaseInterfaceInputSpec):
    in_images = InputMultiPath(File(exists=True), mandatory=True, desc='synthetic scans')
    in_labels = InputMultiPath(File(exists=True), mandatory=True, desc='their segmentations')


class _OutputSpec(TraitedSpec):
    out_figure = File(exists=True, desc='three planes of each scan, without and with its labels')


class PlotSamples(SimpleInterface):
    """Draw synthetic scans and their segmentations, a row for each."""

    input_spec = _InputSpec
    output_spec = _OutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.images.volume_io import read_label_map, read_volume
        from synthseg_bids.reports.figures import sample_grid

        figure = Path(runtime.cwd) / 'samples.png'
        sample_grid(
            [read_volume(path).data for path in self.inputs.in_images],
            [read_label_map(path).data for path in self.inputs.in_labels],
            figure,
        )
        self._results['out_figure'] = str(figure)
        return runtime
