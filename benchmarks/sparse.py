"""Sparse: what does a step of training a pruned network cost by the weights that were kept alone?

The gradients of the loss on a batch of 100, which is nearly all of a step, by the masked Keras model and
by what `prospr_ops.sparsify` makes of it. The masks are SNIP's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import prospr_ops as po
from benchmarks.harness import environment, interleaved_seconds, median, on_gpu, write_json
from benchmarks.summary import Comparison
from prospr_ops.sparse.blocks import Filters
from prospr_ops.sparse.layers import filters_of

SAMPLES = 100
NETWORKS = ("lenet_300_100", "lenet5_caffe")
SPARSITIES = (0.9, 0.98, 0.99)


def _gradients(model: keras.Model, x: tf.Tensor, y: tf.Tensor) -> Callable[[], Any]:
    """By the model's variables, of which the masked model has more."""

    @tf.function
    def gradients(x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        return tape.gradient(loss, [variable.value for variable in model.trainable_variables])

    return lambda: [gradient.numpy() for gradient in gradients(x, y)]


def _measure(network: str, sparsity: float) -> dict[str, Any]:
    """A row of the record."""
    keras.utils.set_random_seed(1)
    masked = getattr(po.models, network)()
    x = tf.random.normal((SAMPLES, *masked.input_shape[1:]))
    y = tf.random.uniform((SAMPLES,), maxval=10, dtype=tf.int32)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    scores = po.score(masked, (x.numpy(), y.numpy()), method="snip", loss=loss, verbose=0)
    masks = po.select(scores, sparsity)
    po.apply_masks(masked, masks)
    fast = po.sparsify(masked, layers="all", batch_size=SAMPLES, verbose=0)
    calls = {"sparse": _gradients(fast, x, y), "masked": _gradients(masked, x, y)}
    filters = [
        filters_of(layer, layer.kernel_constraint.mask.numpy())
        for layer in masked.layers
        if hasattr(layer, "kernel")
    ]
    difference = _difference(calls["sparse"](), calls["masked"](), filters)
    if not difference <= 1e-4:
        msg = f"{network}: the gradients of the kept weights are off by {difference:g}"
        raise AssertionError(msg)
    times = interleaved_seconds(calls, seconds=2, warmup=1, rounds=5)
    return {
        "network": network,
        "sparsity": sparsity,
        "batch": SAMPLES,
        "difference": difference,
        "seconds": {name: median(values) for name, values in times.items()},
    }


def _difference(
    sparse: list[np.ndarray], masked: list[np.ndarray], filters: list[Filters]
) -> float:
    """The largest of all kernels and biases, each as a part of its largest gradient."""
    kept = [
        pattern.kept(kernel.reshape(pattern.mask.shape))
        for kernel, pattern in zip(masked[::2], filters, strict=True)
    ]
    pairs = zip([*sparse[::2], *sparse[1::2]], [*kept, *masked[1::2]], strict=True)
    return max(float(np.abs(a - b).max()) / float(np.abs(b).max()) for a, b in pairs)


def run(out: Path, *, full: bool = True) -> list[Comparison]:
    """Runs the benchmark; prints a table and writes sparse.json."""
    del full  # there is no short form of it
    console = Console()
    if on_gpu():
        console.print("[dim]sparse: its ops are for CPUs[/dim]")
        return []
    rows = [_measure(network, sparsity) for network in NETWORKS for sparsity in SPARSITIES]
    console.print(_table(rows))
    write_json(out / "sparse.json", {"benchmark": "sparse", "rows": rows})
    console.print(f"[dim]{out / 'sparse.json'}[/dim]")
    return [
        Comparison(
            "sparse",
            f"{row['network']}, {row['sparsity']:.0%} pruned",
            "masked model",
            row["seconds"]["sparse"],
            row["seconds"]["masked"],
            "s",
            f"yes, {row['difference']:.0e}",
        )
        for row in rows
    ]


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        title=f"Gradients of a pruned network, batch {SAMPLES}",
        caption=f"Medians of interleaved calls, {environment()['threads']} threads. The gradients of the kept "
        "weights are the same up to rounding.",
    )
    table.add_column("network", no_wrap=True)
    for heading in ("pruned", "masked, ms", "sparse, ms", "ratio"):
        table.add_column(heading, justify="right")
    for row in rows:
        masked, sparse = row["seconds"]["masked"], row["seconds"]["sparse"]
        table.add_row(
            row["network"],
            f"{row['sparsity']:.0%}",
            f"{1e3 * masked:.2f}",
            f"{1e3 * sparse:.2f}",
            f"{masked / sparse:.1f}",
        )
    return table
