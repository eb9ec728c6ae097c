"""From images to tasks: what each image's outputs are called and what they are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from synthseg_bids.measure.tissues import OUTPUTS

from .names import anat_folder, bids_uri, derivative_stem
from .query import ImageFile, Skipped
from .references import find_reference


@dataclass(frozen=True)
class ImageTask:
    """One image to segment.

    Attributes
    ----------
    image : ImageFile
    stem : str
        Relative path of the outputs, up to their suffix.
    source : str
        BIDS URI of the image.
    references : dict of str to Path
        Reference label maps by the name of their dataset.
    reference_uris : dict of str to str
        Their BIDS URIs.
    """

    image: ImageFile
    stem: str
    source: str
    references: dict[str, Path] = field(default_factory=dict)
    reference_uris: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the workflow; the letters that Nipype allows."""
        return self.image.path.name.partition('.')[0].replace('+', 'plus')

    def kinds(
        self,
        output_grid: str = 'native',
        posteriors: str = 'none',
        aseg_stats: bool = False,
        tissues: Iterable[str] = (),
    ) -> list[str]:
        """List the kinds of outputs it should give.

        Parameters
        ----------
        output_grid : str
            Of the label maps: ``native``, ``1mm`` or ``both``.
        posteriors : str
            Grid of the posterior maps: ``none``, ``native`` or ``1mm``.
        aseg_stats : bool
            Whether a table like FreeSurfer's ``aseg.stats`` is among them.
        tissues : iterable of str
            Keys of :data:`synthseg_bids.measure.tissues.OUTPUTS`.
        """
        wanted = {
            'dseg': output_grid != '1mm',
            'dseg1mm': output_grid != 'native',
            'morph': True,
            'aseg': aseg_stats,
            'qc': True,
            'probseg': posteriors == 'native',
            'probseg1mm': posteriors == '1mm',
            'dice': self.references,
        }
        maps = [kind for which in tissues for kind in OUTPUTS[which]]
        return [*(kind for kind, yes in wanted.items() if yes), *maps]


def plan_tasks(
    images: Iterable[ImageFile], derivatives: Mapping[str, Path], seg: str = 'synthseg'
) -> tuple[list[ImageTask], list[Skipped]]:
    """Name the outputs of every image and find its references.

    Parameters
    ----------
    images : iterable of ImageFile
    derivatives : mapping of str to Path
        Datasets with reference segmentations, by name.
    seg : str
        Name of the segmentation.

    Returns
    -------
    tasks : list of ImageTask
    clashes : list of Skipped
        Images whose outputs would overwrite those of another one.
    """
    tasks: dict[str, ImageTask] = {}
    clashes = []
    for image in images:
        name = derivative_stem(image.entities, image.suffix, seg)
        stem = str(anat_folder(image.entities) / name)
        if stem in tasks:
            reason = f'its outputs would overwrite those of {tasks[stem].image.relative}'
            clashes.append(Skipped(image.relative, reason, failed=True))
            continue
        references = find_reference(image, derivatives)
        uris = {
            name: bids_uri(name, path.relative_to(derivatives[name]).as_posix())
            for name, path in references.items()
        }
        source = bids_uri('raw', image.relative)
        tasks[stem] = ImageTask(image, stem, source, references, uris)
    return list(tasks.values()), clashes
