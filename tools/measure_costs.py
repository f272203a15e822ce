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
from prospr_ops.sparse.filters import Filters

COSTS = Path(__file__).resolve().parents[1] / "prospr_ops" / "sparse" / "costs.py"
SAMPLES = 128
# Edge of the filters, channels, filters, pixels.
IMAGES = (
    *((3, 3, 16, 32), (3, 16, 16, 32), (3, 32, 32, 16), (3, 64, 64, 8), (3, 64, 64, 32)),
    *((3, 128, 128, 16), (3, 256, 256, 8)),
)
POINTWISE = (
    *((1, 24, 144, 24), (1, 144, 24, 24), (1, 32, 192, 12), (1, 576, 96, 6), (1, 96, 576, 6)),
    (1, 256, 1024, 8),
)
# Channels, pixels, and by how many of them the filters move.
DEPTHWISE = ((96, 24, 1), (192, 12, 1), (576, 6, 1), (960, 3, 1), (96, 48, 2), (144, 24, 2))
NARROW = ((3, 256, 512, 4), (3, 512, 512, 4), (3, 512, 512, 2), (3, 64, 64, 4))
PRODUCTS = ((1, 784, 2048, 1), (1, 2048, 2048, 1), (1, 300, 100, 1), (1, 800, 500, 1))
DENSITIES = (0.4, 0.1, 0.02)
# Few weights of such a layer are pruned: each filter has nine.
DEPTHWISE_DENSITIES = (0.999, 0.5, 0.1)
NORMALISED = ((16, 32), (64, 32), (64, 8), (512, 4))

Numbers = tuple[float, ...]
Rows = list[dict[str, Any]]


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


def _forward(call: Callable[..., tf.Tensor], inputs: list[tf.Tensor]) -> Callable[[], Any]:
    @tf.function
    def compute(*inputs: tf.Tensor) -> tf.Tensor:
        return call(*inputs)

    return lambda: compute(*inputs)


