"""Train on real scans with their labels: the supervised baseline.

A labelled scan gets the same deformation, crop, bias field, normalisation, gamma and resolution as
a synthetic one, with the same random numbers, but keeps its intensities. It can replace a label
map in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..labels import generation_indices
from ..synth.deform import deform_image
from ..synth.generator import OnStep, choose_labels, deformed_labels, finish, label_tables
from ..synth.intensity import WHITE, bias_field
from ..synth.label_maps import LabelMap, cerebrum_centre, padded
from ..synth.parameters import Draw, GeneratorConfig, output_size, to_device
from ..synth.ventricles import grow_ventricles
from .real_scans import LoadedPair


@dataclass(frozen=True)
class LabelledScan(LabelMap):
    """A scan with its label map, as training data.

    Attributes
    ----------
    scan : (x, y, z) float16 tensor
        Intensities in [0, 1], on the grid of `indices`.
    """

    kind: ClassVar[str] = 'scans'

    scan: Tensor

    def to(self, device: torch.device | str) -> LabelledScan:
        """Move to a device."""
        return replace(self, indices=self.indices.to(device), scan=self.scan.to(device))

    def make(
        self, parameters: Draw, config: GeneratorConfig, on_step: OnStep | None = None
    ) -> tuple[Tensor, Tensor]:
        """Augment the scan with drawn parameters.

        Parameters
        ----------
        parameters : Draw
        config : GeneratorConfig
            The configuration that they were drawn with. Gaussians, blur, artefacts and removal of
            labels do not apply.
        on_step : callable, optional
            Called with the results of the steps ``labels`` and ``final``.

        Returns
        -------
        image : (x, y, z) float32 tensor
            In [0, 1].
        target : (x, y, z) uint8 tensor
            Network channel of each voxel.
        """
        parameters = replace(
            to_device(parameters, self.indices.device), skull_strip=False, no_csf=False
        )
        crop, size = output_size(config, _shape(self.indices))
        image = deform_image(
            self.scan.float(),
            parameters.deformation,
            config.deformation,
            parameters.start,
            crop,
            grow_ventricles(self.indices, parameters.growth, config.deformation.field_step),
        )
        rows = deformed_labels(self.indices, parameters, config).int()
        if config.downsampling > 1:
            image = functional.avg_pool3d(image[None, None], config.downsampling)[0, 0]
            chooser = torch.Generator(rows.device).manual_seed(parameters.noise_seed)
            rows = choose_labels(rows, config.downsampling, chooser)
        image *= bias_field(parameters.intensities.log_bias, size) * WHITE
        image = finish(image, parameters, config)
        if on_step:
            on_step('labels', rows)
            on_step('final', image)
        return image, label_tables(device=rows.device)[0][rows]


def _shape(volume: Tensor) -> tuple[int, int, int]:
    return volume.shape[0], volume.shape[1], volume.shape[2]


def labelled_scan(pair: LoadedPair, size: Sequence[int] | None = None) -> LabelledScan:
    """Prepare a scan and its reference for training.

    Parameters
    ----------
    pair : LoadedPair
    size : sequence of int, optional
        Pad with background to at least this size, so that crops of all scans have one size.

    Returns
    -------
    LabelledScan
        Half precision, since all scans stay in memory: 50 MB for 256^3 voxels.

    Raises
    ------
    LabelMapError
        If the reference has no cerebrum.
    """
    labels, affine = padded(pair.folded, pair.affine, size)
    image, _ = padded(pair.image, pair.affine, size)
    return LabelledScan(
        name=pair.name,
        indices=torch.from_numpy(generation_indices(labels, pair.name)),
        affine=affine,
        spacing_mm=float(np.sqrt((affine[:3, 0] ** 2).sum())),
        centre=cerebrum_centre(labels, pair.name),
        scan=torch.from_numpy(image).half(),
    )
