"""Tuning: which settings the accuracy study has, and why: errors on held-out training samples.

The test set is not looked at. As in the study, each finished network is a line of `tuning.jsonl` at
once, and a run that was stopped goes on where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from prospr_ops.cli.comparison import Pruning, Training, compare, results
from prospr_ops.utils.tables import percent


class Question(NamedTuple):
    """What is tuned, with all else as it is in the study.

    Attributes:
        title: Of its table.
        model: A LeNet.
        settings: Contender, how the scores are made, how the networks are trained.
        sparsities: The columns; 0 for the dense network.
        seeds: Of which the table has the means.
    """

    title: str
    model: str
    settings: tuple[tuple[str, Pruning, Training], ...]
    sparsities: tuple[float, ...]
    seeds: int = 2


_SHORT = Training(epochs=8)

QUESTIONS = (
    Question(
        "How the scores are made",
        "lenet_300_100",
        (
            *(
                ("exact:3", Pruning(learning_rate, batch_size), _SHORT)
                for learning_rate, batch_size in (
                    (0.03, 512), (0.1, 512), (0.3, 512), (0.1, 128), (0.1, 2048),
                )
            ),
            ("exact:20", Pruning(0.1, 512), _SHORT),
            ("exact:100", Pruning(0.03, 512), _SHORT),
            ("exact:100", Pruning(0.1, 512), _SHORT),
            ("first_order:3", Pruning(0.1, 512), _SHORT),
            ("diagonal:100", Pruning(0.1, 512), _SHORT),
            *(("snip", Pruning(batch_size=batch_size), _SHORT) for batch_size in (128, 512, 2048)),
        ),
        (0.98, 0.995),
    ),
    Question(
        "How the networks are trained",
        "lenet_300_100",
        tuple(
            ("exact:3", Pruning(), Training(learning_rate=learning_rate, weight_decay=weight_decay))
            for learning_rate, weight_decay in (
                (0.03, 1e-4), (0.03, 5e-4), (0.1, 0.0), (0.1, 1e-4), (0.1, 5e-4), (0.1, 1e-3),
                (0.1, 2e-3), (0.2, 1e-4), (0.2, 5e-4), (0.2, 1e-3),
            )
        ),
        (0.95, 0.98),
    ),
    Question(
        "How the networks are trained",
        "lenet5_caffe",
        tuple(
            ("exact:3", Pruning(), Training(epochs=3, learning_rate=learning_rate))
            for learning_rate in (0.03, 0.05)
        ),
        (0.0, 0.98),
    ),
    Question(
        "How the networks are trained",
        "lenet5_caffe",
        tuple(
            ("exact:3", Pruning(), Training(4, learning_rate=learning_rate, clip_norm=clip_norm))
            for learning_rate, clip_norm in (
                (0.03, None), (0.05, None), (0.1, None), (0.2, None), (0.1, 5.0), (0.1, 2.0), (0.1, 1.0),
                (0.1, 0.5), (0.1, 0.25),
            )
        ),
        (0.98, 0.99),
    ),
    Question(
        "How the scores are made",
        "lenet5_caffe",
        tuple(
            (contender, Pruning(learning_rate, batch_size), Training(epochs=4, learning_rate=0.03))
            for contender, learning_rate, batch_size in (
                ("exact:3", 0.01, 512), ("exact:3", 0.03, 512), ("exact:3", 0.1, 512),
                ("exact:3", 0.3, 512), ("exact:3", 1.0, 512), ("exact:3", 0.1, 2048),
                ("exact:20", 0.03, 512), ("snip", 0.1, 512), ("snip", 0.1, 2048),
            )
        ),
        (0.98, 0.995),
    ),
    # At twice the seeds, as the differences are small.
    Question(
        "How the scores are made, for networks trained at 0.1",
        "lenet5_caffe",
        tuple(
            (contender, Pruning(learning_rate), Training(epochs=4, clip_norm=1.0))
            for contender, learning_rate in (
                ("exact:3", 0.1), ("exact:3", 0.3), ("exact:20", 0.03), ("exact:100", 0.03), ("snip", 0.1),
            )
        ),
        (0.98, 0.99, 0.995),
        seeds=4,
    ),
    *(
        Question(
            title,
            model,
            tuple(
                (contender, Pruning(learning_rate, batch_size), training)
                for contender, learning_rate, batch_size in settings
            ),
            (0.98, 0.995),
            seeds=3,
        )
        for model, training in (
            ("lenet_300_100", _SHORT), ("lenet5_caffe", Training(epochs=4, clip_norm=1.0)),
        )
        for title, settings in (
            (
                "How many rounds, and whether pruned weights may return",
                (
                    *((f"exact:3{rounds}", 0.1, 512) for rounds in ("", "@2", "@5", "@20")),
                    *((f"{method}{rounds}", 0.1, 512) for method in ("snip", "first_order:3")
                      for rounds in ("", "@20", "@20+revive")),
                ),
            ),
            (
                "How the scores of five rounds are made",
                (
                    ("exact:3@5", 0.03, 512), ("exact:3@5", 0.3, 512), ("exact:1@5", 0.1, 512),
                    ("exact:10@5", 0.1, 512), ("exact:3@5", 0.1, 128), ("exact:3@5", 0.1, 2048),
                ),
            ),
        )
    ),
)  # fmt: skip


def run(out: Path, *, full: bool = True) -> list[object]:
    """Runs what the journal in `out` lacks; a table for each question.

    Returns:
        Nothing for the summary, which is of speed.
    """
    del full  # there is no short form of it
    console = Console()
    for question in QUESTIONS:
        table = Table(
            title=f"{question.title} ({question.model}): validation error in %, mean of {question.seeds} seeds",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 1, 0, 0),
        )
        headings = ("", "α", "batch", "trained\nat rate", "weight\ndecay", "clip\nnorm", "epochs")
        for heading in headings:
            table.add_column(heading, no_wrap=True)
        for sparsity in question.sparsities:
            table.add_column(percent(sparsity), justify="right", no_wrap=True)
        alike: dict[tuple[Pruning, Training], list[str]] = {}
        for contender, *made in question.settings:
            alike.setdefault((made[0], made[1]), []).append(contender)
        for (
            pruning,
            training,
        ), contenders in alike.items():  # at once, as each call starts processes
            _compared(out, question, contenders, pruning, training, console)
        for contender, pruning, training in question.settings:
            records = _compared(out, question, [contender], pruning, training, console)
            table.add_row(contender, *_row(records, training))
        console.print(table)
    return []


def _compared(
    out: Path,
    question: Question,
    contenders: list[str],
    pruning: Pruning,
    training: Training,
    console: Console,
) -> list[dict[str, Any]]:
    """The records of some of a question's contenders, after running what the journal lacks."""
    return compare(
        out / "tuning.jsonl",
        model=question.model,
        contenders=["dense", *contenders] if 0 in question.sparsities else contenders,
        sparsities=[sparsity for sparsity in question.sparsities if sparsity],
        seeds=question.seeds,
        pruning=pruning,
        training=training,
        validation=True,
        console=console,
    )


def _row(records: list[dict[str, Any]], training: Training) -> list[str]:
    errors = results.errors(records)
    pruned = records[-1]
    return [
        "" if pruned["learning_rate"] is None else f"{pruned['learning_rate']:g}",
        str(pruned["batch_size"]),
        f"{training.learning_rate:g}",
        f"{training.weight_decay:g}",
        "" if training.clip_norm is None else f"{training.clip_norm:g}",
        str(training.epochs),
        *(f"{error.mean:.2f}" for row in errors.values() for error in row.values()),
    ]
