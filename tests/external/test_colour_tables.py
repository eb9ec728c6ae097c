"""Colour tables, each read by the rules of the program that it is for."""

from __future__ import annotations

import shlex

import numpy as np
import pytest

from synthseg_bids.external.colour_tables import write_colour_table
from synthseg_bids.labels import segmentation_labels


def colours() -> dict[int, tuple[str, list[int]]]:
    return {
        x.index: (x.name, list(bytes.fromhex(x.color[1:])))
        for x in segmentation_labels()
        if x.index
    }


@pytest.mark.parametrize('name', ['lut.txt', 'lut.ctab'])
def test_freesurfer(tmp_path, name):
    """CTABreadASCII takes lines of which sscanf reads number, name and four values."""
    write_colour_table(tmp_path / name)
    rows = [
        line.split() for line in (tmp_path / name).read_text().splitlines() if line[:1].isdigit()
    ]
    assert all(len(row) == 6 and row[5] == '0' for row in rows)
    found = {int(number): (label, [*map(int, rgb)]) for number, label, *rgb, _ in rows}
    assert found.pop(0)[1] == [0, 0, 0]
    assert found == colours()


def test_itk_snap(tmp_path):
    """Seven numbers and a name in quotation marks; label 0 is the one that clears."""
    write_colour_table(tmp_path / 'x.label')
    lines = (tmp_path / 'x.label').read_text().splitlines()
    assert '# ITK-SnAP Label Description File' in lines
    rows = [shlex.split(line) for line in lines if not line.startswith('#')]
    assert all(len(row) == 8 for row in rows)
    assert rows[0] == ['0', '0', '0', '0', '0', '0', '0', 'Clear Label']
    assert all(row[4:7] == ['1', '1', '1'] for row in rows[1:])
    assert {int(r[0]): (r[7], [*map(int, r[1:4])]) for r in rows[1:]} == colours()


def test_slicer(tmp_path):
    """Number, name without spaces, red, green, blue and opacity, each up to 255."""
    write_colour_table(tmp_path / 'x.ctbl')
    lines = (tmp_path / 'x.ctbl').read_text().splitlines()
    assert lines[0].startswith('# Color table file')
    rows = [line.split(' ') for line in lines if not line.startswith('#')]
    assert lines[1] == f'# {len(rows)} values'
    assert all(len(row) == 6 for row in rows)
    assert rows[0][0] == rows[0][5] == '0'
    assert {row[5] for row in rows[1:]} == {'255'}
    assert {int(r[0]): (r[1], [*map(int, r[2:5])]) for r in rows[1:]} == colours()
    assert np.unique([r[0] for r in rows]).size == len(rows)


def test_lesions_and_other_formats(tmp_path):
    write_colour_table(tmp_path / 'x.ctbl', lesions=True)
    assert '\n77 WM-hypointensities ' in (tmp_path / 'x.ctbl').read_text()
    with pytest.raises(ValueError, match=r'x\.csv: give a name that ends in \.ctab'):
        write_colour_table(tmp_path / 'x.csv')
