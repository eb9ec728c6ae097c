"""Accuracy of a model in real and generated scans: measurements, tables, docs/accuracy.rst."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path('../shared/data')
