"""Segmentation methods of others, to compare with: where their programs are, and what they need.

They run as programs of their own, since what they depend on does not go with what we depend on.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..files import sha256

#: Our own method, which is no program.
OURS = 'synthseg'

#: Suffixes of images in which the pallidum does not look like white matter.
T2_WEIGHTED = ('T2w', 'FLAIR', 'T2starw', 'inplaneT2')


class MissingProgramError(UsageError):
    """A method's program is not installed; the message is one line that says how to get it."""


@dataclass(frozen=True)
class Method:
    """A way to segment an image.

    Attributes
    ----------
    name : str
        As the user asks for it.
    seg : str
        Its ``seg`` entity in file names, and its name in tables.
    title : str
        For people.
    program : str
        Executable; empty for our own method.
    variable : str
        Environment variable that may hold its path.
    distribution : str
        Python package that it may come from.
    mem_gb : float
        Memory that one segmentation takes: of a whole head at 1 mm, by the shipped model.
    advice : str
        How to install it.
    """

    name: str
    seg: str
    title: str
    program: str = ''
    variable: str = ''
    distribution: str = ''
    mem_gb: float = 0.0
    advice: str = ''


METHODS = {
    method.name: method
    for method in (
        Method(name=OURS, seg=OURS, title='SynthSeg', mem_gb=3.5),
        Method(
            name='samseg',
            seg='samseg',
            title='SAMSEG',
            program='run_samseg',
            variable='SYNTHSEG_BIDS_SAMSEG',
            distribution='samseg',
            mem_gb=7.0,
            advice='make an environment for it ("make samseg", or "python3.11 -m venv DIR" and '
            '"DIR/bin/pip install samseg==0.4a0")',
        ),
        Method(
            name='mri_synthseg',
            seg='mrisynthseg',
            title='FreeSurfer SynthSeg',
            program='mri_synthseg',
            variable='SYNTHSEG_BIDS_MRI_SYNTHSEG',
            mem_gb=14.0,
            advice='install FreeSurfer 7.3.2 or later and source its SetUpFreeSurfer.sh',
        ),
    )
}

#: Our own method with several images together, of a session or of all visits; no methods to ask
#: for, since they need the segmentations of single images.
SESSION = Method(
    name='session', seg=f'{OURS}session', title='SynthSeg, the session together', mem_gb=4.0
)
LONGITUDINAL = Method(
    name='longitudinal', seg=f'{OURS}long', title='SynthSeg, all visits together', mem_gb=4.0
)


def title_of(seg: str) -> str:
    """Return the title of the method with a name in files and tables."""
    known = (*METHODS.values(), SESSION, LONGITUDINAL)
    return next((method.title for method in known if method.seg == seg), seg)


@dataclass(frozen=True)
class Program:
    """An executable of a method.

    Attributes
    ----------
    method : Method
    path : Path
    version : str
    """

    method: Method
    path: Path
    version: str

    def options(self, suffix: str, flip: bool = True) -> list[str]:
        """List the options, by their names in the interface, with which an image is segmented.

        Parameters
        ----------
        suffix : str
            Of the image.
        flip : bool
            Whether to average with the mirrored image, where the method can.
        """
        if self.method.name == 'samseg':
            return ['pallidum_separate'] if suffix in T2_WEIGHTED else []
        return [] if flip else ['fast']

    def identity(self, suffix: str, flip: bool = True) -> dict[str, object]:
        """Return the fields of a sidecar that say how the program segments an image."""
        return {'MethodVersion': self.version, 'MethodOptions': self.options(suffix, flip)}


def find_program(method: Method) -> Program:
    """Find the executable of a method, in its environment variable or on the PATH.

    Parameters
    ----------
    method : Method
        Not our own.

    Returns
    -------
    Program

    Raises
    ------
    MissingProgramError
        If it is not there, or cannot be run.
    """
    named = os.environ.get(method.variable)
    found = shutil.which(named or method.program)
    if found is None:
        where = f'${method.variable} ({named})' if named else 'the PATH'
        raise MissingProgramError(
            f'{method.program}: no such program in {where}; {method.advice}, then put it on the '
            f'PATH or its path into ${method.variable}'
        )
    path = Path(found).absolute()
    return Program(method, path, _version(path, method.distribution))


def _version(path: Path, distribution: str) -> str:
    """Tell the version of a program without running it, which takes long or prints none."""
    from importlib.metadata import distributions

    for root in dict.fromkeys((path.parents[1], path.resolve().parents[1])):
        folders = [str(folder) for folder in root.glob('lib/python*/*-packages')]
        for found in distributions(name=distribution, path=folders) if distribution else ():
            return found.version
        for name in ('VERSION.txt', 'build-stamp.txt'):
            if (root / name).is_file():
                return f'FreeSurfer {(root / name).read_text(encoding="utf-8").strip()}'
    return f'sha256:{sha256(path)[:12]}'
