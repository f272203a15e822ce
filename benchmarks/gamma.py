"""The γ step: how much faster than TensorFlow, and how near to the memory's speed?

Ours is one op, in place on three variables: w −= α g, log|γ| += log|1 − α h|, and the sign. The
other sides do the same as anyone would write it in TensorFlow, on variables of their own: eagerly,
as a `tf.function`, and compiled by XLA. They are spared what ours does besides: an exact logarithm
near γ = 1, and the check for NaN and infinity. The bound is the STREAM triad (12 bytes a float) in the same
run, counted at the 24 bytes a weight that the step cannot avoid to move.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import prospr_ops as po
from benchmarks.harness import environment, interleaved_seconds, median, on_gpu, write_json
from benchmarks.summary import Comparison
from prospr_ops import _native

SIZES = {"LeNet-300-100": 266_200, "VGG-16": 14_715_584}
LEARNING_RATE = 0.1
BYTES_PER_WEIGHT = 24
OURS = "prospr_ops"
LABELS = {OURS: "prospr_ops", "xla": "XLA", "function": "tf.function", "eager": "eager"}


def _variables(size: int) -> tuple[tf.Variable, tf.Variable, tf.Variable]:
    weight = tf.Variable(tf.random.stateless_normal([size], [1, 2]))
    return weight, tf.Variable(tf.zeros([size])), tf.Variable(tf.ones([size], tf.int8))


def _plain_step(
    weight: tf.Variable,
    log_gamma: tf.Variable,
    sign: tf.Variable,
    gradient: tf.Tensor,
    curvature: tf.Tensor,
    learning_rate: tf.Tensor,
) -> None:
    weight.assign_sub(learning_rate * gradient)
    gamma = 1 - learning_rate * curvature
    log_gamma.assign_add(tf.math.log(tf.abs(gamma)))
    sign.assign(tf.where(gamma < 0, -sign, sign))


def _sides(size: int) -> tuple[dict[str, Callable[[], Any]], float]:
    """The sides to time, and the largest difference between their results after one step."""
    gradient = tf.random.stateless_normal([size], [3, 4])
    # From flat directions to γ < 0, as in the first steps of a real network.
    curvature = 4 * tf.abs(tf.random.stateless_normal([size], [5, 6]))
    rate = tf.constant(LEARNING_RATE)

    state = {name: _variables(size) for name in LABELS}
    plain = {name: partial(_plain_step, *state[name], gradient, curvature, rate) for name in LABELS}
    # Each as it is called with the least overhead: a traced function takes no arguments.
    sides = {
        OURS: partial(po.ops.gamma_step, *state[OURS], gradient, curvature, rate),
        "xla": tf.function(plain["xla"], jit_compile=True),
        "function": tf.function(plain["function"]),
        "eager": plain["eager"],
    }
    for side in sides.values():
        side()
    difference = max(_difference(state[OURS], variables) for variables in state.values())
    return sides, difference


def _difference(ours: Sequence[tf.Variable], theirs: Sequence[tf.Variable]) -> float:
    """Largest difference in a weight or in a signed factor γ.

    Not in log|γ|: that of a γ near 0 is as inexact as the subtraction 1 − α h that gave it.
    """

    def factor(log_gamma: tf.Variable, sign: tf.Variable) -> tf.Tensor:
        return tf.cast(sign, tf.float32) * tf.exp(log_gamma)

    return float(
        tf.maximum(
            tf.reduce_max(tf.abs(ours[0] - theirs[0])),
            tf.reduce_max(tf.abs(factor(*ours[1:]) - factor(*theirs[1:]))),
        )
    )


def _triad_gigabytes_per_second(threads: int) -> float:
    """The triad on arrays far larger than any cache; on a GPU as XLA compiles it."""
    size = 2**26
    if on_gpu():
        x, y = tf.ones([size]), tf.ones([size])
        call = tf.function(lambda: x + 3.0 * y, jit_compile=True)
    else:
        a, b, result = (np.ones(size, np.float32) for _ in range(3))
        call = partial(_native.triad, result, a, b, 3.0, threads)
    times = interleaved_seconds({"triad": call}, seconds=2)["triad"]
    return 12 * size / min(times) / 1e9


def run(out: Path, *, full: bool = True) -> list[Comparison]:
    """Runs the benchmark, in full or not; prints a table and writes gamma.json and gamma.png."""
    del full  # it takes less than a minute
    console = Console()
    bandwidth = _triad_gigabytes_per_second(environment()["threads"])
    rows = []
    for network, size in SIZES.items():
        sides, difference = _sides(size)
        if difference > 1e-5:
            msg = f"the sides disagree by {difference}; their times mean nothing"
            raise AssertionError(msg)
        medians = {
            name: median(t) for name, t in interleaved_seconds(sides, seconds=6, burst=10).items()
        }
        bound = BYTES_PER_WEIGHT * size / bandwidth / 1e9
        rows.append(
            {
                "network": network,
                "weights": size,
                "seconds": medians,
                "ratio_to_ours": {name: s / medians[OURS] for name, s in medians.items()},
                "triad_bound_seconds": bound,
                "fraction_of_bound": bound / medians[OURS],
                "largest_difference": difference,
            }
        )
    console.print(_table(rows, bandwidth))
    write_json(
        out / "gamma.json",
        {"benchmark": "gamma", "triad_gigabytes_per_second": bandwidth, "rows": rows},
    )
    _plot(rows, bandwidth).savefig(out / "gamma.png", dpi=150)
    console.print(f"[dim]{out / 'gamma.json'}, {out / 'gamma.png'}[/dim]")
    return [comparison for row in rows for comparison in _comparisons(row)]


def _comparisons(row: dict[str, Any]) -> list[Comparison]:
    seconds = row["seconds"]
    agrees = f"yes, {row['largest_difference']:.0e}"
    sides = [(LABELS[name], seconds[name], agrees) for name in LABELS if name != OURS]
    bound = ("the bound of the triad", row["triad_bound_seconds"], "–")
    return [
        Comparison("gamma", f"{row['weights']:,} weights", name, seconds[OURS], theirs, "s", how)
        for name, theirs, how in [*sides, bound]
    ]


def _table(rows: list[dict[str, Any]], bandwidth: float) -> Table:
    threads = environment()["threads"]
    table = Table(
        title="γ step: w −= α g, log|γ| += log|1 − α h|, sign",
        caption=f"Medians of calls in bursts of 10; float32, {threads} threads.\nSTREAM triad "
        f"{bandwidth:.1f} GB/s, counted at {BYTES_PER_WEIGHT} bytes a weight. All sides agree.",
    )
    table.add_column("weights", justify="right")
    table.add_column("side", no_wrap=True)
    table.add_column("ms", justify="right")
    table.add_column("ours faster by", justify="right")
    table.add_column("of triad", justify="right")
    for row in rows:
        for name, label in LABELS.items():
            seconds = row["seconds"][name]
            table.add_row(
                f"{row['weights']:,}" if name == OURS else "",
                f"[bold]{label}[/bold]" if name == OURS else label,
                f"{1e3 * seconds:.3f}",
                "" if name == OURS else f"{row['ratio_to_ours'][name]:.2f} ×",
                f"{row['triad_bound_seconds'] / seconds:.0%}",
                end_section=name == "eager",
            )
    return table


def _plot(rows: list[dict[str, Any]], bandwidth: float) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle("Time of one γ step (shorter is better)", fontsize=13)
    for axes, row in zip(figure.subplots(1, len(rows)), rows, strict=True):
        milliseconds = [1e3 * row["seconds"][name] for name in LABELS]
        colours = ["#c8553d" if name == OURS else "#9aa5b1" for name in LABELS]
        bars = axes.barh(list(LABELS.values()), milliseconds, color=colours)
        axes.bar_label(bars, fmt=" %.3g ms", fontsize=9)
        axes.axvline(1e3 * row["triad_bound_seconds"], color="#2f3e46", linestyle="--", linewidth=1)
        axes.set_title(f"{row['network']}: {row['weights']:,} weights", fontsize=11)
        axes.set_xlabel(f"ms; dashed: 24 bytes a weight at {bandwidth:.0f} GB/s", fontsize=9)
        axes.set_xlim(0, 1.22 * max(milliseconds))
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
        axes.label_outer()
    return figure
