"""What the BIDS validator says about the images to be segmented."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from app import write_description, write_image

from synthseg_bids.bids.validate import find_validator, report_bids_errors


def program(folder: Path, text: str = 'exit 0') -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / 'bids-validator-deno'
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(tmp_path, monkeypatch) -> Path:
    """An environment of its own that is not activated, and an empty search path."""
    monkeypatch.setattr(sys, 'executable', str(tmp_path / 'venv/bin/python'))
    monkeypatch.setenv('PATH', str(tmp_path / 'path'))
    return tmp_path


def test_it_is_found_beside_python_or_on_the_path(bare):
    assert find_validator() is None
    on_path = program(bare / 'path')
    assert find_validator() == str(on_path)
    beside = program(bare / 'venv/bin')
    assert find_validator() == str(beside)
    beside.chmod(0o644)
    assert find_validator() == str(on_path)


def test_its_absence_and_its_failures_are_no_errors(bare, caplog):
    caplog.set_level(logging.INFO)
    assert report_bids_errors(bare, ['1'], bare) == []
    assert 'bids-validator-deno is not installed' in caplog.text
    for text in ('echo "no JSON"', 'echo "[]"', 'exec sleep 60'):
        program(bare / 'path', text.replace('sleep', '/bin/sleep'))
        assert report_bids_errors(bare, ['1'], bare, timeout_s=1) == []
    assert caplog.text.count('gave no answer') == 3


@pytest.mark.usefixtures('validator')
def test_errors_about_the_images_alone_are_told(tmp_path):
    raw = tmp_path / 'raw'
    write_description(raw, 'Without metadata')
    (raw / 'README').write_text('A dataset whose MP2RAGE images have no sidecars.\n' * 4)
    for subject in ('1', '2'):
        write_image(raw / f'sub-{subject}/anat/sub-{subject}_inv-1_MP2RAGE.nii.gz')
        write_image(raw / f'sub-{subject}/func/sub-{subject}_bold.nii.gz')
    lines = report_bids_errors(raw, ['1'], tmp_path / 'cache', timeout_s=300)
    assert lines
    assert all(line.startswith('/sub-1/anat/sub-1_inv-1_MP2RAGE.nii.gz: ') for line in lines)
    assert any('InversionTime' in line for line in lines)
