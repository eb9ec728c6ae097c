"""Methods text with the numbers of the dataset at hand: ``logs/CITATION.md`` and ``.bib``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path, PurePosixPath

from synthseg_bids import __version__
from synthseg_bids.external.methods import OURS, Program
from synthseg_bids.labels import segmentation_labels

from ..files import write_text
from .names import anat_files, parse_name

_BIBLIOGRAPHY = """\
@inproceedings{synthseg2020,
  author = {Billot, Benjamin and Greve, Douglas N. and Van Leemput, Koen and Fischl, Bruce and
            Iglesias, Juan Eugenio and Dalca, Adrian V.},
  title = {A Learning Strategy for Contrast-agnostic {MRI} Segmentation},
  booktitle = {Medical Imaging with Deep Learning},
  series = {Proceedings of Machine Learning Research},
  volume = {121},
  pages = {75--93},
  year = {2020}
}
@article{synthseg2023,
  author = {Billot, Benjamin and Greve, Douglas N. and Puonti, Oula and Thielscher, Axel and
            Van Leemput, Koen and Fischl, Bruce and Dalca, Adrian V. and Iglesias, Juan Eugenio},
  title = {{SynthSeg}: Segmentation of brain {MRI} scans of any contrast and resolution without
           retraining},
  journal = {Medical Image Analysis},
  volume = {86},
  pages = {102789},
  year = {2023},
  doi = {10.1016/j.media.2023.102789}
}
@article{samseg2016,
  author = {Puonti, Oula and Iglesias, Juan Eugenio and Van Leemput, Koen},
  title = {Fast and sequence-adaptive whole-brain segmentation using parametric {Bayesian}
           modeling},
  journal = {NeuroImage},
  volume = {143},
  pages = {235--249},
  year = {2016},
  doi = {10.1016/j.neuroimage.2016.09.011}
}
@article{vanleemput1999,
  author = {Van Leemput, Koen and Maes, Frederik and Vandermeulen, Dirk and Suetens, Paul},
  title = {Automated model-based bias field correction of {MR} images of the brain},
  journal = {IEEE Transactions on Medical Imaging},
  volume = {18},
  number = {10},
  pages = {885--896},
  year = {1999},
  doi = {10.1109/42.811268}
}
@article{desikan2006,
  author = {Desikan, Rahul S. and S{\\'e}gonne, Florent and Fischl, Bruce and Quinn, Brian T. and
            Dickerson, Bradford C. and Blacker, Deborah and Buckner, Randy L. and Dale, Anders M.
            and Maguire, R. Paul and Hyman, Bradley T. and Albert, Marilyn S. and Killiany,
            Ronald J.},
  title = {An automated labeling system for subdividing the human cerebral cortex on {MRI} scans
           into gyral based regions of interest},
  journal = {NeuroImage},
  volume = {31},
  number = {3},
  pages = {968--980},
  year = {2006},
  doi = {10.1016/j.neuroimage.2006.01.021}
}
@article{maes1997,
  author = {Maes, Frederik and Collignon, Andr{\'e} and Vandermeulen, Dirk and Marchal, Guy and
            Suetens, Paul},
  title = {Multimodality image registration by maximization of mutual information},
  journal = {IEEE Transactions on Medical Imaging},
  volume = {16},
  number = {2},
  pages = {187--198},
  year = {1997},
  doi = {10.1109/42.563664}
}
@article{reuter2012,
  author = {Reuter, Martin and Schmansky, Nicholas J. and Rosas, H. Diana and Fischl, Bruce},
  title = {Within-subject template estimation for unbiased longitudinal image analysis},
  journal = {NeuroImage},
  volume = {61},
  number = {4},
  pages = {1402--1418},
  year = {2012},
  doi = {10.1016/j.neuroimage.2012.02.084}
}
@article{ashburner2013,
  author = {Ashburner, John and Ridgway, Gerard R.},
  title = {Symmetric diffeomorphic modeling of longitudinal structural {MRI}},
  journal = {Frontiers in Neuroscience},
  volume = {6},
  pages = {197},
  year = {2013},
  doi = {10.3389/fnins.2012.00197}
}
@article{bids2016,
  author = {Gorgolewski, Krzysztof J. and others},
  title = {The brain imaging data structure, a format for organizing and describing outputs of
           neuroimaging experiments},
  journal = {Scientific Data},
  volume = {3},
  pages = {160044},
  year = {2016},
  doi = {10.1038/sdata.2016.44}
}
@article{bidsapps2017,
  author = {Gorgolewski, Krzysztof J. and others},
  title = {{BIDS} apps: Improving ease of use, accessibility, and reproducibility of neuroimaging
           data analysis methods},
  journal = {PLOS Computational Biology},
  volume = {13},
  number = {3},
  pages = {e1005209},
  year = {2017},
  doi = {10.1371/journal.pcbi.1005209}
}
@article{nipype2011,
  author = {Gorgolewski, Krzysztof and others},
  title = {Nipype: a flexible, lightweight and extensible neuroimaging data processing framework
           in {Python}},
  journal = {Frontiers in Neuroinformatics},
  volume = {5},
  pages = {13},
  year = {2011},
  doi = {10.3389/fninf.2011.00013}
}
@inproceedings{pytorch2019,
  author = {Paszke, Adam and others},
  title = {{PyTorch}: An Imperative Style, High-Performance Deep Learning Library},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {32},
  year = {2019}
}
"""

_TEXT = """\
# Methods

This text may be copied, and changed, freely. The keys in brackets are those of `{name}.bib`.

{images} {were} segmented with *synthseg-bids* {version}, a BIDS App [@bids2016; @bidsapps2017]
{around}. Every image was segmented by itself{alone} {contrasts}

{how}{together}{references}

The workflow ran on Nipype {nipype} [@nipype2011] with nibabel {nibabel} and NumPy {numpy}.
"""

_AROUND_NETWORK = """\
around a PyTorch {torch} [@pytorch2019] implementation of SynthSeg [@synthseg2020; @synthseg2023],
a convolutional network that is trained on synthetic images alone and segments scans of any
contrast and resolution"""

_NETWORK = """\
Each image was reoriented to RAS and resampled linearly to {spacing}.{crop} Its intensities were
clipped at the 0.5th and 99.5th percentile and rescaled between 0 and 1. The posterior
probabilities of {n_labels} structures and background were predicted by the model `{model}`
(SHA-256 `{checksum}`){flip}. Per structure, the largest connected body was kept.{refined} The
posteriors were resampled linearly to {grid}, where each voxel received the label of the largest
posterior times a weight of the label, numbered as in FreeSurfer; the weights give each structure
nearly the volume that its posteriors sum to.{parcels} Volumes are the number of voxels of a label
times their volume; soft volumes are sums of posterior probabilities."""

_CROP = """ A first pass of the network found the brain, and the image was cropped around it."""

_REFINED = """ The posteriors were then refined by the
intensities of the image [@vanleemput1999; @samseg2016]: each structure had a Gaussian model of
its intensities, whose mean varied over the brain, seen through the blur of its voxels, and the
posteriors were its prior."""

_PARCELS = """ A second network, which sees
the posteriors and not the image, named the parcel of each voxel of the cortex, one of 34 on each
side of the Desikan-Killiany atlas [@desikan2006]."""

_ALONE = ': none were averaged or registered to each other.'
_FIRST = ' first.'

_REGISTERED = """ were registered rigidly to the space halfway between
them, by the posteriors of their structures and by the mutual information of their intensities
[@maes1997]"""

_SESSIONS = f"""

The images of each session were then segmented together as well. They{_REGISTERED}. The posteriors
of all of them, not refined, were averaged geometrically on a grid of 1 mm and refined by all
intensities, with a multivariate Gaussian model of each structure [@samseg2016]."""

_VISITS = f"""

All visits of each participant were then segmented together as well. Their images{_REGISTERED}. The
posteriors of each image were averaged over the visits [@reuter2012], following what had changed
between images of the same contrast by their intensities [@ashburner2013]; where no other visit had
the contrast of an image, its posteriors were those of the network alone.
Annual change of a structure is the slope of a straight line through its soft volumes, divided by
their mean."""

_GRIDS = {
    'native': 'the grid of the image',
    '1mm': 'a grid of 1 mm in RAS',
    'both': 'the grid of the image and to a grid of 1 mm in RAS',
}

_AROUND_PROGRAM = 'that ran {title} ({version}) [@{key}]'

_PROGRAM = """\
The labels of {title} were folded to {n_labels} structures and background, numbered as in
FreeSurfer: choroid plexus joined its ventricle, hypointensities the white matter of their side,
and what lies outside the brain the background. Volumes are the number of voxels of a label times
their volume; soft volumes, where there are any, are those that {title} reports.{options}"""

_SAMSEG_OPTIONS = (
    ' In T2-weighted and FLAIR images it modelled the pallidum apart from white matter.'
)

_KEYS = {'samseg': 'samseg2016', 'mri_synthseg': 'synthseg2023'}


def image_stems(out_dir: Path, seg: str = OURS) -> Iterator[str]:
    """Yield the name of the outputs of each image that a method segmented, up to their suffix."""
    for path in anat_files(out_dir, f'sub-*_seg-{seg}_desc-*_morph.tsv'):
        yield path.name.removesuffix('_morph.tsv')


def write_citation(
    out_dir: Path,
    stems: Iterable[str],
    *,
    model: str = '',
    checksum: str = '',
    lesions: bool = False,
    spacing_mm: float | None = None,
    crop_mm: tuple[float, float, float] | None = None,
    intensity_weight: float = 0.0,
    program: Program | None = None,
    flip: bool = True,
    autocrop: bool = True,
    output_grid: str = 'native',
    references: Collection[str] = (),
    parcels: bool = False,
    sessions: bool = False,
    visits: bool = False,
) -> Path:
    """Write the methods text and its bibliography.

    Parameters
    ----------
    out_dir : Path
        The output dataset.
    stems : iterable of str
        Names of the segmented images' outputs; see :func:`image_stems`.
    model, checksum : str
        Name of the network and SHA-256 of its weights.
    lesions : bool
        Whether lesions of the white matter have a label.
    spacing_mm : float or None
        Of the network's grid; None if unknown.
    crop_mm : tuple of float or None
        Field of view that the network was trained on; None if it sees whole images.
    intensity_weight : float
        How much the intensities of an image counted where posteriors were refined; 0: they were
        not.
    program : Program, optional
        What segmented the images instead of a network.
    flip : bool
        Whether the mirrored image was segmented, too.
    autocrop : bool
        Whether the brain was looked for first, where the network was trained on crops.
    output_grid : str
        Of the label maps: ``native``, ``1mm`` or ``both``.
    references : collection of str
        Names of the datasets that the segmentations were compared with.
    parcels : bool
        Whether parcels of the cortex were named.
    sessions, visits : bool
        Whether the images of each session, and all visits of each participant, were segmented
        together as well.

    Returns
    -------
    Path
        ``logs/CITATION.md``; of another method, with its name.
    """
    n_images, n_participants, n_sessions, contrasts = _count(stems)
    of_sessions = f' in {_many(n_sessions, "session")}' if n_sessions else ''
    if program:
        around, how = _about_program(program)
    else:
        around = _AROUND_NETWORK.format(torch=version('torch'))
        how = _NETWORK.format(
            spacing=f'{spacing_mm:g} mm' if spacing_mm else 'the grid of the network',
            crop=_CROP if autocrop and crop_mm else '',
            n_labels=_count_structures(lesions),
            model=model,
            checksum=checksum,
            flip=', averaged with those of the mirrored image' if flip else '',
            refined=_REFINED if intensity_weight else '',
            grid=_GRIDS[output_grid],
            parcels=_PARCELS if parcels else '',
        )
    name = f'CITATION_seg-{program.method.seg}' if program else 'CITATION'
    text = _TEXT.format(
        name=name,
        around=around,
        how=how,
        images=f'{_many(n_images, "image")} of {_many(n_participants, "participant")}'
        f'{of_sessions}',
        alone=_FIRST if sessions or visits else _ALONE,
        together=(_SESSIONS if sessions else '') + (_VISITS if visits else ''),
        were='was' if n_images == 1 else 'were',
        contrasts=f'There were {contrasts}.' if contrasts else '',
        references=f' Label maps were compared with those of {", ".join(references)} by Dice '
        'overlap on the grids of the latter.' if references else '',
        version=__version__,
        **{package: version(package) for package in ('nipype', 'nibabel', 'numpy')},
    )  # fmt: skip
    target = out_dir / 'logs' / f'{name}.md'
    write_text(target, text)
    write_text(target.with_suffix('.bib'), _bibliography(text))
    return target


def _bibliography(text: str) -> str:
    """Return the entries that a text cites."""
    entries = re.findall(r'^@.*?^\}\n', _BIBLIOGRAPHY, re.DOTALL | re.MULTILINE)
    return ''.join(entry for entry in entries if '@' + re.split('[{,]', entry)[1] in text)


def _about_program(program: Program) -> tuple[str, str]:
    """Describe the program of another method, and how its labels were converted."""
    title = program.method.title
    around = _AROUND_PROGRAM.format(
        title=title, version=program.version, key=_KEYS[program.method.name]
    )
    options = _SAMSEG_OPTIONS if program.method.name == 'samseg' else ''
    return around, _PROGRAM.format(title=title, n_labels=_count_structures(), options=options)


def _count_structures(lesions: bool = False) -> int:
    return sum(label.index != 0 for label in segmentation_labels(lesions))


def _count(stems: Iterable[str]) -> tuple[int, int, int, str]:
    """Count images, participants and sessions, and list the contrasts."""
    parsed = [parse_name(f'{PurePosixPath(stem).name}_dseg.nii.gz') for stem in stems]
    entities = [found[0] for found in parsed if found]
    participants = {e['sub'] for e in entities}
    sessions = {(e['sub'], e['ses']) for e in entities if 'ses' in e}
    contrasts = Counter(e['desc'] for e in entities)
    listed = ', '.join(f'{n} {contrast}' for contrast, n in sorted(contrasts.items()))
    return len(entities), len(participants), len(sessions), listed


def _many(n: int, what: str) -> str:
    return f'{n:,} {what}' if n == 1 else f'{n:,} {what}s'