def _gradients(call: Callable[..., tf.Tensor], inputs: list[tf.Tensor]) -> Callable[[], Any]:
    upstream = tf.ones_like(call(*inputs))

    @tf.function
    def compute(*inputs: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = call(*inputs)
        return output, tape.gradient(output, inputs, upstream)

    return lambda: compute(*inputs)


# How a step of each kind is made of an operation.
STEPS = {"TRAINING": _gradients, "INFERENCE": _forward}


def _times(call: Callable[..., tf.Tensor], inputs: list[tf.Tensor]) -> dict[str, float]:
    """Seconds of each kind of step."""
    return {kind: seconds_of(step(call, inputs)) for kind, step in STEPS.items()}


def measure(edge: int, channels: int, filters: int, pixels: int) -> Rows:
    """Seconds of one layer, dense and at each density."""
    image = tf.random.normal((SAMPLES, pixels, pixels, channels))
    kernel = tf.random.normal((edge, edge, channels, filters))

    def dense(image: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        if pixels > 1:
            return tf.nn.conv2d(image, kernel, 1, "SAME")
        return tf.reshape(image, [SAMPLES, channels]) @ tf.reshape(kernel, [channels, filters])

    rows = [{"kept": 1.0, "seconds": _times(dense, [image, kernel])}]
    laid = ops.to_blocks(image)
    for density in DENSITIES:
        mask = np.random.default_rng(0).random(kernel.shape) < density
        of_mask = Filters(mask, padding="same")
        constants = of_mask.constants()
        inputs = [laid, tf.constant(of_mask.kept(kernel.numpy())), tf.zeros(filters)]

        def sparse(*inputs: tf.Tensor, of: Any = (of_mask, constants)) -> tf.Tensor:
            return blocks.convolve(*inputs, *of)

        rows.append({"kept": density, "seconds": _times(sparse, inputs)})
    for row in rows:
        weights = edge * edge * channels * filters * row["kept"]
        row["features"] = _features(pixels, weights, channels + filters)
        row["layer"] = f"{edge} × {edge}, {channels} → {filters}, {pixels} pixels"
    return rows


def measure_depthwise(channels: int, pixels: int, stride: int) -> Rows:
    """Seconds of a depthwise convolution, dense and at each density."""
    image, kernel = (
        tf.random.normal(shape)
        for shape in ((SAMPLES, pixels, pixels, channels), (3, 3, channels, 1))
    )

    def dense(image: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.nn.depthwise_conv2d(image, kernel, [1, stride, stride, 1], "SAME")

    def features(kept: float) -> Numbers:
        return _features(pixels // stride, 9 * channels * kept, channels * (stride**2 + 1))

    layer = f"depthwise 3 × 3, {channels}, {pixels} pixels, by {stride}"
    times = _times(dense, [image, kernel])
    rows = [{"layer": layer, "kept": 1.0, "features": features(1.0), "seconds": times}]
    laid = ops.to_blocks(image)
    for density in DEPTHWISE_DENSITIES:
        mask = np.random.default_rng(0).random(kernel.shape) < density
        of_mask = Filters(mask, (stride, stride), padding="same", depthwise=True)
        constants = of_mask.constants()
        inputs = [laid, tf.constant(of_mask.kept(kernel.numpy())), tf.zeros(channels)]

        def sparse(*inputs: tf.Tensor, of: Any = (of_mask, constants)) -> tf.Tensor:
            return blocks.convolve(*inputs, *of)

        times = _times(sparse, inputs)
        rows.append(
            {"layer": layer, "kept": density, "features": features(density), "seconds": times}
        )
    return rows


def _features(pixels: int, weights: float, elements: int) -> Numbers:
    positions = SAMPLES * pixels * pixels
    return positions * weights / 1e12, positions * elements / 1e12, weights / 1e12, 1e-6


def fit(rows: Rows, kind: str) -> Numbers:
    """The numbers, none below 0, whose seconds are nearest to the measured ones, relatively."""
    seconds = np.array([[row["seconds"][kind]] for row in rows])
    a = np.array([row["features"] for row in rows]) / seconds
    used = list(range(a.shape[1]))
    while True:
        found, *_ = np.linalg.lstsq(a[:, used], np.ones(len(a)), rcond=None)
        if (found >= 0).all():
            break
        used.remove(used[int(np.argmin(found * a[:, used].mean(0)))])
    numbers = np.zeros(a.shape[1])
    numbers[used] = found
    for row in rows:
        expected, measured = float(np.dot(row["features"], numbers)), row["seconds"][kind]
        sys.stdout.write(
            f"{kind:9} {row['layer']:34} {row['kept']:5.0%} {1e3 * measured:8.2f} ms, model "
            f"{expected / measured:.2f} ×\n"
        )
    return tuple(float(f"{number:.3g}") for number in numbers)


def passes() -> dict[str, dict[str, float]]:
    """Nanoseconds per 1,000 elements of what lies between layers, by the kind of step."""
    found: dict[str, dict[str, list[float]]] = {kind: {} for kind in STEPS}
    for channels, pixels in NORMALISED:
        x = tf.random.normal((SAMPLES, pixels, pixels, channels))
        size, laid = int(tf.size(x)), ops.to_blocks(x)
        layer, relu = keras.layers.BatchNormalization(), keras.layers.ReLU()
        layer.build(x.shape)
        numbers = [tf.ones(channels), tf.zeros(channels)]

        def there_and_back(x: tf.Tensor) -> tf.Tensor:
            return ops.from_blocks(ops.to_blocks(x), SAMPLES)

        for kind, step in STEPS.items():
            training = kind == "TRAINING"

            def plain(
                x: tf.Tensor, layer: Any = layer, relu: Any = relu, training: bool = training
            ) -> tf.Tensor:
                return relu(layer(x, training=training))

            def of_blocks(
                laid: tf.Tensor, *numbers: tf.Tensor, training: bool = training
            ) -> tf.Tensor:
                given = (laid, *numbers, 1e-3, tf.constant(SAMPLES), None, True)
                if training:
                    return blocks.normalise(*given)[0]
                return blocks.normalise_by((numbers[1], numbers[0]), *given)

            for name, call, inputs, times in (
                ("border", there_and_back, [x], 2),  # there and back are two borders
                ("normalisation", plain, [x], 1),
                ("normalisation_of_blocks", of_blocks, [laid, *numbers], 1),
            ):
                per_element = seconds_of(step(call, inputs)) / size * 1e12 / times
                found[kind].setdefault(name, []).append(per_element)
    return {
        kind: {name: float(f"{np.median(values):.3g}") for name, values in numbers.items()}
        for kind, numbers in found.items()
    }


def main() -> None:
    """Measures, fits, prints and, if it is asked to, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"change {COSTS.name}")
    write = parser.parse_args().write
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    images, pointwise, narrow, products = (
        [row for shape in shapes for row in measure(*shape)]
        for shapes in (IMAGES, POINTWISE, NARROW, PRODUCTS)
    )
    depthwise = [row for shape in DEPTHWISE for row in measure_depthwise(*shape)]
    between = passes()
    text = COSTS.read_text()
    for kind in STEPS:
        numbers: dict[str, Any] = {
            "convolution": fit([r for r in images + narrow if r["kept"] == 1], kind),
            "pointwise": fit([r for r in pointwise if r["kept"] == 1], kind),
            "product": fit([r for r in products if r["kept"] == 1], kind),
            "depthwise": fit([r for r in depthwise if r["kept"] == 1], kind),
            "sparse": fit([r for r in images + pointwise + products if r["kept"] < 1], kind),
            "narrow": fit([r for r in narrow if r["kept"] < 1], kind),
            "sparse_depthwise": fit([r for r in depthwise if r["kept"] < 1], kind),
            **between[kind],
        }
        rows = "".join(f"    {name}={value},\n" for name, value in numbers.items())
        found = f"{kind} = Costs(\n{rows})\n"
        sys.stdout.write(found)
        text = re.sub(rf"(?ms)^{kind} = Costs\(\n.*?^\)\n", found, text)
    if write:
        COSTS.write_text(text)
    sys.stdout.write(f"with a margin of {costs.MARGIN}\n")


if __name__ == "__main__":
    main()
