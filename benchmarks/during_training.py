"""During training: pruning within `fit`, against random masks and pruning before it, at equal epochs.

The tables of docs/during_training.md; minutes. Each finished network is a line of `during_training.jsonl`
at once, and a run that was stopped goes on where it was.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from benchmarks.accuracy import Study, run_studies
from prospr_ops.cli.comparison import Training

STUDIES = (
    Study(
        "lenet5",
        ("dense", "gradual", "rigl", "set", "random_erk", "random", "exact:3", "exact:3@5",
         "exact_rigl"),
        (0.98, 0.99), seeds=3, training=Training(epochs=5, learning_rate=0.05),
    ),
    # SGD does not get a network going from random masks of 99 %.
    Study(
        "lenet5", ("dense", "gradual", "rigl", "random_erk", "exact:3@5"), (0.98, 0.99), seeds=3,
        training=Training(epochs=5, learning_rate=2e-3, weight_decay=0.0, adam=True),
    ),
)  # fmt: skip


def run(out: Path, *, full: bool = True) -> list[object]:
    """Runs what the journal in `out` lacks, and prints the table.

    Returns:
        Nothing for the summary, which is of speed.
    """
    del full  # there is no short form of it
    run_studies(out / "during_training.jsonl", STUDIES, Console())
    return []
