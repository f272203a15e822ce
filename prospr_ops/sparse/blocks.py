"""What sparse layers compute, on blocks of samples, by our ops or by TensorFlow's own.

Blocks are `[blocks, ..., channels, 16]`: the samples of a block lie along the last axis (see
`prospr_ops.ops.sparse_conv`). Where our ops have no kernels, on a GPU, every function here computes
the same by the operations of TensorFlow, with the kernels written out in full.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from prospr_ops import ops, reference
from prospr_ops.ops.sparse_convolution import BLOCK
from prospr_ops.sparse.filters import Filters


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


def convolve(
    blocks: tf.Tensor,
    kept: tf.Tensor,
    bias: tf.Tensor,
    filters: Filters,
    constants: Any,
    **behind: Any,
) -> tf.Tensor:
    """The output of filters by our op, on blocks of images, with what lies behind them."""
    taps, splits, transposed = constants
    return ops.sparse_conv(
        blocks,
        kept,
        bias,
        taps,
        splits,
        filters.size,
        filters.strides,
        filters.dilations,
        filters.padding,
        transposed,
        **behind,
    )


def convolve_in_full(
    blocks: tf.Tensor,
    kept: tf.Tensor,
    bias: tf.Tensor,
    filters: Filters,
    places: tf.Tensor,
    *,
    scale: tf.Tensor | None = None,
    residual: tf.Tensor | None = None,
    relu: bool = False,
    ceiling: float = math.inf,
) -> tf.Tensor:
    """The same by TensorFlow's convolution."""
    kernel = tf.reshape(tf.scatter_nd(places, kept, [filters.mask.size]), filters.mask.shape)
    images = reference.from_blocks(blocks, tf.shape(blocks)[0] * BLOCK)
    padding = filters.padding.upper()
    if filters.depthwise:
        strides = (1, *filters.strides, 1)
        output = tf.nn.depthwise_conv2d(
            images, kernel, strides, padding, dilations=filters.dilations
        )
    else:
        output = tf.nn.convolution(
            images, kernel, filters.strides, padding, dilations=filters.dilations
        )
    output = reference.to_blocks((output if scale is None else output * scale) + bias)
    if residual is not None:
        output += residual
    return rectified(output, ceiling) if relu else output


def rectified(values: tf.Tensor, ceiling: float = math.inf) -> tf.Tensor:
    """A ReLU, with its largest result."""
    if ceiling == 6:
        return tf.nn.relu6(values)
    return tf.nn.relu(values) if math.isinf(ceiling) else tf.clip_by_value(values, 0, ceiling)


def normalise(
    blocks: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    epsilon: float,
    samples: tf.Tensor,
    residual: tf.Tensor | None = None,
    relu: bool = False,
    ceiling: float = math.inf,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Batch normalisation by the batch's own statistics, with the sum and the ReLU behind it.

    Args:
        blocks: Blocks of samples, `[blocks, ..., channels, 16]`.
        gamma: Scale of each channel.
        beta: Offset of each channel.
        epsilon: What is added to each variance.
        samples: Number of samples in the blocks.
        residual: What is added before the ReLU, or None.
        relu: Whether there is a ReLU.
        ceiling: Largest result of the ReLU.

    Returns:
        The normalised blocks, and mean and variance of each channel. Only the former has a gradient.
    """
    if needs_tensorflow():
        return normalise_in_full(blocks, gamma, beta, epsilon, samples, residual, relu, ceiling)
    mean, variance, moments = ops.block_moments(blocks, samples)
    y = ops.block_norm(blocks, gamma, beta, moments, epsilon, samples, residual, relu, ceiling)
    return y, tf.stop_gradient(mean), tf.stop_gradient(variance)


def normalise_in_full(
    blocks: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    epsilon: float,
    samples: tf.Tensor,
    residual: tf.Tensor | None = None,
    relu: bool = False,
    ceiling: float = math.inf,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The same by TensorFlow's operations."""
    values = reference.from_blocks(blocks, samples)
    mean, variance = tf.nn.moments(values, list(range(values.shape.rank - 1)))
    outputs = tf.nn.batch_normalization(values, mean, variance, beta, gamma, epsilon)
    if residual is not None:
        outputs += reference.from_blocks(residual, samples)
    outputs = reference.to_blocks(rectified(outputs, ceiling) if relu else outputs)
    return outputs, tf.stop_gradient(mean), tf.stop_gradient(variance)


def normalise_by(
    moments: tuple[tf.Tensor, tf.Tensor],
    blocks: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    epsilon: float,
    samples: tf.Tensor,
    residual: tf.Tensor | None = None,
    relu: bool = False,
    ceiling: float = math.inf,
) -> tf.Tensor:
    """Batch normalisation by given means and variances, which have no gradient."""
    mean, variance = moments

    def in_full(blocks: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *residual: Any) -> tf.Tensor:
        scale = gamma * tf.math.rsqrt(variance + epsilon)
        offset = beta - mean * scale
        outputs = blocks * scale[:, tf.newaxis] + offset[:, tf.newaxis]
        outputs = tf.add_n([outputs, *residual])
        return rectified(outputs, ceiling) if relu else outputs

    @tf.custom_gradient
    def normalised(*tensors: tf.Tensor) -> Any:
        def gradients(by_y: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                y = in_full(*tensors)
            return tape.gradient(y, tensors, by_y)

        values, scale, offset, *added = tensors
        both = tf.cast(tf.stack(moments), tf.float64)
        numbers = (scale, offset, both, epsilon, samples)
        behind = (next(iter(added), None), relu, ceiling)
        return ops.block_norm(values, *numbers, *behind), gradients

    tensors = [blocks, gamma, beta, *([] if residual is None else [residual])]
    return in_full(*tensors) if needs_tensorflow() else normalised(*tensors)
