"""Visits of one head whose atrophy is known: what longitudinal segmentation measures of it.

Usage: python benchmarks/longitudinal.py LABEL_MAP ... --out docs/longitudinal.tsv

Each head is scanned at four visits (:mod:`visits`): twice unchanged, then with 5 and 2 % less
hippocampus and as much more ventricle; the last one with another contrast. Every visit has a
position, noise and bias of its own. Each later visit is paired with the first. About two CPU
minutes for a head.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from visits import CONFIG, HIPPOCAMPI, VENTRICLES, Visit, load_head, make_visit

from synthseg_bids.files import read_table, write_table
from synthseg_bids.images.geometry import Grid
from synthseg_bids.inference.combine import Contrast
from synthseg_bids.inference.longitudinal import (
    compare_visits,
    refine_compared,
    register_visits,
    segment_visit,
)
from synthseg_bids.inference.result import NetworkPosteriors
from synthseg_bids.inference.segmenter import Segmenter
from synthseg_bids.labels import CSF, segmentation_labels

#: Atrophy, and the number of the contrast, of each visit.
VISITS = ((0.0, 0), (0.0, 0), (0.05, 0), (0.02, 1))
COLUMNS = ('head', 'visit', 'contrast', 'index', 'name', 'true', 'apart', 'together')
#: The fluid around the brain ends with the field of view; lesions are not there.
MEASURED = tuple(label.index for label in segmentation_labels() if label.index not in (0, CSF))


def percent_changes(
    first: Mapping[int, float], second: Mapping[int, float], labels: Iterable[int]
) -> dict[int, float]:
    """Return the difference of volumes in percent of their mean."""
    return {
        label: 200 * (second[label] - first[label]) / (first[label] + second[label])
        for label in labels
        if first.get(label) and second.get(label)
    }


def measure_head(path: Path, network: Segmenter, small: bool) -> Iterator[dict[str, object]]:
    """Segment the visits of one head apart and together; yield a row per pair and structure."""
    label_map = load_head(path)
    seed = 1000 * int(''.join(filter(str.isdigit, path.name)) or 0)
    config = replace(CONFIG, size=(112, 144, 104)) if small else CONFIG
    if small:  # around the structures that change
        x, y, z = label_map.centre
        label_map = replace(label_map, centre=(x, y, z - 12))
    visits = [
        make_visit(label_map, share, seed + contrast, seed + 100 + number, config)
        for number, (share, contrast) in enumerate(VISITS)
    ]
    found = [network.predict(visit.image, visit.affine, keep_prior=True) for visit in visits]
    apart = [_volumes(network, one.posteriors.sum((1, 2, 3)).double().numpy()) for one in found]
    names = {label.index: label.name for label in segmentation_labels()}
    for number, (_, contrast) in enumerate(VISITS[1:], 1):
        pair = (0, number)
        contrasts = ['one', 'other' if contrast else 'one']
        together = _together(
            network, [visits[n] for n in pair], [found[n] for n in pair], contrasts
        )
        true = percent_changes(visits[0].volumes, visits[number].volumes, MEASURED)
        single = percent_changes(apart[0], apart[number], true)
        both = percent_changes(together[0], together[1], true)
        for label in true:
            yield {
                'head': path.name.partition('_')[0],
                'visit': number + 1,
                'contrast': 'other' if contrast else 'same',
                'index': label,
                'name': names[label],
                'true': true[label],
                'apart': single.get(label),
                'together': both.get(label),
            }


def _together(
    network: Segmenter,
    visits: Sequence[Visit],
    found: Sequence[NetworkPosteriors],
    contrasts: Sequence[str],
) -> list[dict[int, float]]:
    """Segment two visits together; return their volumes."""
    priors = [one.prior for one in found if one.prior is not None]
    images = [(visit.image, visit.affine) for visit in visits]
    registration = register_visits(priors, images=images)
    changes = compare_visits(priors, images, 'ab', contrasts, registration)
    scans = [
        Contrast(visit.image, visit.affine, prior)
        for visit, prior in zip(visits, priors, strict=True)
    ]
    refined = refine_compared(scans, changes, network.card)
    return [
        _volumes(
            network,
            segment_visit(
                Grid(visit.image.shape, visit.affine), refined, 'ab', registration, changes,
                number, network.card, network.labels,
            ).volumes,
        )
        for number, visit in enumerate(visits)
    ]  # fmt: skip


def _volumes(network: Segmenter, volumes: np.ndarray) -> dict[int, float]:
    return dict(zip(network.labels, volumes.tolist(), strict=True))


def summary(rows: Iterable[Mapping[str, str]]) -> dict[str, dict[str, float]]:
    """Return slope and spread of what was measured apart and together.

    Returns
    -------
    dict of str to dict of str to float
        ``slope`` of measured against true change through the origin, of hippocampi and lateral
        ventricles; ``spread``, the root mean square of the changes that were measured where none
        is, in all structures of unchanged pairs; ``spread_other``, of measured minus true change
        in structures other than these of all pairs.
    """
    rows = list(rows)
    answers: dict[str, dict[str, float]] = {}
    for how in ('apart', 'together'):
        values = [(row, float(row['true']), float(row[how])) for row in rows if row[how] != 'n/a']
        moving = [v for v in values if int(v[0]['index']) in (*HIPPOCAMPI, *VENTRICLES)]
        changed = np.array([v[1:] for v in moving if v[0]['visit'] != '2'])
        still = np.array([v[2] for v in values if v[0]['visit'] == '2'])
        other = np.array([v[2] - v[1] for v in values if v not in moving])
        answers[how] = {
            'slope': float(changed[:, 0] @ changed[:, 1] / (changed[:, 0] @ changed[:, 0])),
            'spread': float(np.sqrt(np.mean(still**2))),
            'spread_other': float(np.sqrt(np.mean(other**2))),
        }
    return answers


def main(argv: Sequence[str] | None = None) -> None:
    """Measure heads that were kept apart from training; those in the table are not done again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('label_maps', type=Path, nargs='+', help='not of the training')
    parser.add_argument('--out', type=Path, required=True, help='table to write, or to continue')
    parser.add_argument(
        '--small', action='store_true', help='a part of the head, no mirrored pass'
    )
    args = parser.parse_args(argv)
    network = Segmenter(device='cpu', threads=1, flip=not args.small, autocrop=not args.small)
    for path in args.label_maps:
        rows: list[Mapping[str, object]] = list(read_table(args.out))
        if path.name.partition('_')[0] not in {row['head'] for row in rows}:
            rows += measure_head(path, network, args.small)
            write_table(args.out, COLUMNS, rows)
    for how, numbers in summary(read_table(args.out)).items():
        told = ', '.join(f'{name} {value:.2f}' for name, value in numbers.items())
        print(f'{how}: {told}', file=sys.stderr)


if __name__ == '__main__':
    main()
