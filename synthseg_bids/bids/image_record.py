"""One image of a dataset: what it is, what is to be done with it, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .names import TISSUE_KINDS, bids_uri

Status = Literal['pending', 'current', 'done', 'skipped', 'failed']


@dataclass
class ImageRecord:
    """One image, from its discovery to its row in ``group_status.tsv``.

    :func:`.query.find_images` makes it, :func:`.plan.plan_outputs` adds the outputs and the
    references, the plan of the BIDS App sets its status, and
    :class:`synthseg_bids.workflows.runner.Ledger` adds what became of it.

    Attributes
    ----------
    path : Path
    relative : str
        Path relative to the dataset, with forward slashes.
    entities : dict of str to str
        In the order of the file name.
    suffix : str
        ``T1w``, ``FLAIR``, ...
    grid : (tuple of int, tuple of float), or None
        Sides in voxels and their spacing in mm, as its header has them; None if that makes no
        sense.
    status : str
        ``pending`` (to be segmented), ``current`` (its outputs are up to date), ``done``
        (segmented by this run), ``skipped`` (on purpose) or ``failed``.
    reason : str
        Why it has this status, or what was noted on the way; one line.
    surprising : bool
        Whether the user probably does not expect that it is skipped.
    stem : str
        Relative path of the outputs, up to their suffix.
    references : dict of str to Path
        Reference label maps by the name of their dataset.
    reference_uris : dict of str to str
        Their BIDS URIs.
    crash_file : str
        Details of a failure; relative to the output dataset.
    provenance : dict of str to object
        How it was segmented; see :class:`synthseg_bids.interfaces.SegmentImage`.
    """

    path: Path
    relative: str
    entities: dict[str, str] = field(default_factory=dict)
    suffix: str = ''
    grid: tuple[tuple[int, ...], tuple[float, ...]] | None = None
    status: Status = 'pending'
    reason: str = ''
    surprising: bool = False
    stem: str = ''
    references: dict[str, Path] = field(default_factory=dict)
    reference_uris: dict[str, str] = field(default_factory=dict)
    crash_file: str = ''
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the workflow; the letters that Nipype allows."""
        return self.path.name.partition('.')[0].replace('+', 'plus')

    @property
    def participant(self) -> str:
        """Label of the participant, without ``sub-``."""
        return self.entities['sub']

    @property
    def source(self) -> str:
        """BIDS URI of the image."""
        return bids_uri('raw', self.relative)

    def settle(
        self, status: Status, reason: str, crash_file: str = '', surprising: bool = False
    ) -> ImageRecord:
        """Set the status and its reason; return the record."""
        self.status, self.reason = status, reason
        self.crash_file, self.surprising = crash_file, surprising
        return self

    def kinds(
        self,
        output_grid: str = 'native',
        posteriors: str = 'none',
        aseg_stats: bool = False,
        tissues: Iterable[str] = (),
        parc: bool = False,
    ) -> list[str]:
        """List the kinds of outputs it should give.

        Parameters
        ----------
        output_grid : str
            Of the label maps: ``native``, ``1mm`` or ``both``.
        posteriors : str
            Grid of the posterior maps: ``none``, ``native`` or ``1mm``.
        aseg_stats : bool
            Whether tables like FreeSurfer's ``aseg.stats`` are among them.
        tissues : iterable of str
            Masks and tissue maps; keys of :data:`synthseg_bids.bids.names.TISSUE_KINDS`.
        parc : bool
            Whether there are label maps with parcels of the cortex.
        """
        wanted = {
            'dseg': output_grid != '1mm',
            'dseg1mm': output_grid != 'native',
            'morph': True,
            'aseg': aseg_stats,
            'qc': True,
            'probseg': posteriors == 'native',
            'probseg1mm': posteriors == '1mm',
            'parcels': parc and output_grid != '1mm',
            'parcels1mm': parc and output_grid != 'native',
            'aparc': parc and aseg_stats,
            'dice': self.references,
        }
        maps = [kind for which in tissues for kind in TISSUE_KINDS[which]]
        return [*(kind for kind, yes in wanted.items() if yes), *maps]
