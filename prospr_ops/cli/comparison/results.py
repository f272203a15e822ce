"""What a comparison has to show: the errors of its networks, over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from prospr_ops.cli.comparison.cells import CONTROLS, DENSE, Contender
from prospr_ops.methods import method_label
from prospr_ops.reporting.figures.style import COLOURS, FAINT, INK, new_figure
from prospr_ops.utils.tables import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Errors in percent that an axis names; the finer ones where errors lie close together.
_MARKS = (1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 80)
_FINE_MARKS = (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 17, 20, 25, 30, 40, 50, 60, 80)


class Error(NamedTuple):
    """Errors in percent of the networks that differ by their seed alone.

    Attributes:
        mean: Over the seeds.
        deviation: Standard deviation of one network's error (n − 1), NaN of a single one.
        seeds: How many.
    """

    mean: float
    deviation: float
    seeds: int

    @classmethod
    def of(cls, errors: Sequence[float]) -> Error:
        """The mean and the standard deviation of errors."""
        deviation = float(np.std(errors, ddof=1)) if len(errors) > 1 else float("nan")
        return cls(float(np.mean(errors)), deviation, len(errors))

    def __str__(self) -> str:
        """Mean ± standard deviation."""
        return f"{self.mean:.2f}" + (f" ± {self.deviation:.2f}" if self.seeds > 1 else "")


class Budget(NamedTuple):
    """A column: what networks had in common that they were pruned to, from much to little.

    Attributes:
        pruned: Fraction of the weights, or of the multiply-adds, that is pruned; 0 of a dense network.
        flops: Whether it is of the multiply-adds.
    """

    pruned: float
    flops: bool = False

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Budget:
        """That of a record."""
        flops = record.get("flops")  # which journals of earlier versions do not have
        return cls(record["sparsity"]) if flops is None else cls(1 - flops, flops=True)

    def __str__(self) -> str:
        """Such as "98 %" and "flops=0.1"."""
        return f"flops={1 - self.pruned:.4g}" if self.flops else percent(self.pruned)


def errors(
    records: Iterable[Mapping[str, Any]], *, lowest: bool = False
) -> dict[str, dict[Budget, Error]]:
    """Gathers the seeds of a comparison of one model.

    Args:
        records: That `compare` returned.
        lowest: The lowest error of an epoch's end in the place of the last one, of those which have it.

    Returns:
        The errors by contender, in the order of the records, and budget, those of sparsity first. Where
        there are several learning rates of the prospect steps, a contender is one with its own.
    """
    records = list(records)
    rates = {record["learning_rate"] for record in records} - {None}
    gathered: dict[str, dict[Budget, list[float]]] = {}
    for record in records:
        error = record["validation_error" if record["validation"] else "test_error"]
        if lowest:
            error = record.get("lowest_error")
            if error is None:
                continue
        rate = record["learning_rate"] if len(rates) > 1 else None
        label = _contender(record).label(rate)
        row = gathered.setdefault(label, {})
        row.setdefault(Budget.of(record), []).append(error)
    return {
        label: {budget: Error.of(row[budget]) for budget in sorted(row, key=order)}
        for label, row in gathered.items()
    }


def order(budget: Budget) -> tuple[bool, float]:
    """Sorts budgets: sparsities first, from much that is kept to little."""
    return budget.flops, budget.pruned


def paired_differences(
    records: Iterable[Mapping[str, Any]], first: str, second: str
) -> dict[Budget, tuple[float, float, int]]:
    """How much larger the error of one contender is than that of another, of the same seeds.

    Args:
        records: That `compare` returned, of one model and one way to train.
        first: As a contender is written, such as "exact:3@5".
        second: The same.

    Returns:
        By budget, the mean of error(first) − error(second) over the seeds that both have, its standard
        error (n − 1; NaN of one seed), and their number.
    """
    sides: list[dict[tuple[Budget, int], float]] = [{}, {}]
    wanted = [Contender.parse(text) for text in (first, second)]
    for record in records:
        for side, contender in zip(sides, wanted, strict=True):
            if is_of(record, contender):
                error = record["validation_error" if record["validation"] else "test_error"]
                side[Budget.of(record), record["seed"]] = error
    gathered: dict[Budget, list[float]] = {}
    for budget, seed in sides[0].keys() & sides[1].keys():
        gathered.setdefault(budget, []).append(sides[0][budget, seed] - sides[1][budget, seed])
    return {
        budget: (found.mean, found.deviation / found.seeds**0.5, found.seeds)
        for budget in sorted(gathered, key=order)
        for found in [Error.of(gathered[budget])]
    }


def is_of(record: Mapping[str, Any], contender: Contender) -> bool:
    """Whether a record is of this contender, however its scores were made."""
    return contender == _contender(record)


def _contender(record: Mapping[str, Any]) -> Contender:
    control, _, method = record["method"].rpartition(":")
    # Journals of earlier versions have neither rounds nor revive.
    return Contender(
        method, record["steps"], control, record.get("rounds"), bool(record.get("revive"))
    )


def comparison_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """Tabulates the errors of one model: a row per contender, a column per budget.

    Args:
        records: That `compare` returned, of one model and one way to measure; at least one.

    Returns:
        A table in which the least mean error of each column is bold.
    """
    rows = errors(records)
    dense = rows.pop(method_label(DENSE), None)
    budgets = sorted({budget for row in rows.values() for budget in row}, key=order)
    first = records[0]
    which = "validation" if first["validation"] else "test"
    before = f"trained on {first['pretrained']}, then " if first.get("pretrained") else ""
    table = Table(
        title=f"{first['model']}, {before}on {first['dataset']}: {which} error in %",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    seeds = sorted({found.seeds for row in rows.values() for found in row.values()})
    table.caption = (
        f"mean ± standard deviation over {' to '.join(map(str, seeds[:: max(len(seeds) - 1, 1)]))} "
        f"seeds; {first['training_epochs']} epochs"
        + (f"\ndense {dense[Budget(0.0)]}" if dense else "")
    )
    table.add_column("")
    for budget in budgets:
        table.add_column(str(budget), justify="right")
    best = {
        budget: min(row[budget].mean for row in rows.values() if budget in row)
        for budget in budgets
    }
    for label, row in rows.items():
        cells = []
        for budget in budgets:
            text = str(row[budget]) if budget in row else ""
            bold = budget in row and row[budget].mean == best[budget]
            cells.append(f"[bold]{text}[/]" if bold else text)
        table.add_row(label, *cells)
    return table


def comparison_figure(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws error against what is pruned, both on log scales, with bands of one standard deviation.

    Args:
        records: As for `comparison_table`; where some are of a sparsity, those of multiply-adds are
            left out.

    Returns:
        A figure, to be saved with `savefig`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    rows = errors(records)
    dense = rows.pop(method_label(DENSE), None)
    of_flops = all(budget.flops for row in rows.values() for budget in row)
    first = records[0]
    which = "validation" if first["validation"] else "test"
    figure = new_figure(figsize=(8, 5.2))
    axes = figure.subplots()
    colours: dict[str, str] = {}  # one a method, whose sanity checks are dashed and dotted
    styles = dict(zip(CONTROLS.values(), ("--", ":"), strict=True))
    for label, all_of_row in rows.items():
        row = {budget: e for budget, e in all_of_row.items() if budget.flops == of_flops}
        method, _, control = label.rpartition(", ")
        if control not in styles:
            method, control = label, ""
        shade = COLOURS[len(colours) % len(COLOURS)]
        colour = colours.setdefault(method, shade)
        density = [1 - budget.pruned for budget in row]
        mean = np.array([found.mean for found in row.values()])
        deviation = np.nan_to_num([found.deviation for found in row.values()])
        axes.plot(
            density,
            mean,
            styles.get(control, "-"),
            color=colour,
            marker="o",
            markersize=5,
            label=label,
        )
        axes.fill_between(density, mean - deviation, mean + deviation, color=colour, alpha=0.15)
    if dense:
        axes.axhline(dense[Budget(0.0)].mean, color=INK, linestyle=(0, (5, 3)), label="Dense")
    ticks = sorted(
        {budget.pruned for row in rows.values() for budget in row if budget.flops == of_flops}
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([1 - pruned for pruned in ticks], [percent(pruned) for pruned in ticks])
    lowest, highest = axes.get_ylim()
    marks: list[float] = []
    for of_axis in (_MARKS, _FINE_MARKS):
        if len(marks) < 3:
            marks = [mark for mark in of_axis if lowest <= mark <= highest]
    axes.set_yticks(marks, [f"{mark:g} %" for mark in marks])
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.set_xlabel("multiply-adds pruned" if of_flops else "weights pruned")
    axes.set_ylabel(f"{which} error")
    axes.set_title(f"{first['model']} on {first['dataset']}, {first['training_epochs']} epochs")
    axes.grid(axis="y", color=FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure
