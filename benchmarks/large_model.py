"""What does it take to prune a large model: VGG16 of keras.applications, 138 million weights?

Images of 224 × 224 in batches of four, three steps, random weights and data, which is all that memory
depends on. Every method runs in a process of its own; its peak is compared with an account, on paper, of
what it has to hold, in copies of the weights.
"""

from __future__ import annotations

import time
from math import prod
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import prospr_ops as po
from benchmarks.harness import (
    environment,
    forget_peak_memory,
    fresh_processes,
    peak_megabytes,
    write_json,
)

BATCH = 4
STEPS = 3
# By method: its options, and the copies of the weights that it holds, beside the model's, through the
# run and, besides, in a step.
METHODS: dict[str, tuple[dict[str, Any], float, float]] = {
    "first_order": ({}, 1, 1),  # weights that move; the gradient
    # Weights that move, log γ in four bytes and its sign in one; the gradient and the curvature. Of
    # 1000 classes, all columns of the closed form would take hours.
    "diagonal": ({"curvature": "ggn_mc"}, 2.25, 2),
}
# The logarithm of the last gradient and the scores.
AT_THE_END = 2


def _measure(method: str) -> dict[str, Any]:
    """A row of the record, in 10⁶ bytes."""
    options, through, in_step = METHODS[method]
    keras.utils.set_random_seed(0)
    model = keras.applications.VGG16(weights=None, classifier_activation=None)
    random = np.random.default_rng(0)
    samples = BATCH * (STEPS + 1)
    x = random.standard_normal((samples, *model.input_shape[1:]), "float32")
    y = random.integers(0, model.output_shape[-1], samples)
    forget_peak_memory()
    before = peak_megabytes()
    start = time.perf_counter()
    result = po.prune(
        model,
        (x, y),
        sparsity=0.9,
        method=method,
        steps=STEPS,
        batch_size=BATCH,
        learning_rate=0.01,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        seed=0,
        verbose=0,
        **options,
    )
    seconds = time.perf_counter() - start
    peak = peak_megabytes()
    sizes = [4 * weight.numpy().size / 1e6 for weight in model.trainable_variables]
    activations = sum(4 * BATCH * prod(layer.output.shape[1:]) for layer in model.layers) / 1e6
    account = {
        "before": before,
        "through the run": through * sum(sizes),
        "in a step": in_step * sum(sizes) + activations,
        # An operation has its operand and its result, of which the largest kernel's are the largest.
        "at the end": AT_THE_END * sum(sizes) + 2 * max(sizes),
    }
    return {
        "method": method,
        "weights": result.weights,
        "megabytes_peak": peak,
        "account": account,
        "seconds": seconds,
    }


def run(out: Path, *, full: bool = True) -> list[object]:
    """Runs the study; prints a table and writes large_model.json. It has no row in the summary."""
    del full  # it is never shortened
    console = Console()
    with fresh_processes() as pool:
        rows = [pool.apply(_measure, (method,)) for method in METHODS]
    console.print(_table(rows))
    write_json(out / "large_model.json", {"benchmark": "large_model", "rows": rows})
    console.print(f"[dim]{out / 'large_model.json'}[/dim]")
    return []


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        title=f"VGG16 at 224 × 224, {rows[0]['weights']:,} weights, batch {BATCH}, {STEPS} steps",
        caption=f"10⁶ bytes of the whole process; float32, {environment()['threads']} threads.",
    )
    for heading in ("method", *rows[0]["account"], "account", "peak", "s"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for row in rows:
        before, through, *either = row["account"].values()
        figures = (before, through, *either, before + through + max(either), row["megabytes_peak"])
        table.add_row(row["method"], *(f"{f:,.0f}" for f in (*figures, row["seconds"])))
    return table
