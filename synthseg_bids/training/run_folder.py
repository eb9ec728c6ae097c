"""Save and resume a training run in a folder: checkpoint, network with card, learning curve."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from ..files import read_table, write_text
from ..models.card import save_model
from .trainer import Trainer

CHECKPOINT, MODEL, CURVE = 'checkpoint.pt', 'model.safetensors', 'learning_curve.tsv'


def resume_run(trainer: Trainer, folder: Path) -> list[dict[str, Any]] | None:
    """Resume a run from the checkpoint in its folder.

    Parameters
    ----------
    trainer : Trainer
    folder : Path

    Returns
    -------
    list of dict or None
        Rows of the learning curve up to the step of the checkpoint; None without a checkpoint.

    Raises
    ------
    CheckpointError
        See :meth:`.trainer.Trainer.resume`.
    """
    checkpoint = folder / CHECKPOINT
    if not checkpoint.exists():
        return None
    trainer.resume(checkpoint)
    rows = [
        {k: float(v) if k != 'step' else int(v) for k, v in row.items()}
        for row in read_table(folder / CURVE)
    ]
    return [row for row in rows if row['step'] <= trainer.step]


def save_run(trainer: Trainer, folder: Path, curve: Sequence[dict[str, Any]], name: str) -> None:
    """Write network, learning curve and checkpoint.

    Parameters
    ----------
    trainer : Trainer
    folder : Path
    curve : sequence of dict
        Rows of the learning curve.
    name : str
        Name of the network on its card.
    """
    save_model(folder / MODEL, trainer.average, trainer.card(name, curve))
    if curve:
        text = StringIO()
        writer = csv.DictWriter(text, curve[0].keys(), delimiter='\t', lineterminator='\n')
        writer.writeheader()
        writer.writerows(curve)
        write_text(folder / CURVE, text.getvalue())
    # Last, so that a run killed in between resumes before these files and writes them again.
    trainer.save(folder / CHECKPOINT)
