"""Write options.rst, the options of synthseg-bids, from its parser.

Usage: python docs/write_options.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tables import list_table

from synthseg_bids.app.parser import build_parser
from synthseg_bids.bids.references import NATIVE_SPACES

INTRODUCTION = """\
Options
=======

.. Written by docs/write_options.py from the parser; do not edit.

All options of ``synthseg-bids``, named as in fMRIPrep where it has them; after them what is found
as a reference, the options of other BIDS Apps that are missing here, and those of FreeSurfer's
``mri_synthseg``.
"""

REFERENCES = f"""\
References
----------

``-d NAME=PATH`` (and ``--reference NAME=PATH`` of ``synthseg evaluate``, ``estimate-priors`` and
``train``) takes the root of a dataset of BIDS derivatives. Of an image in
``sub-01/ses-1/anat`` the references are the label maps in the folder of that name there,

- whose names end in ``_dseg.nii.gz``, ``_dseg.nii`` or ``_dseg.mgz``, with the numbers of
  FreeSurfer or SAMSEG;
- of the same subject, session, acquisition and run. One for all sessions, such as fMRIPrep makes
  of several, is not found;
- on the subject's own head: without ``space``, or with one of
  {', '.join(f'``{space}``' for space in NATIVE_SPACES)}.

Of several the best one is taken: first those whose ``desc`` begins with the suffix of the image
(``desc-T1w``), then those whose ``desc`` names none; of these ``desc-aparcaseg`` comes before
``desc-aseg``, and both before others. Those two are the names that fMRIPrep gives, whose output
folder can be given as it is.

FreeSurfer's own ``SUBJECTS_DIR`` is not read. Give its segmentations such names::

    mkdir -p references/sub-01/anat
    mri_convert $SUBJECTS_DIR/sub-01/mri/aparc+aseg.mgz \\
        references/sub-01/anat/sub-01_desc-aparcaseg_dseg.nii.gz
"""

MISSING_TITLE = """\
What is not there
-----------------
"""

#: Options of other BIDS Apps, or of SynthSeg, and why there are none here.
MISSING = {
    '--run-id, --task-id': '``--bids-filter-file`` chooses by any entity.',
    '--output-layout': 'There is one layout, that of BIDS derivatives.',
    '--subject-anatomical-reference': 'Images are never averaged or registered to each other.',
    '--echo mean': 'Every output has one image as its source. To segment a mean of echoes, save '
    'it as an image of its own; ``--echo first`` takes the echo that has most signal.',
    '--random-seed': 'Segmentation draws no random numbers. ``synthseg train`` has ``--seed``.',
    '--fs-license-file': 'No license is needed.',
    '--crashfile-format': 'Crash files are text. Pickles, the other format of Nipype, run code '
    'when they are opened.',
    '--sloppy': 'There is nothing to leave out: a small network, given as ``--model``, tests all '
    'steps in seconds.',
    '--crop': 'The part of an image that is segmented is as large as in training and is found by '
    'itself; ``--no-autocrop`` takes all of it. Where memory is short, images are cut into tiles.',
    '--output-spaces': 'Outputs lie in the space of their image, on its grid or on one of 1 mm. '
    'Nothing is registered to a template.',
    '--fs-subjects-dir': 'FreeSurfer is neither run nor read; see above for its segmentations as '
    'references.',
    '--anat-only': 'There is nothing else: only images in ``anat`` folders are looked at.',
    '--mem-mb': '``--mem-gb 8000M``.',
    '--device mps': 'The GPUs of Macs are not supported; there the CPU computes.',
    '--parc': 'There is no network for cortical parcels yet.',
    '--robust': 'There is one network for all scans. ``--model`` takes the published weights of '
    'SynthSeg 1.0 and 2.0, not those of its networks for robust segmentation, cortical parcels '
    'or quality control.',
}

VARIABLES_TITLE = """\
Environment variables
---------------------
"""

VARIABLES = {
    'SYNTHSEG_BIDS_DTYPE': 'number format that networks compute in: ``float32`` or ``bfloat16`` '
    '(default: bfloat16 where the processor or the GPU is faster with it)',
}

OTHERS_TITLE = """\
For users of mri_synthseg
-------------------------
"""

#: Options of FreeSurfer's program, and what does the same here.
OTHERS = {
    '--i SCAN --o LABELS': '``synthseg segment SCAN LABELS``',
    '--i FOLDER --o FOLDER': '``synthseg-bids``, of a BIDS dataset; of other folders '
    '``synthseg_bids.Segmenter().batch(paths)``',
    '--vol CSV': '``synthseg segment --volumes TSV``; ``synthseg-bids`` always writes volumes',
    '--post FILE': '``synthseg segment --posteriors FILE``, ``synthseg-bids --posteriors native``',
    '--keepgeom': 'always',
    '--resample FILE': '``synthseg-bids --output-grid both``',
    '--qc CSV': '``synthseg-bids`` always writes quality control; ``Segmenter()(scan).qc``',
    '--fast': '``--fast``, which leaves out the mirrored pass',
    '--ct': '``--ct``; without it where the intensities are Hounsfield units (``docs/ct.rst``)',
    '--threads N': '``synthseg segment --threads N``, ``synthseg-bids --omp-nthreads N``',
    '--cpu': '``--device cpu``',
    '--v1': '``--model synthseg_1.0``',
}


def main(path: Path) -> None:
    """Write the page."""
    parts = [INTRODUCTION]
    for group in build_parser()._action_groups:
        rows = [_row(action) for action in group._group_actions if _is_ours(action)]
        if rows:
            title = (group.title or '').capitalize()
            parts += [f'{title}\n{"-" * len(title)}\n']
            parts += [list_table(('Option', 'What it does'), rows)]
    parts += [REFERENCES]
    rows = [(f'``{name}``', what) for name, what in VARIABLES.items()]
    parts += [VARIABLES_TITLE, list_table(('Variable', 'What it does'), rows)]
    rows = [(f'``{option}``', why) for option, why in MISSING.items()]
    parts += [MISSING_TITLE, list_table(('Option', 'Why'), rows)]
    rows = [(f'``{option}``', here) for option, here in OTHERS.items()]
    parts += [OTHERS_TITLE, list_table(('mri_synthseg', 'Here'), rows)]
    path.write_text('\n'.join(parts), encoding='utf-8')


def _is_ours(action: argparse.Action) -> bool:
    return not isinstance(action, argparse._HelpAction)


def _row(action: argparse.Action) -> tuple[str, str]:
    names = ', '.join(f'``{name}``' for name in action.option_strings or [action.dest])
    value = action.metavar or ('|'.join(map(str, action.choices)) if action.choices else '')
    shown = f' ``{value}``' if value and action.option_strings else ''
    return names + shown, ((action.help or '') % {'prog': 'synthseg-bids'}).replace('*', '\\*')


if __name__ == '__main__':
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name('options.rst'))
