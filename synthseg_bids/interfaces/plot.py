"""Draw a segmentation for the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nipype import logging
from nipype.interfaces.base import File, SimpleInterface, TraitedSpec, isdefined, traits

from .base import VersionedInputSpec
from .network import EachInputSpec, ct_of, labels_of_each

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
        inputs, out = self.inputs, Path(runtime.cwd)
        files = {'dseg': inputs.in_labels}
        if isdefined(inputs.in_parcels):
            files['parcels'] = inputs.in_parcels
        figures, self._results['notes'] = _try_to_draw(inputs.in_file, files, inputs.ct, out)
        names = {'scan': 'out_scan', 'dseg': 'out_overlay', 'parcels': 'out_parcels'}
        self._results |= {names[kind]: figure for kind, figure in figures.items()}
        return runtime


class _TogetherOutputSpec(TraitedSpec):
    figures = traits.List(
        traits.Dict, desc='for each label map, its pictures by kind: scan, dseg, parcels'
    )
    notes = traits.List(traits.Str, desc='why there are no pictures of some')


class PlotTogether(SimpleInterface):
    """Draw images that were segmented together, each with its own label map."""

    input_spec = EachInputSpec
    output_spec = _TogetherOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        self._results |= {'figures': [], 'notes': []}
        for number, files in labels_of_each(self.inputs):
            in_file, out = self.inputs.in_files[number], Path(runtime.cwd) / str(number)
            out.mkdir(exist_ok=True)
            ct = ct_of(self.inputs, number)
            figures, notes = _try_to_draw(in_file, files, ct, out)
            self._results['figures'].append(figures)
            self._results['notes'] += [f'{in_file}: {note}' for note in notes]
        return runtime


def _try_to_draw(
    in_file: str, files: Mapping[str, str], ct: bool | None, out: Path
) -> tuple[dict[str, str], list[str]]:
    """Draw a scan and its label maps; return the pictures by kind, or why there are none."""
    try:
        return _draw(in_file, files, ct, out), []
    # A failed figure must not fail the segmentation.
    except Exception as error:
        logger.warning('no figure of %s', in_file, exc_info=True)
        return {}, [f'no figure: {type(error).__name__}: {error}']


def _draw(in_file: str, files: Mapping[str, str], ct: bool | None, out: Path) -> dict[str, str]:
    from synthseg_bids.images.background import without_far_background
    from synthseg_bids.images.ct import CT_RANGE, is_ct
    from synthseg_bids.images.volume_io import read_label_map, read_volume
    from synthseg_bids.reports.mosaic import draw_mosaic, label_palette
    from synthseg_bids.reports.png import write_grey, write_indexed

    volume = read_volume(in_file)
    data, _ = without_far_background(volume.data)
    if is_ct(ct, volume.data):
        data = np.clip(data, *CT_RANGE)
    colors = list(label_palette().values())
    for kind, path in files.items():
        labels = read_label_map(path)
        scan, overlay = draw_mosaic(data, labels.data, labels.affine)
        write_indexed(out / f'{kind}.png', overlay, colors)
        if kind == 'dseg':
            write_grey(out / 'scan.png', scan)
    return {kind: str(out / f'{kind}.png') for kind in ('scan', *files)}
