"""Shrinking: what does a network cost before and after half of its channels are gone?

Channels are pruned by magnitude, half of those of each layer (structure="channel", scope="layer"), in
the networks of `po.models` and of keras.applications with random weights, which is all that cost
depends on. FLOPs are two for each multiply-add with a kernel's weight, for one sample; the file is a
.keras archive without optimizer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import prospr_ops as po
from benchmarks.harness import environment, interleaved_seconds, median, write_json
from benchmarks.summary import Comparison
from prospr_ops.pruning.flops import model_flops

SPARSITY = 0.5


def _application(name: str) -> Callable[[], keras.Model]:
    return lambda: getattr(keras.applications, name)(weights=None, classifier_activation=None)


# By name: a network, and the samples of a batch.
NETWORKS: dict[str, tuple[Callable[[], keras.Model], int]] = {
    "LeNet-300-100": (po.models.lenet_300_100, 128),
    "LeNet-5": (po.models.lenet5, 128),
    "ResNet-20": (po.models.resnet20, 64),
    "VGG-16": (po.models.vgg16, 16),
    "ResNet50": (_application("ResNet50"), 4),
    "MobileNetV2": (_application("MobileNetV2"), 4),
    "DenseNet121": (_application("DenseNet121"), 4),
}


# Those that a run of all benchmarks has time for.
SHORT = ("LeNet-300-100", "LeNet-5", "ResNet-20", "VGG-16")


def _megabytes(model: keras.Model) -> float:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        model.save(file)
        return file.stat().st_size / 1e6


def _call(model: keras.Model, x: tf.Tensor) -> Callable[[], Any]:
    function = tf.function(lambda x: model(x, training=False))
    return lambda: function(x).numpy()


def _measure(network: str) -> dict[str, Any]:
    """A row of the record."""
    make, samples = NETWORKS[network]
    keras.utils.set_random_seed(1)
    model = make()
    po.prune(
        model,
        None,
        sparsity=SPARSITY,
        method="magnitude",
        structure="channel",
        scope="layer",
        verbose=0,
    )
    sides = {"before": model, "after": po.shrink(model)}
    x = tf.random.normal((samples, *model.input_shape[1:]))
    calls = {name: _call(side, x) for name, side in sides.items()}
    outputs = {name: call() for name, call in calls.items()}
    difference = float(np.abs(outputs["after"] - outputs["before"]).max())
    if difference > 1e-5 * max(1.0, float(np.abs(outputs["before"]).max())):
        msg = f"{network}: the shrunk model's outputs are off by {difference:g}"
        raise AssertionError(msg)
    times = interleaved_seconds(calls, seconds=2, warmup=1, rounds=5)
    return {
        "network": network,
        "batch": samples,
        "difference": difference,
        "parameters": {name: side.count_params() for name, side in sides.items()},
        "flops": {name: model_flops(side) for name, side in sides.items()},
        "seconds": {name: median(values) for name, values in times.items()},
        "megabytes": {name: _megabytes(side) for name, side in sides.items()},
    }


def run(out: Path, *, full: bool = True) -> list[Comparison]:
    """Runs the benchmark, in full or not; prints a table and writes shrink.json."""
    console = Console()
    rows = [_measure(network) for network in (NETWORKS if full else SHORT)]
    console.print(_table(rows))
    write_json(out / "shrink.json", {"benchmark": "shrink", "sparsity": SPARSITY, "rows": rows})
    console.print(f"[dim]{out / 'shrink.json'}[/dim]")
    return [
        Comparison(
            "shrink",
            f"{row['network']}, batch {row['batch']}",
            "before",
            row["seconds"]["after"],
            row["seconds"]["before"],
            "s",
            f"yes, {row['difference']:.0e}",
        )
        for row in rows
    ]


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        title=f"Before and after shrinking, {SPARSITY:.0%} of each layer's channels pruned",
        caption=f"Medians of interleaved calls, {environment()['threads']} threads. The outputs are the "
        "same up to rounding.",
    )
    table.add_column("network", no_wrap=True)
    columns = {
        "parameters": ("parameters, 10³", 1e-3),
        "flops": ("MFLOPs a sample", 1e-6),
        "seconds": ("ms a batch", 1e3),
        "megabytes": ("file, MB", 1.0),
    }
    for heading, _ in columns.values():
        table.add_column(heading, justify="right")
    for row in rows:
        cells = [
            f"{row[name]['before'] * unit:,.4g} → {row[name]['after'] * unit:,.4g}"
            for name, (_, unit) in columns.items()
        ]
        table.add_row(f"{row['network']}, batch {row['batch']}", *cells)
    return table
