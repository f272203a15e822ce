"""Single layers of the benchmark `sparse`: ours, TensorFlow's dense ones, and sparse matrix products."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import tensorflow as tf

import prospr_ops as po
from benchmarks.harness import environment, interleaved_seconds, median
from prospr_ops.sparse import blocks
from prospr_ops.sparse.filters import Filters

SAMPLES = 128
# Channels before and after, and pixels, of the 3 x 3 convolutions of VGG-16 and ResNet-20; without
# pixels, dense layers.
LAYERS = (
    *((64, 64, 32), (64, 128, 16), (128, 128, 16), (128, 256, 8), (256, 256, 8)),
    *((256, 512, 4), (512, 512, 4), (512, 512, 2)),
    *((16, 16, 32), (32, 32, 16), (64, 64, 8)),
    *((784, 2048, 0), (2048, 2048, 0), (4096, 4096, 0)),
)
DENSITIES = (0.2, 0.1, 0.05, 0.02, 0.01)
# Edge of the matrices whose product is the bound.
BOUNDED = 2048


def difference_of(found: list[Any], expected: list[Any]) -> float:
    """The largest difference of an array, as a part of the largest element of that array."""
    return max(
        float(np.abs(a - b).max()) / max(float(np.abs(b).max()), 1e-30)
        for a, b in zip(found, expected, strict=True)
    )


def medians(calls: dict[str, Callable[[], Any]], seconds: float, rounds: int) -> dict[str, float]:
    """Median seconds of calls that take turns."""
    times = interleaved_seconds(calls, seconds=seconds, warmup=1, rounds=rounds)
    return {side: median(values) for side, values in times.items()}


def _name(channels: int, filters: int, pixels: int) -> str:
    if pixels:
        return f"3 × 3, {channels} → {filters}, {pixels} × {pixels} pixels"
    return f"Dense {channels} → {filters}"


def layer(channels: int, filters: int, pixels: int, density: float) -> dict[str, Any]:
    """Times forward and all gradients of a layer, dense, on blocks, and with the changes of layout.

    Returns:
        A row of the record.
    """
    random = np.random.default_rng(0)
    window, edge = ((3, 3), pixels) if pixels else ((1, 1), 1)
    mask = random.random((*window, channels, filters)) < density
    of_mask = Filters(mask, padding="same")
    image = tf.random.normal((SAMPLES, edge, edge, channels))
    kernel = np.where(mask, random.normal(0, 0.05, mask.shape), 0).astype(np.float32)
    upstream, bias = tf.random.normal((SAMPLES, edge, edge, filters)), tf.zeros(filters)
    constants = of_mask.constants()

    def dense(image: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        if pixels:
            return tf.nn.conv2d(image, kernel, 1, "SAME") + bias
        product = tf.reshape(image, [-1, channels]) @ tf.reshape(kernel, [channels, filters])
        return tf.reshape(product + bias, [-1, 1, 1, filters])

    def laid(images: tf.Tensor, kept: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        return blocks.convolve(images, kept, bias, of_mask, constants)

    def with_borders(image: tf.Tensor, kept: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        return po.ops.from_blocks(laid(po.ops.to_blocks(image), kept, bias), SAMPLES)

    def gradients(call: Callable[..., tf.Tensor], *inputs: tf.Tensor) -> Callable[[], Any]:
        @tf.function
        def compute(upstream: tf.Tensor, *inputs: tf.Tensor) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                output = call(*inputs)
            return output, tape.gradient(output, inputs, upstream)

        by = po.ops.to_blocks(upstream) if call is laid else upstream
        return lambda: [gradient.numpy() for gradient in compute(by, *inputs)[1]]

    kept = tf.constant(of_mask.kept(kernel))
    calls = {
        "dense": gradients(dense, image, tf.constant(kernel), bias),
        "sparse": gradients(laid, po.ops.to_blocks(image), kept, bias),
        "with borders": gradients(with_borders, image, kept, bias),
    }
    by_image, by_kernel, by_bias = calls["dense"]()
    expected = [by_image, of_mask.kept(by_kernel), by_bias]
    difference = difference_of(calls["with borders"](), expected)
    seconds = medians(calls, 0.3, 5)
    operations = 3 * 2 * int(mask.sum()) * SAMPLES * edge**2
    return {
        "layer": _name(channels, filters, pixels),
        "kept": density,
        "difference": difference,
        "seconds": seconds,
        "gigaflops": operations / seconds["sparse"] / 1e9,
    }


def product(channels: int, filters: int, density: float) -> dict[str, Any]:
    """Times the forward pass of a dense layer by all that multiplies with a sparse matrix.

    Returns:
        A row of the record.
    """
    random = np.random.default_rng(0)
    mask = random.random((channels, filters)) < density
    kernel = np.where(mask, random.normal(0, 0.05, mask.shape), 0).astype(np.float32)
    x, bias = tf.random.normal((SAMPLES, channels)), tf.zeros(filters)
    of_mask = Filters(mask[np.newaxis, np.newaxis])
    constants, kept = of_mask.constants(), tf.constant(of_mask.kept(kernel[np.newaxis, np.newaxis]))
    images = po.ops.to_blocks(tf.reshape(x, [SAMPLES, 1, 1, channels]))
    # The other libraries multiply the sparse matrix with columns of samples.
    matrix, columns = tf.sparse.from_dense(kernel.T), tf.transpose(x)
    calls: dict[str, Callable[[], Any]] = {
        "dense": lambda: tf.matmul(x, kernel).numpy(),
        "sparse": lambda: blocks.convolve(images, kept, bias, of_mask, constants).numpy(),
        "tf.sparse": lambda: tf.sparse.sparse_dense_matmul(matrix, columns).numpy(),
    }
    if find_spec("torch"):
        calls["PyTorch CSR"] = _in_torch(kernel, columns.numpy())
    expected = calls["dense"]()
    found = [po.ops.from_blocks(calls["sparse"](), SAMPLES).numpy().reshape(expected.shape)]
    found += [calls[side]().T for side in calls if side not in ("dense", "sparse")]
    return {
        "layer": _name(channels, filters, 0),
        "kept": density,
        "difference": max(difference_of([one], [expected]) for one in found),
        "seconds": medians(calls, 0.3, 5),
    }


def _in_torch(kernel: np.ndarray, columns: np.ndarray) -> Callable[[], np.ndarray]:
    import torch  # noqa: PLC0415 - an optional dependency

    torch.set_num_threads(environment()["threads"])
    with warnings.catch_warnings():  # that it is in beta state
        warnings.simplefilter("ignore", UserWarning)
        matrix = torch.from_numpy(np.ascontiguousarray(kernel.T)).to_sparse_csr()
    right = torch.from_numpy(columns)

    def multiply() -> np.ndarray:
        return (matrix @ right).numpy()

    return multiply


def bounds() -> dict[str, float]:
    """10⁹ operations per second of a matrix product, and 10⁹ bytes that all second-level caches move."""
    threads, size = environment()["threads"], 2**15
    square = tf.random.normal((BOUNDED, BOUNDED))
    one, other, result = (np.ones(size, np.float32) for _ in range(3))

    def sums() -> None:
        for _ in range(1000):
            np.add(one, other, out=result)

    times = medians({"product": lambda: tf.matmul(square, square).numpy()}, 1, 5)
    of_sums = min(interleaved_seconds({"sums": sums}, seconds=1)["sums"]) / 1000
    return {
        "matrix product": 2 * BOUNDED**3 / times["product"] / 1e9,
        "second-level cache": 12 * threads * size / of_sums / 1e9,
    }


def rows_of_layers(densities: tuple[float, ...]) -> list[dict[str, Any]]:
    """All layers."""
    return [layer(*shape, density) for shape in LAYERS for density in densities]


def rows_of_products(densities: tuple[float, ...]) -> list[dict[str, Any]]:
    """All dense layers."""
    shapes = [shape[:2] for shape in LAYERS if not shape[2]]
    return [partial(product, *shape)(density) for shape in shapes for density in densities]
