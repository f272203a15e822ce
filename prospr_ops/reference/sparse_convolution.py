"""Twins of the sparse convolution ops: the filters are written out in full."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

_BLOCK = 16


def to_blocks(samples: tf.Tensor) -> tf.Tensor:
    """Twin of `prospr_ops.ops.to_blocks`.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> blocks = po.reference.to_blocks(tf.reshape(tf.range(34.0), [17, 2]))
        >>> blocks.shape.as_list(), blocks[1, :, 0].numpy().tolist()
        ([2, 2, 16], [32.0, 33.0])
    """
    shape = tf.shape(samples)
    missing = -shape[0] % _BLOCK
    whole = tf.concat([samples, tf.zeros(tf.concat([[missing], shape[1:]], 0), samples.dtype)], 0)
    blocks = tf.reshape(whole, tf.concat([[-1, _BLOCK], shape[1:]], 0))
    axes = tf.range(2, tf.rank(blocks))
    return tf.transpose(blocks, tf.concat([[0], axes, [1]], 0))


def from_blocks(blocks: tf.Tensor, samples: int) -> tf.Tensor:
    """Twin of `prospr_ops.ops.from_blocks`.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> blocks = po.reference.to_blocks(tf.constant([[1.0], [2.0]]))
        >>> po.reference.from_blocks(blocks, 2).numpy().tolist()
        [[1.0], [2.0]]
    """
    last = tf.rank(blocks) - 1
    whole = tf.transpose(blocks, tf.concat([[0, last], tf.range(1, last)], 0))
    return tf.reshape(whole, tf.concat([[-1], tf.shape(whole)[2:]], 0))[:samples]


def sparse_conv(
    image: tf.Tensor,
    weights: tf.Tensor,
    bias: tf.Tensor,
    taps: tf.Tensor,
    splits: tf.Tensor,
    kernel_size: Sequence[int],
    strides: Sequence[int] = (1, 1),
    dilations: Sequence[int] = (1, 1),
    padding: str = "valid",
    scale: tf.Tensor | None = None,
    residual: tf.Tensor | None = None,
    relu: bool = False,
    ceiling: float = math.inf,
) -> tf.Tensor:
    """Twin of `prospr_ops.ops.sparse_conv`.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> image = po.reference.to_blocks(tf.reshape([1.0, 10.0], [1, 1, 1, 2]))
        >>> weights, bias = tf.constant([3.0]), tf.constant([0.5, 0.0])
        >>> taps, splits = tf.constant([1]), tf.constant([0, 1, 1])  # filter 0 reads channel 1
        >>> output = po.reference.sparse_conv(image, weights, bias, taps, splits, (1, 1))
        >>> po.reference.from_blocks(output, 1).numpy().ravel().tolist()
        [30.5, 0.0]
    """
    samples = from_blocks(image, tf.shape(image)[0] * _BLOCK)
    filters = dense_filters(weights, taps, splits, kernel_size, tf.shape(image)[3])
    output = tf.nn.convolution(samples, filters, strides, padding.upper(), dilations=dilations)
    output = to_blocks(output * (1 if scale is None else scale) + bias)
    if residual is not None:
        output += residual
    return tf.minimum(tf.nn.relu(output), ceiling) if relu else output


def sparse_conv_small(
    image: tf.Tensor,
    weights: tf.Tensor,
    scale: tf.Tensor,
    bias: tf.Tensor,
    taps: tf.Tensor,
    splits: tf.Tensor,
    kernel_size: Sequence[int],
    strides: Sequence[int] = (1, 1),
    dilations: Sequence[int] = (1, 1),
    padding: str = "valid",
) -> tf.Tensor:
    """Twin of `prospr_ops.ops.sparse_conv_small`.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> image = tf.reshape([1.0, 10.0], [1, 1, 1, 2])
        >>> weights, scale, bias = tf.constant([3.0]), tf.constant([2.0, 1.0]), tf.constant([0.5, 0.0])
        >>> pattern = (tf.constant([1]), tf.constant([0, 1, 1]))  # filter 0 reads channel 1
        >>> output = po.reference.sparse_conv_small(image, weights, scale, bias, *pattern, (1, 1))
        >>> output.numpy().ravel().tolist()
        [60.5, 0.0]
    """
    filters = dense_filters(weights, taps, splits, kernel_size, tf.shape(image)[3])
    output = tf.nn.convolution(image, filters, strides, padding.upper(), dilations=dilations)
    return scale * output + bias


def sparse_conv_input_gradient(
    output_gradient: tf.Tensor,
    weights: tf.Tensor,
    transposed: Any,
    image_size: Sequence[int],
    kernel_size: Sequence[int],
    strides: Sequence[int] = (1, 1),
    dilations: Sequence[int] = (1, 1),
    padding: str = "valid",
) -> tf.Tensor:
    """Twin of `prospr_ops.ops.sparse_conv_input_gradient`.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> gradient = po.reference.to_blocks(tf.reshape([2.0, 5.0], [1, 1, 1, 2]))
        >>> pattern = po.ops.transposed_pattern([1], [0, 1, 1], channels=2)
        >>> by_image = po.reference.sparse_conv_input_gradient(
        ...     gradient, tf.constant([3.0]), pattern, (1, 1), (1, 1)
        ... )
        >>> po.reference.from_blocks(by_image, 1).numpy().ravel().tolist()
        [0.0, 6.0]
    """
    taps, splits, order = transposed
    blocks, _, _, filters, _ = output_gradient.shape
    channels = int(tf.size(splits)) - 1
    # Filters of the transpose, [i, j, filter, channel], and these turned round.
    kernel = dense_filters(tf.gather(weights, order), taps, splits, kernel_size, filters)
    kernel = tf.transpose(kernel, [0, 1, 3, 2])
    image = tf.zeros([blocks * _BLOCK, *image_size, channels], weights.dtype)
    with tf.GradientTape() as tape:
        tape.watch(image)
        output = tf.nn.convolution(image, kernel, strides, padding.upper(), dilations=dilations)
    by_output = from_blocks(output_gradient, blocks * _BLOCK)
    return to_blocks(tape.gradient(output, image, by_output))


def sparse_conv_filter_gradient(
    image: tf.Tensor,
    output_gradient: tf.Tensor,
    taps: tf.Tensor,
    splits: tf.Tensor,
    kernel_size: Sequence[int],
    strides: Sequence[int] = (1, 1),
    dilations: Sequence[int] = (1, 1),
    padding: str = "valid",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Twin of `prospr_ops.ops.sparse_conv_filter_gradient`.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> image = po.reference.to_blocks(tf.reshape([1.0, 10.0], [1, 1, 1, 2]))
        >>> gradient = po.reference.to_blocks(tf.reshape([2.0, 5.0], [1, 1, 1, 2]))
        >>> taps, splits = tf.constant([1]), tf.constant([0, 1, 1])  # filter 0 reads channel 1
        >>> by_weights, by_bias = po.reference.sparse_conv_filter_gradient(
        ...     image, gradient, taps, splits, (1, 1)
        ... )
        >>> by_weights.numpy().tolist(), by_bias.numpy().tolist()
        ([20.0], [2.0, 5.0])
    """
    weights = tf.zeros(tf.shape(taps), image.dtype)
    bias = tf.zeros([output_gradient.shape[3]], image.dtype)
    with tf.GradientTape() as tape:
        tape.watch([weights, bias])
        output = sparse_conv(
            image, weights, bias, taps, splits, kernel_size, strides, dilations, padding
        )
    return tuple(tape.gradient(output, [weights, bias], output_gradient))


