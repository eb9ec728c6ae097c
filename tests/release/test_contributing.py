"""CONTRIBUTING.rst names what there is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / 'CONTRIBUTING.rst').read_text(encoding='utf-8')


def test_its_make_targets_exist():
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    named = set(re.findall(r'make ([a-z-]+)', TEXT)) - {'is'}
    assert len(named) > 10
    assert named <= set(re.findall(r'^([a-z-]+):', makefile, re.MULTILINE))


def test_its_files_exist():
    folders = 'synthseg_bids|tests|docs|benchmarks|release|examples|training'
    named = set(re.findall(rf'(?<![\w/.])((?:{folders})/[\w./-]+)', TEXT))
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []
