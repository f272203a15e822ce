"""Sparse: what do layers, training steps and inference cost by the weights that were kept alone?

Layers: forward and all gradients on a batch of 128, by TensorFlow's dense operation and by our op, on
blocks and with the changes of layout before and after. The rates in prospr_ops/sparse/costs.py are
fitted to such rows. Networks: a step of training and inference by the dense model, the model with masks and what
`prospr_ops.sparsify` makes of it, with its own choice of layers. The masks are random.
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
from prospr_ops.sparse import blocks
from prospr_ops.sparse.blocks import Filters
from prospr_ops.sparse.layers import SparseLayer

SAMPLES = 128
# Channels and pixels of the 3 x 3 convolutions of VGG-16 and ResNet-20, and one dense layer.
LAYERS = (
    *((64, 32), (128, 16), (256, 8), (512, 4), (512, 2)),
    *((16, 32), (32, 16), (64, 8), (2048, 0)),
)
DENSITIES = (0.2, 0.1, 0.05, 0.02, 0.01)
NETWORKS = (("mlp", 0.02), ("lenet5_caffe", 0.02), ("resnet20", 0.1), ("vgg16", 0.1))
BATCHES = (1, 16, 128)
# The largest difference of a gradient, as a part of the largest of its array.
_TOLERANCE = 1e-3


def _layer(channels: int, pixels: int, density: float) -> dict[str, Any]:
    random = np.random.default_rng(0)
    window = (3, 3) if pixels else (1, 1)
    mask = random.random((*window, channels, channels)) < density
    filters = Filters(mask, padding="same")
    image = tf.random.normal((SAMPLES, pixels or 1, pixels or 1, channels))
    kernel = np.where(mask, random.normal(0, 0.05, mask.shape), 0).astype(np.float32)
    upstream, bias = tf.random.normal(image.shape), tf.zeros(channels)
    constants = filters.constants()

    def gradients(call: Callable[..., tf.Tensor], *inputs: tf.Tensor) -> Callable[[], Any]:
        @tf.function
        def compute(upstream: tf.Tensor, *inputs: tf.Tensor) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                output = call(*inputs)
            return tape.gradient(output, inputs, upstream)

        by = po.ops.to_blocks(upstream) if call is laid else upstream
        return lambda: [gradient.numpy() for gradient in compute(by, *inputs)]

    def dense(image: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        if pixels:
            return tf.nn.conv2d(image, kernel, 1, "SAME") + bias
        product = tf.reshape(image, [-1, channels]) @ tf.reshape(kernel, [channels, channels])
        return tf.reshape(product + bias, tf.shape(image))

    def laid(images: tf.Tensor, kept: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        return blocks.convolve(images, kept, bias, filters, constants)

    def with_borders(image: tf.Tensor, kept: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        return po.ops.from_blocks(laid(po.ops.to_blocks(image), kept, bias), SAMPLES)

    kept = tf.constant(filters.kept(kernel))
    calls = {
        "dense": gradients(dense, image, tf.constant(kernel), bias),
        "sparse": gradients(laid, po.ops.to_blocks(image), kept, bias),
        "with borders": gradients(with_borders, image, kept, bias),
    }
    by_image, by_kernel, by_bias = calls["dense"]()
    difference = _difference(calls["with borders"](), [by_image, filters.kept(by_kernel), by_bias])
    times = interleaved_seconds(calls, seconds=0.8, warmup=1, rounds=4)
    name = f"3 x 3, {channels} channels, {pixels} x {pixels}" if pixels else f"Dense {channels}"
    return {
        "layer": name,
        "kept": density,
        "difference": difference,
        "seconds": {side: median(values) for side, values in times.items()},
    }


def _difference(found: list[Any], expected: list[Any]) -> float:
    return max(
        float(np.abs(a - b).max()) / max(float(np.abs(b).max()), 1e-30)
        for a, b in zip(found, expected, strict=True)
    )


def _network(name: str) -> keras.Model:
    keras.utils.set_random_seed(1)
    if name != "mlp":
        return getattr(po.models, name)()
    dense = keras.layers.Dense
    hidden = [dense(2048, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((784,)), *hidden, dense(10)])


def _models(name: str, density: float) -> dict[str, keras.Model]:
    dense, masked = _network(name), _network(name)
    random = np.random.default_rng(0)
    kernels = [layer.kernel for layer in masked.layers if hasattr(layer, "kernel")]
    po.apply_masks(masked, {v.path: random.random(v.shape) < density for v in kernels})
    fast = po.sparsify(masked, batch_size=SAMPLES, verbose=0)
    return {"dense": dense, "masked": masked, "sparse": fast}


def _whole(name: str, density: float, batches: tuple[int, ...]) -> list[dict[str, Any]]:
    models = _models(name, density)
    shape = models["dense"].input_shape[1:]
    x = np.random.default_rng(0).normal(size=(SAMPLES, *shape)).astype(np.float32)
    y = np.arange(SAMPLES) % 10
    difference = _difference([models["sparse"](x)], [models["masked"](x)])
    common = {
        "network": name,
        "kept": density,
        "difference": difference,
        "sparse layers": sum(isinstance(part, SparseLayer) for part in models["sparse"].layers),
    }
    rows = []
    for batch in batches:
        calls = {side: _inference(model, x[:batch]) for side, model in models.items()}
        rows.append({**common, "what": f"inference, batch {batch}", "seconds": _medians(calls)})
    for model in models.values():
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    # Keras waits for the loss of each step.
    calls = {side: _step(model, x, y) for side, model in models.items()}
    rows.append({**common, "what": f"step, batch {SAMPLES}", "seconds": _medians(calls)})
    return rows


def _inference(model: keras.Model, x: np.ndarray) -> Callable[[], Any]:
    compute, x = tf.function(lambda x: model(x, training=False)), tf.constant(x)
    return lambda: compute(x).numpy()


def _step(model: keras.Model, x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    return lambda: model.train_on_batch(x, y)


def _medians(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    times = interleaved_seconds(calls, seconds=1.0, warmup=2, rounds=5)
    return {side: median(values) for side, values in times.items()}


def run(out: Path, *, full: bool = True) -> list[Comparison]:
    """Runs the benchmark; prints tables and writes sparse.json."""
    console = Console()
    if on_gpu():
        console.print("[dim]sparse: its ops are for CPUs[/dim]")
        return []
    densities = DENSITIES if full else (0.1, 0.02)
    layers = [_layer(*shape, density) for shape in LAYERS for density in densities]
    console.print(_table("Forward and gradients of a layer", "layer", layers))
    networks = [
        row for network in NETWORKS for row in _whole(*network, BATCHES if full else BATCHES[-1:])
    ]
    console.print(_table("Networks", "network", networks))
    record = {"benchmark": "sparse", "samples": SAMPLES, "layers": layers, "networks": networks}
    write_json(out / "sparse.json", record)
    console.print(f"[dim]{out / 'sparse.json'}[/dim]")
    wrong = [row for row in [*layers, *networks] if not row["difference"] <= _TOLERANCE]
    if wrong:
        msg = f"sparse: results are off by {wrong[0]['difference']:g}: {wrong[0]}"
        raise AssertionError(msg)
    return [
        Comparison(
            "sparse",
            f"{row.get('layer') or row['network'] + ', ' + row['what']}, {row['kept']:.0%} kept",
            "dense",
            row["seconds"]["sparse"],
            row["seconds"]["dense"],
            "s",
            f"yes, {row['difference']:.0e}",
        )
        for row in [*layers, *networks]
    ]


def _table(title: str, first: str, rows: list[dict[str, Any]]) -> Table:
    sides = list(rows[0]["seconds"])
    caption = f"Medians of alternating calls in ms, {environment()['threads']} threads"
    table = Table(title=title, caption=caption)
    for heading in (first, "", "kept", *sides, "dense / sparse"):
        table.add_column(heading, justify="right" if heading in (*sides, "kept") else "left")
    for row in rows:
        seconds = row["seconds"]
        table.add_row(
            row[first],
            row.get("what", ""),
            f"{row['kept']:.0%}",
            *(f"{1e3 * seconds[side]:.2f}" for side in sides),
            f"{seconds['dense'] / seconds['sparse']:.2f}",
        )
    return table