def dense_filters(
    weights: tf.Tensor,
    taps: tf.Tensor,
    splits: tf.Tensor,
    kernel_size: Sequence[int],
    channels: int,
) -> tf.Tensor:
    """Writes out the filters of a pattern, zero where there is no weight.

    Args:
        weights: Weights of all filters, one after the other, ``[K]``.
        taps: Element of the image that each weight reads, ``[K]``, int32.
        splits: Range of weights of each filter, ``[F + 1]``, int32.
        kernel_size: Height and width of the filters.
        channels: Number of channels C of the image.

    Returns:
        The filters, ``[kernel_height, kernel_width, C, F]``.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> taps, splits = tf.constant([1]), tf.constant([0, 1, 1])  # filter 0 reads channel 1
        >>> po.reference.dense_filters(tf.constant([3.0]), taps, splits, (1, 1), 2).numpy().tolist()
        [[[[0.0, 0.0], [3.0, 0.0]]]]
    """
    filters = tf.size(splits) - 1
    filter_of = tf.repeat(tf.range(filters), splits[1:] - splits[:-1])
    height, width = kernel_size
    matrix = tf.scatter_nd(
        tf.stack([taps, filter_of], axis=1), weights, [height * width * channels, filters]
    )
    return tf.reshape(matrix, [height, width, channels, filters])
