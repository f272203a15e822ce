"""Accuracy: how good are the networks that each method leaves, over seeds, and the sanity checks?

The study of docs/accuracy.md, which takes hours; each finished network is a line of `accuracy.jsonl` at
once, and a run that was stopped goes on where it was. `prospr compare` does the same for a grid of
one's own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from prospr_ops.cli.comparison import (
    Cell,
    Contender,
    Pruning,
    Training,
    compare,
    finished,
    grid,
    results,
)
from prospr_ops.cli.comparison.cells import DENSE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Study(NamedTuple):
    """A grid of the study.

    Attributes:
        model: Of `prospr_ops.models`.
        contenders: Its rows.
        sparsities: Its columns.
        seeds: How many.
        training: How its networks are trained.
        pruning: How the scores are made.
        dataset: Data set that they are trained on.
        pretrained: Data set that they are trained on before they are pruned, or None.
        flops: More of its columns: fractions of the multiply-adds that are kept.
    """

    model: str
    contenders: tuple[str, ...]
    sparsities: tuple[float, ...]
    seeds: int
    training: Training
    pruning: Pruning = Pruning()
    dataset: str = "mnist"
    pretrained: str | None = None
    flops: tuple[float, ...] = ()

    def cells(self) -> list[Cell]:
        """Its networks."""
        return grid(
            self.model, [Contender.parse(text) for text in self.contenders], self.sparsities,
            range(self.seeds), self.pruning, self.training, False, self.dataset, self.pretrained,
            self.flops,
        )  # fmt: skip


SAMPLES = 60_000  # of each data set, for training
_SPARSITIES = (0.9, 0.95, 0.98, 0.99, 0.995)
# As `python -m benchmarks tuning` found; at SNIP's learning rate of 0.1 some dense ones diverge.
_CONVOLUTIONAL = Training(epochs=6, learning_rate=0.03)
# Pruned ones do not where their gradients' norm is limited.
_LONG = Training(epochs=34, clip_norm=1.0)

_FASHION = "fashion_mnist"
_FLOPS = (0.2, 0.1, 0.05)
# With the sanity checks, and random masks of the densities that RigL takes.
_MAIN = ("dense", "exact:3", "exact:3@5", "snip", "snip@5", "random_erk", "shuffled:exact:3",
         "reinit:exact:3")  # fmt: skip
_OTHERS = ("exact:3@20", "snip@20", "first_order:3", "first_order:3@5", "diagonal:3", "magnitude",
           "grasp", "synflow", "random")  # fmt: skip
# Networks with batch normalisation, which take longer per epoch.
_NORMALISED = Training(epochs=4)


def _in_dense_time(
    model: str,
    training: Training,
    short: int,
    epochs: Mapping[float, int],
    flops: Mapping[float, int],
) -> Iterator[Study]:
    """Sparse networks that are trained for as long as the dense one takes, and the other way round.

    Args:
        model: Of `prospr_ops.models`.
        training: How the dense network is trained.
        short: Epochs that the dense network is trained for in about the time of a sparse one.
        epochs: By sparsity: the dense network's epochs, times the seconds of its step, over those of
            the sparse network's, as `benchmarks worth` measured them; rounded down.
        flops: The same by fraction of the multiply-adds.
    """
    # A comparison needs something to compare with.
    contenders = ("dense", "random")
    yield Study(model, contenders, (0.9,), 3, replace(training, epochs=short), dataset=_FASHION)
    budgets: list[tuple[tuple[float, ...], tuple[float, ...], int]]
    budgets = [((sparsity,), (), longer) for sparsity, longer in epochs.items()]
    budgets += [((), (fraction,), longer) for fraction, longer in flops.items()]
    for sparsities, fractions, longer in budgets:
        yield Study(
            model, ("exact:3@5",), sparsities, 3, replace(training, epochs=longer),
            dataset=_FASHION, flops=fractions,
        )  # fmt: skip


# Most rows of the LeNets have five seeds, those of the deeper networks three. What is in two grids is run once.
STUDIES = (
    # Clothes instead of digits.
    Study("lenet_300_100", _MAIN, _SPARSITIES, seeds=5, training=Training(), dataset=_FASHION),
    Study("vgg7", ("dense", "exact:3", "exact:3@5", "snip", "snip@5"), (0.9, 0.95, 0.98), seeds=3,
          training=_NORMALISED, dataset=_FASHION, flops=_FLOPS),
    Study("lenet5_caffe", _MAIN, (0.9, 0.98, 0.99, 0.995), seeds=5, training=_CONVOLUTIONAL,
          dataset=_FASHION),
    *_in_dense_time("lenet_300_100", Training(), 9, {0.9: 26, 0.95: 39, 0.98: 44, 0.99: 44, 0.995: 60}, {}),
    *_in_dense_time("lenet5_caffe", _CONVOLUTIONAL, 2, {0.9: 12, 0.98: 22, 0.99: 25, 0.995: 32}, {}),
    *_in_dense_time("vgg7", _NORMALISED, 2, {0.9: 8, 0.95: 9, 0.98: 10}, {0.2: 7, 0.1: 7, 0.05: 9}),
    Study("vgg7", ("random_erk", "shuffled:exact:3", "reinit:exact:3", "magnitude", "synflow"),
          (0.9, 0.95, 0.98), seeds=3, training=_NORMALISED, dataset=_FASHION),
    Study("vgg7", ("gradual", "rigl"), (0.9, 0.95, 0.98), seeds=3, training=_NORMALISED,
          dataset=_FASHION),
    Study("resnet20", ("dense", "exact:3", "exact:3@5", "snip", "snip@5"), (0.9, 0.98), seeds=3,
          training=_NORMALISED, dataset=_FASHION, flops=(0.1,)),
    Study("resnet20", ("random_erk", "shuffled:exact:3"), (0.9, 0.98), seeds=3,
          training=_NORMALISED, dataset=_FASHION),
    # The other methods, and what pruning during training would have given.
    Study("lenet_300_100", _OTHERS, _SPARSITIES, seeds=5, training=Training(), dataset=_FASHION),
    Study("lenet5_caffe", _OTHERS, (0.9, 0.98, 0.995), seeds=5, training=_CONVOLUTIONAL,
          dataset=_FASHION),
    Study("lenet_300_100", ("gradual", "rigl"), (0.9, 0.98, 0.99, 0.995), seeds=5, training=Training(),
          dataset=_FASHION),
    Study("lenet_300_100", ("exact:3@5", "snip@5"), (), seeds=5, training=Training(),
          dataset=_FASHION, flops=_FLOPS),
    # Digits.
    Study(
        "lenet_300_100",
        ("dense", "exact:3", "shuffled:exact:3", "reinit:exact:3", "snip", "shuffled:snip",
         "first_order:3", "random", "random_erk"),
        _SPARSITIES, seeds=5, training=Training(),
    ),
    # What rounds do; the row of exact in one is above.
    Study(
        "lenet_300_100", ("exact:3@5", "exact:3@20", "snip@5", "snip@20"), _SPARSITIES, seeds=5,
        training=Training(),
    ),
    # What it does if pruned weights may return.
    Study(
        "lenet_300_100", ("snip@20+revive", "first_order:3@20", "first_order:3@20+revive"),
        _SPARSITIES, seeds=5, training=Training(),
    ),
    Study(
        "lenet_300_100",
        ("exact:20", "exact:100", "diagonal:3", "diagonal:100", "diagonal:300", "grasp", "synflow",
         "magnitude", "reinit:snip"),
        _SPARSITIES, seeds=5, training=Training(),
    ),
    Study("lenet5_caffe", ("dense", "exact:3", "snip", "random"), (0.95, 0.98, 0.99, 0.995), seeds=5,
          training=_CONVOLUTIONAL),
    Study("lenet5_caffe", ("shuffled:exact:3", "reinit:exact:3", "random_erk"), (0.98, 0.99), seeds=5,
          training=_CONVOLUTIONAL),
    Study("lenet5_caffe", ("exact:3",), (0.95, 0.98, 0.99, 0.995), seeds=5,
          training=_CONVOLUTIONAL, pruning=Pruning(learning_rate=0.3)),
    # What rounds do on convolutions, where ProsPr in one is level with SNIP.
    Study("lenet5_caffe", ("exact:3@5", "snip@5", "synflow"), (0.98, 0.99, 0.995), seeds=5,
          training=_CONVOLUTIONAL),
    # The sanity check of the masks of five rounds.
    Study("lenet_300_100", ("shuffled:exact:3@5",), (0.98, 0.99, 0.995), seeds=5, training=Training(),
          dataset=_FASHION),
    Study("lenet5_caffe", ("shuffled:exact:3@5",), (0.98, 0.99, 0.995), seeds=5,
          training=_CONVOLUTIONAL, dataset=_FASHION),
    Study("vgg7", ("shuffled:exact:3@5",), (0.95, 0.98), seeds=3, training=_NORMALISED,
          dataset=_FASHION),
    # Whether SynFlow is ahead on convolutions by more than its layers' densities, and by more than its
    # multiply-adds.
    Study("lenet5_caffe", ("synflow", "shuffled:synflow"), (0.9, 0.98, 0.99, 0.995), seeds=5,
          training=_CONVOLUTIONAL, dataset=_FASHION),
    Study("lenet5_caffe", ("exact:3@5", "snip@5", "synflow"), (), seeds=5, training=_CONVOLUTIONAL,
          dataset=_FASHION, flops=_FLOPS),
    Study("resnet20", ("synflow",), (0.9, 0.98), seeds=3, training=_NORMALISED, dataset=_FASHION),
    # How far from SNIP's own numbers is a matter of training.
    Study("lenet_300_100", ("dense", "exact:3", "snip"), (0.95, 0.98), seeds=5,
          training=Training(epochs=100)),
    Study("lenet_300_100", ("exact:3", "snip"), (0.98,), seeds=5, training=Training(epochs=400)),
    Study("lenet5_caffe", ("synflow",), (0.98, 0.99), seeds=5, training=_LONG),
    Study("lenet5_caffe", ("exact:3", "snip"), (0.98, 0.99, 0.995), seeds=5, training=_LONG),
    *_in_dense_time("resnet20", _NORMALISED, 2, {0.9: 7, 0.98: 10}, {0.1: 9}),
    Study("lenet5_caffe", ("gradual", "rigl"), (0.9, 0.98, 0.995), seeds=5, training=_CONVOLUTIONAL,
          dataset=_FASHION),
    Study("lenet5_caffe", ("exact:20",), (0.98, 0.99, 0.995), seeds=3, training=_LONG,
          pruning=Pruning(learning_rate=0.03)),
    Study("lenet5_caffe", ("dense", "shuffled:exact:3", "random", "reinit:exact:3"), (0.98, 0.99),
          seeds=2, training=_LONG),
    # What the two data sets and the four networks still lacked of each other's rows.
    Study("lenet_300_100", ("first_order:3@5", "shuffled:exact:3@5", "gradual", "rigl"), _SPARSITIES,
          seeds=5, training=Training()),
    Study("lenet_300_100", ("exact:3@5", "snip@5"), (), seeds=5, training=Training(), flops=_FLOPS),
    Study("resnet20", ("gradual", "rigl"), (0.98,), seeds=3, training=_NORMALISED, dataset=_FASHION),
    Study("vgg7", ("first_order:3", "first_order:3@5", "grasp"), (0.9, 0.95, 0.98), seeds=3,
          training=_NORMALISED, dataset=_FASHION),
    Study("lenet5_caffe", (*_OTHERS, "gradual", "rigl"), (0.98, 0.995), seeds=5,
          training=_CONVOLUTIONAL),
    Study("lenet5_caffe", ("exact:3@5", "snip@5", "synflow"), (), seeds=5, training=_CONVOLUTIONAL,
          flops=_FLOPS),
    Study("vgg7", ("exact:3@20", "snip@20", "random"), (0.9, 0.95, 0.98), seeds=3,
          training=_NORMALISED, dataset=_FASHION),
    Study("vgg7", ("exact:3@5", "snip@5", "synflow", "random_erk"), (0.99, 0.995), seeds=3,
          training=_NORMALISED, dataset=_FASHION),
    Study("resnet20", ("exact:3@5", "snip@5"), (), seeds=3, training=_NORMALISED, dataset=_FASHION,
          flops=(0.2, 0.05)),
    Study("resnet20", ("shuffled:exact:3@5", "first_order:3@5", "random"), (0.98,), seeds=3,
          training=_NORMALISED, dataset=_FASHION),
    Study("resnet20", ("gradual", "rigl"), (0.9,), seeds=3, training=_NORMALISED, dataset=_FASHION),
)  # fmt: skip


def run(out: Path, *, full: bool = True) -> list[object]:
    """Runs what the journal in `out` lacks; a table and a figure of each model and training.

    Returns:
        Nothing for the summary, which is of speed.
    """
    del full  # there is no short form of it
    console = Console()
    for alike, records in run_studies(out / "accuracy.jsonl", STUDIES, console).items():
        figure = out / f"accuracy_{alike}.png"
        drawn(records).savefig(figure, dpi=150)
        console.print(f"[dim]{figure}[/dim]")
    return []


def run_studies(
    journal: Path, studies: Iterable[Study], console: Console
) -> dict[str, list[dict[str, Any]]]:
    """Runs what a journal lacks, and prints a table of what can be compared.

    Returns:
        The records by model, data and length of the training.
    """
    records: dict[str, list[dict[str, Any]]] = {}
    for study in studies:
        data = "" if study.dataset == "mnist" else f"_{study.dataset}"
        before = f"_after_{study.pretrained}" if study.pretrained else ""
        by = "_adam" if study.training.adam else ""
        name = f"{study.model}{data}{before}_{study.training.epochs}_epochs{by}"
        records.setdefault(name, []).extend(
            compare(
                journal,
                model=study.model,
                contenders=study.contenders,
                sparsities=study.sparsities,
                flops=study.flops,
                seeds=study.seeds,
                pruning=study.pruning,
                training=study.training,
                dataset=study.dataset,
                pretrained=study.pretrained,
                console=console,
            )
        )
    for alike in records.values():
        console.print(results.comparison_table(alike))
        if (table := _differences(alike)).row_count:
            console.print(table)
    return records


def records_of(
    journal: Iterable[dict[str, Any]], model: str, dataset: str, epochs: int
) -> list[dict[str, Any]]:
    """What a journal has of the studies of one network, data set and length of training."""
    studies = [
        s for s in STUDIES if (s.model, s.dataset, s.training.epochs) == (model, dataset, epochs)
    ]
    cells = [cell for study in studies for cell in study.cells()]
    return list(finished(journal, cells, SAMPLES).values())


def markdown(
    journal: Iterable[dict[str, Any]], model: str, dataset: str, epochs: int
) -> Iterator[str]:
    """The tables of one network, data set and length of training, from a journal.

    Yields:
        Lines: the errors; the lowest errors of an epoch's end, as SNIP's code reports them; and the
        differences between contenders of the same seeds.
    """
    records = records_of(journal, model, dataset, epochs)
    rows = results.errors(records)
    dense = rows.pop(results.method_label(DENSE), {})
    seeds = [len({record["seed"] for record in records if record["method"] == DENSE})]
    seeds += [found.seeds for row in rows.values() for found in row.values()]
    of_dense = f"; the dense network has {next(iter(dense.values()))}" if dense else ""
    yield (
        f"Test error in % after {epochs} epochs, mean ± standard deviation{of_dense}. "
        f"Seeds: {max(seeds)}, where no other number is in brackets.\n"
    )
    yield from _grid(rows, max(seeds))
    pruned = [record for record in _few(records) if record["method"] != DENSE]
    yield from _lowest(pruned, max(seeds))
    differences = {
        f"`{first}` than `{second}`": {budget: _signed(*found[:2]) for budget, found in row.items()}
        for (first, second), row in _paired(records).items()
    }
    if differences:
        yield "\nBy how many points the error is larger, paired by seed, ± the standard error:\n"
        yield from _rows(differences)


def drawn(records: Sequence[dict[str, Any]]) -> Figure:
    """The study's figure of one network: of few contenders, where it has any of these, and else of all."""
    return results.comparison_figure(_few(records) or records)


