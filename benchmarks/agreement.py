"""Agreement: how do the methods and estimators rank weights, against the exact meta-gradient?

For LeNet-300-100 on MNIST, for several learning rates α and numbers of steps M: Spearman's rank
correlation with the scores of "exact" on the same batches, and how much of the weights that exact
keeps a method keeps too. Chance keeps as much in common as it keeps. Means over seeds of weights and
batches.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

import prospr_ops as po
from benchmarks.harness import write_json
from benchmarks.summary import Comparison
from prospr_ops.reporting.agreement import overlap, spearman

LEARNING_RATES = (0.01, 0.1, 0.3)
STEPS = (3, 20, 100)
SPARSITIES = (0.9, 0.95, 0.98, 0.99, 0.995)
SEEDS = (0, 1, 2)
SUMMED_UP = 0.98
OURS = "diagonal, ggn"
# Learning rates, steps and seeds that a run of all benchmarks has time for.
SHORT = ((0.1,), (3, 20), (0,))
SIDES: dict[str, dict[str, str]] = {
    "diagonal, ggn": {"method": "diagonal", "curvature": "ggn"},
    "diagonal, ggn_mc": {"method": "diagonal", "curvature": "ggn_mc"},
    "diagonal, hutchinson": {"method": "diagonal", "curvature": "hutchinson"},
    "diagonal, row_sum": {"method": "diagonal", "curvature": "row_sum"},
    "first_order": {"method": "first_order"},
    "snip": {"method": "snip"},
    "magnitude": {"method": "magnitude"},
    "random": {"method": "random"},
}


def _scores(
    data: po.data.Dataset, learning_rate: float, steps: int, seed: int, **options: str
) -> npt.NDArray[np.float64]:
    keras.utils.set_random_seed(seed)
    scores = po.score(
        po.models.lenet_300_100(),
        (data.x_train, data.y_train),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        learning_rate=learning_rate,
        steps=steps,
        seed=seed,
        verbose=0,
        **options,
    )
    return np.concatenate([values.ravel() for values in scores.values()]).astype(np.float64)


def _measure(data: po.data.Dataset, learning_rate: float, steps: int, seed: int) -> dict[str, Any]:
    """For each side its correlation with exact, and the shares of weights in common."""
    exact = _scores(data, learning_rate, steps, seed, method="exact")
    found = {}
    for side, options in SIDES.items():
        try:
            scores = _scores(data, learning_rate, steps, seed, **options)
        except ValueError:  # the estimate made the prospect diverge
            found[side] = {"spearman": np.nan, "common": [np.nan] * len(SPARSITIES)}
            continue
        common = [
            overlap([po.select({"": values}, sparsity) for values in (exact, scores)])[0, 1]
            for sparsity in SPARSITIES
        ]
        correlation = spearman([{"": exact}, {"": scores}])[0, 1]
        found[side] = {"spearman": correlation, "common": common}
    return found


def run(out: Path, *, full: bool = True) -> list[Comparison]:
    """Runs the benchmark, in full or not; prints a table, writes agreement.json and agreement.png."""
    console = Console()
    data = po.data.mnist()
    rates, numbers, seeds = (LEARNING_RATES, STEPS, SEEDS) if full else SHORT
    cases = list(itertools.product(rates, numbers))
    rows = []
    for learning_rate, steps in track(cases, "agreement", console=console, transient=True):
        runs = [_measure(data, learning_rate, steps, seed) for seed in seeds]
        for side in SIDES:
            rows.append(
                {
                    "learning_rate": learning_rate,
                    "steps": steps,
                    "side": side,
                    "spearman": np.mean([run[side]["spearman"] for run in runs]),
                    "common": np.mean([run[side]["common"] for run in runs], axis=0).tolist(),
                }
            )
    console.print(_table(rows, data, len(seeds)))
    write_json(
        out / "agreement.json",
        {
            "benchmark": "agreement",
            "data": data.source,
            "seeds": seeds,
            "sparsities": SPARSITIES,
            "rows": rows,
        },
    )
    _plot(rows).savefig(out / "agreement.png", dpi=150)
    console.print(f"[dim]{out / 'agreement.json'}, {out / 'agreement.png'}[/dim]")
    return [comparison for case in cases for comparison in _comparisons(rows, *case)]


def _comparisons(rows: list[dict[str, Any]], learning_rate: float, steps: int) -> list[Comparison]:
    """What ours has in common with exact at one sparsity, against the cheaper methods."""
    common = {
        row["side"]: row["common"][SPARSITIES.index(SUMMED_UP)]
        for row in rows
        if (row["learning_rate"], row["steps"]) == (learning_rate, steps)
    }
    case = f"α = {learning_rate:g}, M = {steps}, {SUMMED_UP:.0%} pruned"
    return [
        Comparison("agreement", case, side, common[OURS], common[side], "shared", "–")
        for side in ("first_order", "snip", "magnitude")
    ]


def _table(rows: list[dict[str, Any]], data: po.data.Dataset, seeds: int) -> Table:
    table = Table(
        title="Agreement with the exact meta-gradient: LeNet-300-100",
        caption=f"Data: {data.source}. Means over seeds: {seeds}. Spearman's correlation of the "
        "scores, and the share of the\nweights that exact keeps which are kept too, by sparsity; –: "
        "the prospect diverged.",
    )
    for heading in ("α", "M"):
        table.add_column(heading, justify="right")
    table.add_column("side", no_wrap=True)
    for heading in ("Spearman", *(f"{sparsity:.1%}" for sparsity in SPARSITIES)):
        table.add_column(heading, justify="right")
    for row in rows:
        first = row["side"] == next(iter(SIDES))
        values = [row["spearman"], *row["common"]]
        table.add_row(
            f"{row['learning_rate']:g}" if first else "",
            str(row["steps"]) if first else "",
            row["side"],
            *("–" if np.isnan(value) else f"{value:.2f}" for value in values),
            end_section=row["side"] == list(SIDES)[-1],
        )
    return table


def _plot(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(11, 8.4), layout="constrained")
    figure.suptitle(
        "Share of the weights kept by the exact meta-gradient that a method keeps too", fontsize=13
    )
    colours = (
        "#c8553d",
        "#e09f7d",
        "#588b8b",
        "#93b7be",
        "#2f3e46",
        "#8d6b94",
        "#9aa5b1",
        "#cccccc",
    )
    pruned = [f"{100 * sparsity:g}" for sparsity in SPARSITIES]
    rates = list(dict.fromkeys(row["learning_rate"] for row in rows))
    numbers = list(dict.fromkeys(row["steps"] for row in rows))
    grid = figure.subplots(len(rates), len(numbers), sharex=True, sharey=True, squeeze=False)
    cases = itertools.product(rates, numbers)
    for axes, (learning_rate, steps) in zip(grid.flat, cases, strict=True):
        here = [r for r in rows if (r["learning_rate"], r["steps"]) == (learning_rate, steps)]
        for row, colour in zip(here, colours, strict=True):
            axes.plot(pruned, row["common"], "o-", color=colour, label=row["side"], markersize=3)
        axes.set_title(f"α = {learning_rate:g}, M = {steps}", fontsize=10)
        axes.set_ylim(0, 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("% of weights pruned", fontsize=9)
    figure.legend(
        *grid[0][0].get_legend_handles_labels(),
        loc="outside right center",
        fontsize=9,
        frameon=False,
    )
    return figure
