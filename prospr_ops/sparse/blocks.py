"""What sparse layers compute, on blocks of samples, by our ops or by TensorFlow's own.

Blocks are `[blocks, ..., channels, 16]`: the samples of a block lie along the last axis (see
`prospr_ops.ops.sparse_conv`). Where our ops have no kernels, on a GPU, every function here computes
the same by the operations of TensorFlow, with the kernels written out in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from prospr_ops import ops, reference
from prospr_ops.ops.sparse_convolution import BLOCK, TransposedPattern


def needs_tensorflow() -> bool:
    """Whether TensorFlow's operations must do it."""
    return bool(tf.config.list_logical_devices("GPU"))


def to_blocks(samples: tf.Tensor) -> tf.Tensor:
    """Lays the samples of a batch side by side."""
    module: Any = reference if needs_tensorflow() else ops
    return module.to_blocks(samples)


def from_blocks(blocks: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
    """The samples of blocks."""
    module: Any = reference if needs_tensorflow() else ops
    return module.from_blocks(blocks, samples)


@dataclass(frozen=True)
class Filters:
    """The pattern of a kernel `[height, width, channels, filters]` and how it moves.

    Attributes:
        mask: Boolean array in the kernel's shape, True for a weight that is kept.
        strides: By how much the filters move.
        dilations: Distance of neighbouring elements of a filter.
        padding: "valid" or "same".
    """

    mask: np.ndarray
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    padding: str = "valid"

    def __post_init__(self) -> None:
        """Refuses what indices of 32 bits cannot count."""
        if self.mask.size >= 2**31:
            msg = f"a kernel of shape {self.mask.shape} has more elements than indices of 32 bits count"
            raise ValueError(msg)

    def kept(self, kernel: np.ndarray) -> np.ndarray:
        """The weights that are kept, filter by filter."""
        return _by_filter(kernel)[_by_filter(self.mask)]

    def kernel(self, kept: np.ndarray) -> np.ndarray:
        """The kernel of these weights, zero elsewhere."""
        by_filter = np.zeros(_by_filter(self.mask).shape, kept.dtype)
        by_filter[_by_filter(self.mask)] = kept
        return by_filter.T.reshape(self.mask.shape)

    def constants(self) -> tuple[tf.Tensor, tf.Tensor, TransposedPattern]:
        """Taps, splits, and the transposed pattern, as eager tensors."""
        *_, channels, filters = self.mask.shape
        filter_of, taps = (axis.astype(np.int32) for axis in np.nonzero(_by_filter(self.mask)))
        counts = np.bincount(filter_of, minlength=filters)
        splits = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        order = np.argsort(taps % channels, kind="stable").astype(np.int32)
        by_channel = np.bincount(taps % channels, minlength=channels)
        with tf.init_scope(), tf.device("CPU"):
            transposed = TransposedPattern(
                tf.constant((taps // channels * filters + filter_of)[order]),
                tf.constant(np.concatenate([[0], np.cumsum(by_channel)]).astype(np.int32)),
                tf.constant(order),
            )
            return tf.constant(taps), tf.constant(splits), transposed

    def places(self) -> tf.Tensor:
        """Where in the flat kernel each kept weight lies."""
        filter_of, taps = np.nonzero(_by_filter(self.mask))
        with tf.init_scope():
            return tf.constant((taps * self.mask.shape[-1] + filter_of)[:, np.newaxis], tf.int32)


def _by_filter(kernel: np.ndarray) -> np.ndarray:
    """Each filter's elements in a row."""
    return kernel.reshape(-1, kernel.shape[-1]).T


def convolve(
    blocks: tf.Tensor, kept: tf.Tensor, bias: tf.Tensor, filters: Filters, constants: Any
) -> tf.Tensor:
    """The output of filters by our op, on blocks of images."""
    taps, splits, transposed = constants
    return ops.sparse_conv(
        blocks,
        kept,
        bias,
        taps,
        splits,
        filters.mask.shape[:2],
        filters.strides,
        filters.dilations,
        filters.padding,
        transposed,
    )


def convolve_in_full(
    blocks: tf.Tensor, kept: tf.Tensor, bias: tf.Tensor, filters: Filters, places: tf.Tensor
) -> tf.Tensor:
    """The same by TensorFlow's convolution."""
    kernel = tf.reshape(tf.scatter_nd(places, kept, [filters.mask.size]), filters.mask.shape)
    images = reference.from_blocks(blocks, tf.shape(blocks)[0] * BLOCK)
    output = tf.nn.convolution(
        images, kernel, filters.strides, filters.padding.upper(), dilations=filters.dilations
    )
    return reference.to_blocks(output + bias)


def normalise(
    blocks: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    epsilon: float,
    samples: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Batch normalisation by the batch's own statistics.

    Args:
        blocks: Blocks of samples, `[blocks, ..., channels, 16]`.
        gamma: Scale of each channel.
        beta: Offset of each channel.
        epsilon: What is added to each variance.
        samples: Number of samples in the blocks.

    Returns:
        The normalised blocks, and mean and variance of each channel. Only the former has a gradient.
    """
    if needs_tensorflow():
        return normalise_in_full(blocks, gamma, beta, epsilon, samples)
    channels = blocks.shape[-2]
    dtype = blocks.dtype

    def occupied(values: tf.Tensor) -> tf.Tensor:
        """Zero where there is no sample."""
        lanes = tf.range(tf.shape(values)[0] * BLOCK) < samples
        shape = [-1, *[1] * (values.shape.rank - 2), BLOCK]
        return tf.where(tf.reshape(lanes, shape), values, tf.zeros([], dtype))

    def masked(values: tf.Tensor) -> tf.Tensor:
        return tf.cond(tf.equal(samples % BLOCK, 0), lambda: values, lambda: occupied(values))

    def per_channel(lanes: tf.Tensor) -> tf.Tensor:
        """Sums over the lanes of each channel."""
        return tf.reduce_sum(tf.reshape(lanes, [-1, channels, BLOCK]), axis=-1)

    def per_lane(values: tf.Tensor) -> tf.Tensor:
        return tf.repeat(values, BLOCK, axis=-1)

    @tf.custom_gradient
    def normalised(blocks: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> Any:
        # To our ops each lane of each channel is a channel; here its moments become its channel's.
        shape = tf.shape(blocks)
        x = tf.reshape(masked(blocks), [-1, channels * BLOCK])
        rows = tf.cast(tf.shape(x)[0], tf.float64)
        count = tf.cast(tf.shape(x)[0] // shape[0] * samples, tf.float64)
        lane_mean, lane_variance = tf.unstack(ops.batch_moments(x)[-1])
        powers = per_channel(tf.stack([lane_mean, lane_variance + lane_mean**2])) * rows / count
        mean, variance = powers[0], tf.maximum(powers[1] - powers[0] ** 2, 0)
        moments = per_lane(tf.stack([mean, variance]))
        scale, offset = per_lane(gamma), per_lane(beta)
        y = tf.reshape(ops.batch_norm(x, scale, offset, moments, epsilon), shape)
        y.set_shape(blocks.shape)

        def gradients(by_y: tf.Tensor, *_: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            g = tf.reshape(by_y, [-1, channels * BLOCK])
            by_x, *by_lanes = ops.batch_norm_gradient(g, x, scale, moments, epsilon)
            sums = tf.cast(tf.stack(by_lanes), tf.float64)
            by_channels = per_channel(sums)
            # The op took each lane's own means from the gradient; they should be the channel's.
            slope = tf.cast(scale, tf.float64) * tf.math.rsqrt(moments[1] + epsilon)
            excess = tf.cast((sums / rows - per_lane(by_channels) / count) * slope, dtype)
            by_x += ops.batch_norm(x, excess[0], excess[1], moments, epsilon)
            by_gamma, by_beta = tf.unstack(tf.cast(by_channels, dtype))
            return masked(tf.reshape(by_x, shape)), by_gamma, by_beta

        return (y, tf.cast(mean, dtype), tf.cast(variance, dtype)), gradients

    return normalised(blocks, gamma, beta)


def normalise_in_full(
    blocks: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float, samples: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The same by TensorFlow's operations."""
    values = reference.from_blocks(blocks, samples)
    mean, variance = tf.nn.moments(values, list(range(values.shape.rank - 1)))
    outputs = reference.to_blocks(
        tf.nn.batch_normalization(values, mean, variance, beta, gamma, epsilon)
    )
    return outputs, tf.stop_gradient(mean), tf.stop_gradient(variance)
