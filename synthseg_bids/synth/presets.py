"""Settings of the generative model: those of the papers of 2020 and 2023, and our own."""

from __future__ import annotations

from dataclasses import replace

from .artefacts import ArtefactConfig
from .deform import DeformationConfig
from .intensity import IntensityConfig
from .lesions import LesionConfig
from .parameters import GeneratorConfig
from .resolution import NoiseConfig, ResolutionConfig
from .texture import TextureConfig
from .ventricles import VentricleConfig

MIDL2020 = GeneratorConfig()
"""The MIDL 2020 paper, Table 1 (also the defaults of every field)."""

SYNTHSEG2023 = GeneratorConfig(
    deformation=DeformationConfig(
        rotation_deg=15,
        scaling=0.2,
        shear=0.012,
        translation=0,
        svf_std=(0, 4),
        svf_fraction=0.04,
        svf_unit=2,
        flip_probability=0.5,
    ),
    intensity=IntensityConfig(
        mean=(0, 250),
        std=(0, 30),
        share_classes=True,
        dark_background=(0.05, 0.25),
        bias_std=(0, 0.7),
        bias_fraction=0.025,
        bias_probability=0.95,
        gamma=0.5,
        gamma_normal=True,
        clip=(0, 300),
    ),
    blur=(0, 0),
    resolution=ResolutionConfig(),
    skull_strip_probability=0,
    no_csf_probability=0.3,
)
"""The 2023 reference implementation: wider ranges and random resolution."""

PRESETS: dict[str, GeneratorConfig] = {
    'midl2020': MIDL2020,
    'synthseg2023': SYNTHSEG2023,
    # Training of our own networks. Differences from 2023: contrasts of real sequences in half of
    # the scans; skull-stripped heads, dark backgrounds and symmetric intensities as often as in
    # real data sets; a third of the scans at full resolution, but with a scanner's blur (full
    # width at half maximum 0.7 to 2.1 voxels); milder noise, bias and gamma, but also noise of the
    # acquired voxels; resized ventricles; textures and lesions; ghosts and truncated fields of
    # view; crops that contain the brain; and the intensity scaling of inference.
    'synthseg-bids': replace(
        SYNTHSEG2023,
        size=(160, 192, 160),
        crop_jitter=16,
        ventricles=VentricleConfig(),
        deformation=replace(SYNTHSEG2023.deformation, rotation_deg=20, field_step=8),
        intensity=replace(
            SYNTHSEG2023.intensity,
            std=(0, 18),
            realistic_probability=0.5,
            dark_background=(0.25, 0.5),
            symmetric_probability=0.75,
            bias_std=(0, 0.5),
            gamma=0.4,
        ),
        blur=(0.3, 0.9),
        resolution=ResolutionConfig(full_probability=0.35),
        noise=NoiseConfig(),
        lesions=LesionConfig(),
        texture=TextureConfig(),
        artefacts=ArtefactConfig(),
        skull_strip_probability=0.3,
        rescale=True,
    ),
}

#: Presets of validation scans.
VALIDATION_PRESETS = ('midl2020', 'synthseg2023')


def evaluation_config(preset: str, own: GeneratorConfig) -> GeneratorConfig:
    """Return a preset with the field of view, spacing and scaling of a network's training.

    Parameters
    ----------
    preset : str
        Preset of contrasts, deformations and resolutions for the evaluation.
    own : GeneratorConfig
        Settings of the network's training.
    """
    return replace(
        PRESETS[preset],
        size=own.size,
        crop_jitter=own.crop_jitter,
        downsampling=own.downsampling,
        lesion_label=own.lesion_label,
        rescale=True,
    )
