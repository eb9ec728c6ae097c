"""Write qc.rst, the limits of quality control, from those in the code: python docs/write_qc.py."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from synthseg_bids.bids.group_stats import MAX_Z
from synthseg_bids.labels import segmentation_labels
from synthseg_bids.measure.qc_measures import (
    FAIL,
    MODEL_LIMITS,
    PASS,
    QC_GROUPS,
    REVIEW,
    SECTIONS,
    VOLUME_RANGES_ML,
)
from synthseg_bids.measure.stats import MIN_VALUES

INTRODUCTION = f"""Quality control
===============

.. Written by docs/write_qc.py from the limits in the code; do not edit.

Every image has a table ``*_qc.tsv`` with a row per measure: ``measure``, ``value``, ``flag`` and
``reason``. The last row, ``verdict``, is the worst of all flags:

``{PASS}``
    Every value lies within its limits.
``{REVIEW}``
    Look at the scan and its segmentation: the reasons say where. A child's or an atrophied brain,
    thick slices or a tight field of view may end here, with nothing wrong.
``{FAIL}``
    The segmentation should not be used: there is no brain, too little of it, or the network did
    not know what it saw.

The limits are wide and the same for all contrasts. They catch scans that went wrong, not small
errors; those of a group study show in ``group_outliers.tsv``.
"""

_ORIGIN = MODEL_LIMITS['origin']
_PERCENTILES = _ORIGIN['percentiles']
CONFIDENCE = textwrap.fill(
    f"""How sure a network is depends on the network. These limits are those of the model
``{_ORIGIN['model']}``, told by its checksum; with another one the values are there, but have no
flag and do not count for the verdict. ``{_ORIGIN['written_by']}`` found them:
the model segmented {_ORIGIN['good_scans']} synthetic scans, made from
{len(_ORIGIN['label_maps'])} label maps that it was not trained on, and
{_ORIGIN['spoiled_scans']} that were turned upside down or whose blocks were shuffled.
*Review* starts below percentile {_PERCENTILES[REVIEW]} of the former; *fail*
below percentile {_PERCENTILES['spoiled']} of the latter, but never above percentile
{_PERCENTILES[FAIL]} of the former.""",
    95,
)

RANGES = """Plausible volumes
-----------------

In ml, for either side. A structure outside its range is counted in ``n_implausible_volumes`` and
named in the reason; alone it never fails a scan. The ranges come from sixteen of the twenty label
maps of adults that were published for training SynthSeg (segmented with FreeSurfer, some with much
atrophy): half of the smallest and twice the largest volume of either side, for the ventricles a
quarter and four times. They are no norms. For volumes that are unusual for a person's age, sex
and head size see, for example, Potvin et al., Normative data for subcortical regional volumes over
the lifetime of the adult human brain, NeuroImage 137:9 (2016).

Left and right count as asymmetric if they differ by more than in 92 label maps of individuals
from newborn to old age, without the three most extreme (a hippocampus with atrophy, 1.08, among
them). Most structures of most heads differ by less than 0.1 of their mean.
"""

ANOMALIES = """A network that was trained on whole brains gives every voxel the label of
something that it knows. In adults with a cavity of 60 ml or a mass of 25 ml (bright, dark or
with a bright rim) drawn into the white matter of one frontal lobe, it took up to half of
them for a ventricle, and some of them for white matter. Each of these scans asks for a look
by at least two of these measures, or one of them and the ventricles' asymmetry; none of the
whole brains that were tried does: 22 scans of T1w, T2w and FLAIR contrast, of infants,
adults, old people and patients with multiple sclerosis (their largest lesions have 1.4 ml of
odd intensity). Anterior and posterior exchanged, inferior and superior exchanged, or the
head turned by 90 degrees give an ``axes_gain`` of 0.3 to 0.4. Small or diffuse lesions are
not found: this is no detection of pathology.
"""

GROUPS = """Groups of structures
--------------------

The confidence of a group is the mean over its structures, each of which counts the same. The
groups are those of the quality control of SynthSeg 2.0, except that caudate, accumbens and ventral
diencephalon, white matter there, go with the structures around them.
"""

GROUP = f"""Over all images
---------------

``group_outliers.tsv`` lists every image that lies more than {MAX_Z} standard deviations from the
median of its contrast, in a volume or in a measure of quality. The standard deviation is
estimated from the median absolute deviation, and at least {MIN_VALUES} images are needed
(Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993). Volumes are compared by their
logarithm, since those of ventricles are far from normally distributed.

``group_reliability.tsv`` says how well volumes are repeated across the contrasts of a session and
across the first two visits of a participant: intraclass correlations ICC(2,1), in which a constant
difference between contrasts counts as disagreement, and ICC(3,1), in which it does not (Shrout and
Fleiss, Psychological Bulletin 86:420, 1979; from {MIN_VALUES} pairs on), the coefficient of
variation within a pair, and the mean difference.

``*_agreement.tsv`` compares the label maps of each two images of a session, and of each image and
the one of the same name at the next visit. The second map is laid over the first as a rigid body,
by the centroids of their structures (Kabsch's method, each weighted by the root of its volume);
nothing of the images themselves is used. Overlaps are counted on a 1 mm grid.
"""

TEXTS = {'Confidence': CONFIDENCE, 'Whole brains the right way up': ANOMALIES}


def table(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Format a table."""
    lines = [f'.. csv-table:: {title}'.rstrip(), f'   :header: {_csv(header)}', '']
    return '\n'.join([*lines, *(f'   {_csv(row)}' for row in rows), ''])


def _csv(cells: tuple[str, ...]) -> str:
    return ', '.join('"' + cell.replace('"', '""') + '"' for cell in cells)


def main(path: Path) -> None:
    """Write the page."""
    parts = [INTRODUCTION]
    for title, section in SECTIONS.items():
        rows = [(f'``{m.name}``', m.units, m.description, m.limits) for m in section]
        parts += [f'{title}\n{"-" * len(title)}\n']
        parts += [f'{TEXTS[title]}\n'] if title in TEXTS else []
        parts += [table('', ('Measure', 'Unit', 'What it is', 'Limits'), rows)]
    names = {label.index: label.name.removeprefix('Left-') for label in segmentation_labels()}
    ranges = [
        (names[label], f'{low:g}', f'{high:g}') for label, (low, high) in VOLUME_RANGES_ML.items()
    ]
    parts += [RANGES, table('', ('Structure', 'Lowest', 'Highest'), ranges)]
    groups = [
        (f'``{group}``', ', '.join(dict.fromkeys(_unsided(names[label]) for label in labels)))
        for group, labels in QC_GROUPS.items()
    ]
    parts += [GROUPS, table('', ('Group', 'Structures'), groups), GROUP]
    path.write_text('\n'.join(parts), encoding='utf-8')


def _unsided(name: str) -> str:
    return name.removeprefix('Right-')


if __name__ == '__main__':
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name('qc.rst'))
