"""The table of cortical parcels is that of FreeSurfer."""

from __future__ import annotations

import numpy as np
import pytest

from synthseg_bids.labels import fold_reference, segmentation_labels
from synthseg_bids.parcels import (
    CORTEX,
    NOT_IN_DKT,
    PARCEL_NUMBERS,
    aparcaseg_labels,
    parcel_label,
    parcel_labels,
)


def test_numbers_are_those_of_freesurfer():
    assert list(PARCEL_NUMBERS) == [*range(1, 4), *range(5, 36)]
    assert {*NOT_IN_DKT} < {*PARCEL_NUMBERS}
    with pytest.raises(ValueError, match='parcel 4: there are 1, 2, 3, 5'):
        parcel_label('left', 4)


def test_some_rows_of_freesurfers_colour_table():
    rows = {label.index: (label.name, label.rgb) for label in parcel_labels()}
    assert rows[parcel_label('left', 22)] == ('ctx-lh-postcentral', (220, 20, 20))
    assert rows[parcel_label('right', 35)] == ('ctx-rh-insula', (255, 192, 32))


def test_every_parcel_has_a_twin_on_the_other_side():
    by_index = {label.index: label for label in parcel_labels()}
    assert len(by_index) == 68
    for label in by_index.values():
        twin = by_index[label.mirror]
        assert twin.mirror == label.index
        assert {label.side, twin.side} == {'left', 'right'}
        assert label.name.replace('-lh-', '-rh-') == twin.name.replace('-lh-', '-rh-')


def test_names_and_colours_tell_parcels_apart():
    labels = aparcaseg_labels(lesions=True)
    for key in ('index', 'name', 'abbreviation'):
        assert len({getattr(label, key) for label in labels}) == len(labels)
    assert len({label.color for label in parcel_labels()}) == len(PARCEL_NUMBERS)


def test_parcels_stand_for_the_cortex():
    found = {label.index for label in aparcaseg_labels()}
    ours = {label.index for label in segmentation_labels()}
    assert ours - found == {*CORTEX}
    # Their target is what references are folded to.
    values = np.array([2, 41, *(label.index for label in parcel_labels())])
    folded = fold_reference(values[:, None, None]).ravel()[2:]
    assert folded.tolist() == [label.target for label in parcel_labels()]
