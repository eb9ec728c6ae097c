"""Draw a segmentation for the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype import logging
from nipype.interfaces.base import File, SimpleInterface, TraitedSpec, isdefined, traits

from .base import VersionedInputSpec

logger = logging.getLogger('nipype.interface')


class _InputSpec(VersionedInputSpec):
    in_file = File(exists=True, mandatory=True, desc='image')
    in_labels = File(exists=True, mandatory=True, desc='its label map, on the same grid')
    in_parcels = File(exists=True, desc='label map with parcels of the cortex, on the same grid')
    ct = traits.Bool(False, usedefault=True, desc='draw the window of the brain in CT')


class _OutputSpec(TraitedSpec):
    out_scan = File(desc='slices of the image; undefined if they cannot be drawn')
    out_overlay = File(desc='labels of the same slices, transparent outside the brain')
    out_parcels = File(desc='parcels in the same slices; by in_parcels')
    notes = traits.List(traits.Str, desc='why there is no figure')


class PlotSegmentation(SimpleInterface):
    """Draw slices in three planes of an image and of its label maps, as pictures to overlay.

    Inputs and outputs are listed by ``PlotSegmentation.help()``.
    """

    input_spec = _InputSpec
    output_spec = _OutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from synthseg_bids.images.background import without_far_background
        from synthseg_bids.images.ct import CT_RANGE
        from synthseg_bids.images.volume_io import read_label_map, read_volume
        from synthseg_bids.reports.mosaic import draw_mosaic, label_palette
        from synthseg_bids.reports.png import write_grey, write_indexed

        out = Path(runtime.cwd)
        self._results['notes'] = []
        try:
            volume = read_volume(self.inputs.in_file)
            labels = read_label_map(self.inputs.in_labels)
            data, _ = without_far_background(volume.data)
            data = np.clip(data, *CT_RANGE) if self.inputs.ct else data
            scan, overlay = draw_mosaic(data, labels.data, labels.affine)
            write_grey(out / 'scan.png', scan)
            colors = list(label_palette().values())
            write_indexed(out / 'dseg.png', overlay, colors)
            if isdefined(self.inputs.in_parcels):
                parcels = read_label_map(self.inputs.in_parcels)
                _, overlay = draw_mosaic(data, parcels.data, parcels.affine)
                write_indexed(out / 'parcels.png', overlay, colors)
                self._results['out_parcels'] = str(out / 'parcels.png')
        # A failed figure must not fail the segmentation.
        except Exception as error:
            logger.warning('no figure of %s', self.inputs.in_file, exc_info=True)
            self._results['notes'] = [f'no figure: {type(error).__name__}: {error}']
        else:
            self._results['out_scan'] = str(out / 'scan.png')
            self._results['out_overlay'] = str(out / 'dseg.png')
        return runtime