def _few(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for text in _DRAWN for record in of_contender(records, text)]


def _lowest(records: Sequence[dict[str, Any]], seeds: int) -> Iterator[str]:
    """The lowest errors of an epoch's end, of the cells whose networks all noted it, where two can be compared."""
    last = results.errors(records)
    noted = {
        label: {b: e for b, e in row.items() if e.seeds == last[label][b].seeds}
        for label, row in results.errors(records, lowest=True).items()
    }
    contenders = Counter(budget for row in noted.values() for budget in row)
    lowest = {
        label: kept
        for label, row in noted.items()
        if (kept := {b: e for b, e in row.items() if contenders[b] > 1})
    }
    if not lowest:
        return
    if all(last[label][b] == e for label, row in lowest.items() for b, e in row.items()):
        yield "\nThe lowest error of an epoch's end is that of the last one in all of them."
        return
    yield "\nThe lowest error of an epoch's end, which is picked by looking at the test set:\n"
    yield from _grid(lowest, seeds)


def of_contender(records: Iterable[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """The records of a contender whose scores are made by the library's defaults."""
    contender = Contender.parse(text)
    return [r for r in records if results.is_of(r, contender) and _by_default(r)]


def _by_default(record: Mapping[str, Any]) -> bool:
    return record["learning_rate"] in (None, Pruning().learning_rate)


def _grid(rows: dict[str, dict[results.Budget, results.Error]], seeds: int) -> Iterator[str]:
    """Errors in Markdown, the least of each column bold, with the number of seeds where it is another one."""
    least: dict[results.Budget, float] = {}
    for row in rows.values():
        for budget, error in row.items():
            least[budget] = min(error.mean, least.get(budget, math.inf))

    def text(budget: results.Budget, error: results.Error) -> str:
        bold = f"**{error}**" if error.mean == least[budget] else str(error)
        return bold if error.seeds == seeds else f"{bold} ({error.seeds})"

    yield from _rows(
        {label: {b: text(b, e) for b, e in row.items()} for label, row in rows.items()}
    )


def _rows(rows: dict[str, dict[results.Budget, str]]) -> Iterator[str]:
    budgets = sorted({b for row in rows.values() for b in row}, key=results.order)
    yield f"| | {' | '.join(map(str, budgets))} |"
    yield f"| --- |{' ---: |' * len(budgets)}"
    for label, row in rows.items():
        yield f"| {label} | {' | '.join(row.get(budget, '') for budget in budgets)} |"


# Pairs of contenders whose difference the page speaks of.
_PAIRS = (
    ("snip", "exact:3"), ("snip@5", "exact:3@5"), ("snip@20", "exact:3@20"),
    ("first_order:3", "exact:3"), ("first_order:3@5", "exact:3@5"), ("snip@20+revive", "exact:3@5"),
    ("exact:3", "exact:3@5"), ("exact:3@20", "exact:3@5"), ("snip", "snip@5"),
    ("shuffled:exact:3", "exact:3"), ("reinit:exact:3", "exact:3"), ("random_erk", "exact:3"),
    ("shuffled:exact:3@5", "exact:3@5"), ("random_erk", "exact:3@5"), ("synflow", "exact:3@5"),
    ("synflow", "random_erk"), ("synflow", "snip"), ("synflow", "snip@5"), ("shuffled:synflow", "synflow"),
    ("gradual", "exact:3@5"), ("rigl", "exact:3@5"),
)  # fmt: skip


# What a figure shows, and whose lowest errors are told.
_DRAWN = ("dense", "exact:3", "shuffled:exact:3", "exact:3@5", "snip", "snip@5", "random_erk", "synflow",
          "gradual", "rigl")  # fmt: skip


def _paired(
    records: Sequence[dict[str, Any]],
) -> dict[tuple[str, str], dict[results.Budget, tuple[float, float, int]]]:
    """Differences by pair, of those that the records have, and by budget."""
    alike = [record for record in records if _by_default(record)]
    return {pair: found for pair in _PAIRS if (found := results.paired_differences(alike, *pair))}


def _signed(mean: float, error: float) -> str:
    return f"{mean:+.2f}" + ("" if math.isnan(error) else f" ± {error:.2f}")


def _differences(records: Sequence[dict[str, Any]]) -> Table:
    """Error of one contender less that of another, paired by seed, ± the standard error."""
    rows = _paired(records)
    budgets = list(dict.fromkeys(budget for row in rows.values() for budget in row))
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, caption="points, paired by seed, ± standard error"
    )
    table.add_column("by how much the error is larger")
    for budget in budgets:
        table.add_column(str(budget), justify="right")
    for (first, second), row in rows.items():
        cells = [_signed(*row[b][:2]) if b in row else "" for b in budgets]
        table.add_row(f"{first} than {second}", *cells)
    return table
