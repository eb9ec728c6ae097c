"""Quality control of segmented images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nipype.interfaces.base import (
    File,
    OutputMultiPath,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from .base import VersionedInputSpec
from .network import EachInputSpec, ct_of, labels_of_each

if TYPE_CHECKING:
    from synthseg_bids.images.volume_io import Volume
    from synthseg_bids.measure.network_report import NetworkReport


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
        from synthseg_bids.bids.tables import write_qc_table
        from synthseg_bids.images.volume_io import read_volume
        from synthseg_bids.measure.network_report import NetworkReport

        inputs = self.inputs
        image = read_volume(inputs.in_file)
        report = NetworkReport(**inputs.network_report)
        parcels = inputs.in_parcels if isdefined(inputs.in_parcels) else None
        rows = _assess(inputs.in_file, image, inputs.in_labels, report, parcels)
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


class _TogetherOutputSpec(TraitedSpec):
    out_tables = OutputMultiPath(
        File(exists=True), desc='table of each label map; see AssessQuality'
    )


class AssessTogether(SimpleInterface):
    """Assess images that were segmented together, each with its own label map.

    Measures of the confidence of the network are left out: they, their limits and the expected
    Dice are about what it says of one image.
    """

    input_spec = EachInputSpec
    output_spec = _TogetherOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.bids.tables import write_qc_table
        from synthseg_bids.images.ct import is_ct
        from synthseg_bids.images.volume_io import read_volume
        from synthseg_bids.measure.network_report import NetworkReport

        inputs = self.inputs
        self._results['out_tables'] = []
        for number, files in labels_of_each(inputs):
            image = read_volume(inputs.in_files[number])
            report = NetworkReport(ct=is_ct(ct_of(inputs, number), image.data))
            out_table = Path(runtime.cwd) / f'qc_{number}.tsv'
            in_file, parcels = inputs.in_files[number], files.get('parcels')
            rows = _assess(in_file, image, files['dseg'], report, parcels)
            write_qc_table(out_table, rows)
            self._results['out_tables'].append(str(out_table))
        return runtime


def _assess(
    in_file: str,
    image: Volume,
    in_labels: str,
    report: NetworkReport,
    in_parcels: str | None = None,
) -> list[dict[str, Any]]:
    """Return the measures of an image and its label map; the last one is the verdict."""
    from synthseg_bids.bids.names import parse_name
    from synthseg_bids.images.header import header_of
    from synthseg_bids.images.volume_io import read_label_map
    from synthseg_bids.measure.qc import assess

    named = parse_name(Path(in_file).name)
    return assess(
        image.data,
        read_label_map(in_labels).data,
        image.affine,
        header_of(image.header, image.n_not_finite),
        report,
        named[1] if named else '',
        read_label_map(in_parcels).data if in_parcels else None,
    )
