"""Pretrained: a network that was trained on one data set, pruned and trained on another, and back.

The tables of docs/pretrained.md; minutes, and needs Fashion-MNIST. Each finished network is a line of
`pretrained.jsonl` at once, and a run that was stopped goes on where it was.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from benchmarks.accuracy import Study, run_studies
from prospr_ops.cli.comparison import Training

_ALL = ("dense", "exact:3", "exact:3@5", "snip", "magnitude", "random")

STUDIES = tuple(
    Study(
        "lenet_300_100",
        contenders,
        (0.95, 0.98, 0.99),
        seeds=3,
        training=Training(epochs=5),
        dataset=dataset,
        pretrained=pretrained,
    )
    for dataset, pretrained, contenders in (
        ("fashion_mnist", "mnist", _ALL),
        ("mnist", "fashion_mnist", _ALL),
        # The same without the first training.
        ("fashion_mnist", None, ("dense", "exact:3")),
        ("mnist", None, ("dense", "exact:3")),
    )
)


def run(out: Path, *, full: bool = True) -> list[object]:
    """Runs what the journal in `out` lacks, and prints a table for each way.

    Returns:
        Nothing for the summary, which is of speed.
    """
    del full  # there is no short form of it
    run_studies(out / "pretrained.jsonl", STUDIES, Console())
    return []
