"""Measures what layers cost dense and sparse, and fits the numbers of prospr_ops/sparse/costs.py.

    python tools/measure_costs.py [--write]

One core and its own time, so that what else runs on the machine counts little. Prints how far the fitted
model is from each measurement; with --write it puts the numbers into the file.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from prospr_ops import ops
from prospr_ops.sparse import blocks, costs
from prospr_ops.sparse.blocks import Filters

COSTS = Path(__file__).resolve().parents[1] / "prospr_ops" / "sparse" / "costs.py"
SAMPLES = 128
# Edge of the filters, channels, filters, pixels.
IMAGES = (
    *((3, 3, 16, 32), (3, 16, 16, 32), (3, 32, 32, 16), (3, 64, 64, 8), (3, 64, 64, 32)),
    *((3, 128, 128, 16), (3, 256, 256, 8), (1, 32, 192, 12), (1, 96, 576, 6), (1, 256, 1024, 8)),
)
NARROW = ((3, 256, 512, 4), (3, 512, 512, 4), (3, 512, 512, 2), (3, 64, 64, 4))
PRODUCTS = ((1, 784, 2048, 1), (1, 2048, 2048, 1), (1, 300, 100, 1), (1, 800, 500, 1))
DENSITIES = (0.4, 0.1, 0.02)
NORMALISED = ((16, 32), (64, 32), (64, 8), (512, 4))

Numbers = tuple[float, ...]


def seconds_of(call: Callable[[], Any]) -> float:
    """The least seconds of this process's own time that a call takes."""
    call()
    times: list[float] = []
    start = time.time()
    while len(times) < 4 or time.time() - start < 0.4:
        before = time.process_time()
        call()
        times.append(time.process_time() - before)
    return min(times)


def _gradients(call: Callable[..., tf.Tensor], inputs: list[tf.Tensor]) -> Callable[[], Any]:
    upstream = tf.ones_like(call(*inputs))

    @tf.function
    def compute(*inputs: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = call(*inputs)
        return output, tape.gradient(output, inputs, upstream)

    return lambda: compute(*inputs)


def measure(edge: int, channels: int, filters: int, pixels: int) -> list[dict[str, Any]]:
    """Seconds of one layer, dense and at each density."""
    image = tf.random.normal((SAMPLES, pixels, pixels, channels))
    kernel = tf.random.normal((edge, edge, channels, filters))

    def dense(image: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        if pixels > 1:
            return tf.nn.conv2d(image, kernel, 1, "SAME")
        return tf.reshape(image, [SAMPLES, channels]) @ tf.reshape(kernel, [channels, filters])

    rows = [{"kept": 1.0, "seconds": seconds_of(_gradients(dense, [image, kernel]))}]
    laid = ops.to_blocks(image)
    for density in DENSITIES:
        mask = np.random.default_rng(0).random(kernel.shape) < density
        of_mask = Filters(mask, padding="same")
        constants = of_mask.constants()
        inputs = [laid, tf.constant(of_mask.kept(kernel.numpy())), tf.zeros(filters)]

        def sparse(*inputs: tf.Tensor, of: Any = (of_mask, constants)) -> tf.Tensor:
            return blocks.convolve(*inputs, *of)

        rows.append({"kept": density, "seconds": seconds_of(_gradients(sparse, inputs))})
    weights = edge * edge * channels * filters
    for row in rows:
        row["features"] = (
            SAMPLES * pixels * pixels * weights * row["kept"] / 1e12,
            SAMPLES * pixels * pixels * (channels + filters) / 1e12,
            weights * row["kept"] / 1e12,
            1e-6,
        )
        row["layer"] = f"{edge} × {edge}, {channels} → {filters}, {pixels} pixels"
    return rows


def fit(rows: list[dict[str, Any]]) -> Numbers:
    """The numbers, none below 0, whose seconds are nearest to the measured ones, relatively."""
    a = np.array([row["features"] for row in rows]) / np.array([[row["seconds"]] for row in rows])
    used = list(range(a.shape[1]))
    while True:
        found, *_ = np.linalg.lstsq(a[:, used], np.ones(len(a)), rcond=None)
        if (found >= 0).all():
            break
        used.remove(used[int(np.argmin(found * a[:, used].mean(0)))])
    numbers = np.zeros(a.shape[1])
    numbers[used] = found
    for row in rows:
        expected = float(np.dot(row["features"], numbers))
        sys.stdout.write(
            f"{row['layer']:34} {row['kept']:5.0%} {1e3 * row['seconds']:8.2f} ms, model "
            f"{expected / row['seconds']:.2f} ×\n"
        )
    return tuple(float(f"{number:.3g}") for number in numbers)


def _per_element(call: Callable[[], Any], elements: int) -> float:
    return seconds_of(call) / elements * 1e12


def passes() -> dict[str, float]:
    """Nanoseconds per 1,000 elements of what lies between layers."""
    found: dict[str, list[float]] = {
        "_BORDER": [],
        "_NORMALISATION": [],
        "_NORMALISATION_OF_BLOCKS": [],
    }
    for channels, pixels in NORMALISED:
        x = tf.random.normal((SAMPLES, pixels, pixels, channels))
        size, laid = int(tf.size(x)), ops.to_blocks(x)
        layer, relu = keras.layers.BatchNormalization(), keras.layers.ReLU()
        layer.build(x.shape)
        numbers = [tf.ones(channels), tf.zeros(channels)]

        def there_and_back(x: tf.Tensor) -> tf.Tensor:
            return ops.from_blocks(ops.to_blocks(x), SAMPLES)

        def plain(x: tf.Tensor, layer: Any = layer, relu: Any = relu) -> tf.Tensor:
            return relu(layer(x, training=True))

        def of_blocks(laid: tf.Tensor, *numbers: tf.Tensor) -> tf.Tensor:
            return blocks.normalise(laid, *numbers, 1e-3, tf.constant(SAMPLES), None, True)[0]

        for name, call, inputs in (
            ("_BORDER", there_and_back, [x]),
            ("_NORMALISATION", plain, [x]),
            ("_NORMALISATION_OF_BLOCKS", of_blocks, [laid, *numbers]),
        ):
            found[name].append(_per_element(_gradients(call, inputs), size))
    # There and back are two borders.
    return {
        name: float(f"{np.median(values) / (2 if name == '_BORDER' else 1):.3g}")
        for name, values in found.items()
    }


def main() -> None:
    """Measures, fits, prints and, if it is asked to, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"change {COSTS.name}")
    write = parser.parse_args().write
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    images, narrow, products = (
        [row for shape in shapes for row in measure(*shape)]
        for shapes in (IMAGES, NARROW, PRODUCTS)
    )
    numbers: dict[str, Any] = {
        "_DENSE_CONVOLUTION": fit([r for r in images + narrow if r["kept"] == 1]),
        "_DENSE_PRODUCT": fit([r for r in products if r["kept"] == 1]),
        "_SPARSE": fit([r for r in images + products if r["kept"] < 1]),
        "_SPARSE_NARROW": fit([r for r in narrow if r["kept"] < 1]),
        **passes(),
    }
    text = COSTS.read_text()
    for name, value in numbers.items():
        sys.stdout.write(f"{name} = {value}\n")
        text = re.sub(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
    if write:
        COSTS.write_text(text)
    sys.stdout.write(f"with a margin of {costs.MARGIN}\n")


if __name__ == "__main__":
    main()
