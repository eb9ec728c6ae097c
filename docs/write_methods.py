"""Write methods.rst: what each method gives and needs, as far as the code knows it, from there.

Usage: python docs/write_methods.py [PAGE]
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from tables import list_table

from synthseg_bids.app.method import OF_OURS
from synthseg_bids.external.methods import METHODS, T2_WEIGHTED

INTRODUCTION = """\
Methods
=======

.. Written by docs/write_methods.py; do not edit.

``synthseg-bids`` segments with our network. To compare on your own scans, two programs of others
can take its place, SAMSEG (Puonti et al., NeuroImage 143:235, 2016) and the SynthSeg of FreeSurfer
(Billot et al., Medical Image Analysis 86:102789, 2023)::

    synthseg-bids /data /out participant                    # our network
    synthseg-bids /data /out participant --method samseg    # into the same folder, or another one

Names tell the methods apart (``seg-``), and so do the tables over all images (column ``method``)
and the reports. Each method resumes by itself: its version and its options count as the model does
for ours. Agreement between images, outliers and reliability are worked out within a method.

What each gives and needs
-------------------------
"""
AFTER_TABLE = """
What is the same whatever segments: which images are chosen and how they are named, what is refused
as unreadable, quality control, the comparison with references, tables, reports, exit codes, what
happens when a run is killed. A program of others is killed with the run that started it.

*Volumes*: ``volume_mm3`` counts voxels of the label map that is written, for all methods alike.
``soft_volume_mm3`` of SAMSEG is what it reports itself (``samseg.fs.stats``), added up over the
labels that become one of ours. *Quality*: the measures of confidence and of mirroring are n/a for
programs of others; all others are taken from image and label map.

*Labels* of others become ours as those of references do: choroid plexus joins its ventricle, the
vessels, the optic chiasm, the fifth ventricle, the skull and what lies outside it become
background. Hypointensities of white matter, which have no side, go to the nearer one.

{options}

Both get the scan as it was read and checked, in 32-bit floats with one affine, so that they cannot
disagree with us, or with themselves, about headers. One scan at a time: SAMSEG is not given
several contrasts of a head together, which it could make use of.

How to install them
-------------------

``make samseg`` makes an environment for SAMSEG and says how to name it to us. By hand::

    python3.11 -m venv samseg-env
    samseg-env/bin/pip install samseg==0.4a0
    export {samseg.variable}=$PWD/samseg-env/bin/run_samseg

There is no extra ``[samseg]`` of our own package: SAMSEG needs NumPy below 2, which would then
hold for all that shares its environment, and is against the versions that we are tested with
(``constraints.txt``). A program has its own environment, and costs us nothing but its path.

FreeSurfer has both programs; once its ``SetUpFreeSurfer.sh`` is sourced they are on the PATH. What
the environment variables name comes before what is on the PATH; a missing program ends the run
with exit code 2.

In a Nipype workflow
--------------------

Nipype has no interfaces of these programs; ours are ``RunSamseg`` and ``RunMriSynthSeg`` in
``synthseg_bids.interfaces``. The workflow of one image takes a program, too::

    from synthseg_bids.external.methods import METHODS, find_program
    from synthseg_bids.workflows import init_image_wf

    workflow = init_image_wf(program=find_program(METHODS['samseg']), suffix='T1w')

To compare
----------

``group_dice.tsv`` has a row for each image, method and reference. For means with confidence
intervals and box plots, evaluate one method after the other::

    synthseg evaluate $(find /out -name '*_seg-samseg_*_dseg.nii.gz') \\
        --reference fs=/data/fs --out dice/

``group_status.tsv`` says how long each segmentation took.

Tests
-----

The tests of these command lines run stand-ins of the programs (``tests/stand_ins``), since SAMSEG
takes minutes. ``python -m pytest -m samseg`` runs the real one on a real scan, where there are
both.
"""

OPTIONS = (
    'Neither program can do what {refused} ask for: there these end with exit code 2. ``--fast`` '
    'goes on to the SynthSeg of FreeSurfer. SAMSEG is told ``--pallidum-separate`` for {t2}, as '
    'its authors ask for.'
)

#: What cannot be read from the code.
FACTS = {
    'Way': [
        'network trained on synthetic images',
        'Bayesian: an atlas is deformed and Gaussians are fitted to each scan',
        'network trained on synthetic images',
    ],
    'Contrasts': ['any', 'any MR contrast', 'any'],
    'Comes with': ['this package', 'the Python package ``samseg``, or FreeSurfer', 'FreeSurfer'],
    'Structures': ['those of the network', 'the same, from its own', 'the same'],
    'Computes on': ['CPU or GPU', 'CPU', 'CPU'],
    'Grid of its own': ['that of the network', 'that of the image', '1 mm'],
    'Label map': ['on the grid of the image or 1 mm', *['on the grid of the image'] * 2],
    'Volumes': ['voxels; soft', 'voxels; soft, by SAMSEG', 'voxels'],
    'Posterior maps': ['yes', 'no', 'no'],
    'Confidence': ['yes', 'n/a', 'n/a'],
}


def main(path: Path) -> None:
    """Write the page."""
    methods = list(METHODS.values())
    rows = [
        ['``--method``', *(f'``{m.name}``' for m in methods)],
        ['In names', *(f'``seg-{m.seg}``' for m in methods)],
        ['Program', *(f'``{m.program}``' if m.program else '' for m in methods)],
        ['Its path in', *(f'``${m.variable}``' if m.variable else '' for m in methods)],
        ['Memory', *(f'{m.mem_gb:g} GB' if m.program else '``docs/speed.rst``' for m in methods)],
        *([name, *cells] for name, cells in FACTS.items()),
    ]
    options = OPTIONS.format(
        refused=', '.join(f'``{option.split()[0]}``' for option, _ in OF_OURS.values()),
        t2=', '.join(f'``{suffix}``' for suffix in T2_WEIGHTED),
    )
    text = AFTER_TABLE.format(options=textwrap.fill(options, 99), samseg=METHODS['samseg'])
    head = ['', *(method.title for method in methods)]
    path.write_text('\n'.join([INTRODUCTION, list_table(head, rows)]) + text, encoding='utf-8')


if __name__ == '__main__':
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name('methods.rst'))
