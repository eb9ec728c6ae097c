"""Quality control of a segmented image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, SimpleInterface, TraitedSpec, isdefined, traits

from .base import VersionedInputSpec


class _InputSpec(VersionedInputSpec):
    in_file = File(
        exists=True, mandatory=True, desc='image; the suffix of a BIDS name gives its contrast'
    )
    in_labels = File(exists=True, mandatory=True, desc='its label map, on the same grid')
    in_parcels = File(exists=True, desc='label map with parcels of the cortex, on the same grid')
    network_report = traits.Dict(usedefault=True, desc='fields of a NetworkReport')


class _OutputSpec(TraitedSpec):
    out_table = File(exists=True, desc='measures, a row each; the last one is the verdict')
    verdict = traits.Enum('pass', 'review', 'fail', desc='the worst flag of all measures')
    reasons = traits.Str(desc='reasons for the verdict, in plain language')
    notes = traits.List(traits.Str, desc='messages for the user')


class AssessQuality(SimpleInterface):
    """Assess an image and its segmentation: header, field of view, noise, confidence, volumes."""

    input_spec = _InputSpec
    output_spec = _OutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.bids.names import parse_name
        from synthseg_bids.bids.tables import write_qc_table
        from synthseg_bids.images.header import header_of
        from synthseg_bids.images.volume_io import read_label_map, read_volume
        from synthseg_bids.measure.network_report import NetworkReport
        from synthseg_bids.measure.qc import assess

        inputs = self.inputs
        image = read_volume(inputs.in_file)
        named = parse_name(Path(inputs.in_file).name)
        rows = assess(
            image.data,
            read_label_map(inputs.in_labels).data,
            image.affine,
            header_of(image.header, image.n_not_finite),
            NetworkReport(**inputs.network_report),
            named[1] if named else '',
            read_label_map(inputs.in_parcels).data if isdefined(inputs.in_parcels) else None,
        )
        out_table = Path(runtime.cwd) / 'qc.tsv'
        write_qc_table(out_table, rows)
        verdict, reasons = rows[-1]['value'], rows[-1]['reason']
        notes = [] if verdict == 'pass' else [f'{verdict}: {reasons}']
        if image.n_not_finite:
            notes.append(
                f'{image.n_not_finite} voxels are not finite, and were read as background'
            )
        self._results |= {
            'out_table': str(out_table),
            'verdict': verdict,
            'reasons': reasons,
            'notes': notes,
        }
        return runtime
