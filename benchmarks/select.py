"""Selection: how much faster than sorting, and in how much memory?

Ours is one op: from a list of tensors to a mask for each, with exactly the wanted number kept. The
other sides only find the smallest score that is kept, and are spared the rest: they get all scores
as one flat array, and write no masks. top_k and sort are TensorFlow's, partition is NumPy's; of 100
million scores, which take them minutes, the first two are left out. The scores are log|g| + log|w| + log|1 - α h| of normal g, w and h, with a scale of g and w for each tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import prospr_ops as po
from benchmarks.harness import (
    environment,
    forget_peak_memory,
    fresh_processes,
    interleaved_seconds,
    median,
    peak_megabytes,
    write_json,
)
from benchmarks.summary import Comparison

_VGG_CHANNELS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
_VGG = (*(9 * i * o for i, o in pairwise(_VGG_CHANNELS)), 512 * 10)
NETWORKS = {
    "LeNet-300-100": (784 * 300, 300 * 100, 100 * 10),
    "VGG-16": _VGG,
    "7 × VGG-16": 7 * _VGG,
}
KEPT = 0.1
OURS = "prospr_ops"
LABELS = {
    OURS: "prospr_ops",
    "partition": "np.partition",
    "top_k": "tf.math.top_k",
    "sort": "tf.sort",
}
# Of more scores than this they take minutes.
LARGEST = {"top_k": 50_000_000, "sort": 50_000_000}


def _scores(network: str) -> list[npt.NDArray[np.float32]]:
    random = np.random.default_rng(1)
    scores = []
    for size in NETWORKS[network]:
        gradient, weight, curvature = random.standard_normal((3, size), np.float32)
        scale = np.float32(random.normal(-8, 1))
        gamma = 1 - np.float32(0.1) * curvature
        with np.errstate(divide="ignore"):
            scores.append(scale + np.log(np.abs(gradient * weight)) + np.log(np.abs(gamma)))
    return scores


def _side(name: str, network: str) -> Callable[[], Any]:
    """A call that selects the best of the scores, which it holds in the form that it wants."""
    scores = _scores(network)
    size = sum(NETWORKS[network])
    keep = round(KEPT * size)
    if name == OURS:
        tensors = [tf.constant(array) for array in scores]
        return lambda: po.ops.select(tensors, keep)
    flat = np.concatenate(scores)
    if name == "partition":
        return lambda: np.partition(flat, size - keep)[size - keep]
    tensor = tf.constant(flat)
    if name == "top_k":
        return lambda: tf.math.top_k(tensor, keep).values[-1]
    return lambda: tf.sort(tensor)[size - keep]


def _check(network: str, results: dict[str, Any]) -> None:
    """Raises an error unless the masks hold just the scores that the others call the best."""
    keep = round(KEPT * sum(NETWORKS[network]))
    masks = [mask.numpy() for mask in results.pop(OURS)]
    pairs = list(zip(_scores(network), masks, strict=True))
    smallest_kept = min(scores[mask].min() for scores, mask in pairs if mask.any())
    largest_dropped = max(scores[~mask].max() for scores, mask in pairs if not mask.all())
    thresholds = {name: float(value) for name, value in results.items()}
    if (
        sum(np.count_nonzero(mask) for mask in masks) != keep
        or largest_dropped > smallest_kept
        or any(value != smallest_kept for value in thresholds.values())
    ):
        msg = f"{network}: ours keeps from {smallest_kept} on, the others from {thresholds}"
        raise AssertionError(msg)


def _peak(name: str, network: str) -> float:
    """Peak memory of a call over that of the process with the scores alone, in 10⁶ bytes."""
    side = _side(name, network)
    po.ops.select([tf.zeros(1)], 1)  # whatever a first call sets up
    forget_peak_memory()
    before = peak_megabytes()
    side()
    return peak_megabytes() - before


def _measure(network: str, pool: Pool) -> dict[str, Any]:
    """A row of the record."""
    size = sum(NETWORKS[network])
    names = [name for name in LABELS if size <= LARGEST.get(name, size)]
    sides = {name: _side(name, network) for name in names}
    _check(network, {name: side() for name, side in sides.items()})
    times = interleaved_seconds(sides, seconds=2, warmup=0, rounds=5)
    seconds = {name: median(values) for name, values in times.items()}
    return {
        "network": network,
        "tensors": len(NETWORKS[network]),
        "scores": size,
        "seconds": seconds,
        "ratio_to_ours": {name: s / seconds[OURS] for name, s in seconds.items()},
        "megabytes_beyond_scores": {name: pool.apply(_peak, (name, network)) for name in names},
    }


def run(out: Path, *, full: bool = True) -> list[Comparison]:
    """Runs the benchmark, in full or not; prints a table and writes select.json and select.png."""
    del full  # what would take long is always left out
    console = Console()
    with fresh_processes() as pool:
        rows = [_measure(network, pool) for network in NETWORKS]
    console.print(_table(rows))
    write_json(out / "select.json", {"benchmark": "select", "kept": KEPT, "rows": rows})
    _plot(rows).savefig(out / "select.png", dpi=150)
    console.print(f"[dim]{out / 'select.json'}, {out / 'select.png'}[/dim]")
    return [
        Comparison(
            "select",
            f"{row['scores']:,} scores",
            LABELS[name],
            row["seconds"][OURS],
            seconds,
            "s",
            "yes",
        )
        for row in rows
        for name, seconds in row["seconds"].items()
        if name != OURS
    ]


def _table(rows: list[dict[str, Any]]) -> Table:
    threads = environment()["threads"]
    table = Table(
        title=f"The best {KEPT:.0%} of all scores",
        caption=f"Medians of interleaved calls; float32, {threads} threads. Memory is the peak of one "
        "call in a process\nof its own beyond the scores. Ours writes masks, the others only find the "
        "smallest kept score; all agree.\nNot run: would take minutes.",
    )
    for heading in ("scores", "tensors"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("side", no_wrap=True)
    for heading in ("ms", "ours faster by", "+ MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        for name, label in LABELS.items():
            ours = name == OURS
            cells = (
                (
                    f"{1e3 * row['seconds'][name]:,.2f}",
                    "" if ours else f"{row['ratio_to_ours'][name]:.1f} ×",
                    f"{row['megabytes_beyond_scores'][name]:,.0f}",
                )
                if name in row["seconds"]
                else ("not run",)
            )
            table.add_row(
                f"{row['scores']:,}" if ours else "",
                str(row["tensors"]) if ours else "",
                f"[bold]{label}[/bold]" if ours else label,
                *cells,
                end_section=name == "sort",
            )
    return table


def _plot(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    figure.suptitle(f"Time to select the best {KEPT:.0%} (shorter is better)", fontsize=13)
    for axes, row in zip(figure.subplots(1, len(rows)), rows, strict=True):
        milliseconds = [1e3 * row["seconds"].get(name, np.nan) for name in LABELS]
        colours = ["#c8553d" if name == OURS else "#9aa5b1" for name in LABELS]
        bars = axes.barh(list(LABELS.values()), milliseconds, color=colours)
        axes.bar_label(
            bars,
            ["" if np.isnan(ms) else f" {ms:,.{1 if ms < 10 else 0}f} ms" for ms in milliseconds],
            fontsize=9,
        )
        axes.set_xscale("log")
        axes.set_title(f"{row['scores']:,} scores", fontsize=11)
        axes.set_xlabel("ms, logarithmic", fontsize=9)
        axes.set_xlim(np.nanmin(milliseconds) / 3, 12 * np.nanmax(milliseconds))
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
        axes.label_outer()
    return figure
