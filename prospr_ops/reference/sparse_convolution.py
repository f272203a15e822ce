"""Twins of the sparse convolution ops: the filters are written out in full."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def sparse_conv(
    image: tf.Tensor,
    weights: tf.Tensor,
    bias: tf.Tensor,
    taps: tf.Tensor,
    splits: tf.Tensor,
    kernel_size: Sequence[int],
) -> tf.Tensor:
    """Twin of `prospr_ops.ops.sparse_conv`.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> image = tf.reshape(tf.constant([1.0, 10.0]), [1, 1, 2, 1])  # 2 channels, 1 sample
        >>> weights, bias = tf.constant([3.0]), tf.constant([0.5, 0.0])
        >>> taps, splits = tf.constant([1]), tf.constant([0, 1, 1])  # filter 0 reads channel 1
        >>> output = po.reference.sparse_conv(image, weights, bias, taps, splits, (1, 1))
        >>> output.numpy().ravel().tolist()
        [30.5, 0.0]
    """
    samples_first = tf.transpose(image, [3, 0, 1, 2])
    filters = _dense(weights, taps, splits, kernel_size, image.shape[2])
    output = tf.nn.conv2d(samples_first, filters, strides=1, padding="VALID") + bias
    return tf.transpose(output, [1, 2, 3, 0])


def sparse_conv_input_gradient(
    output_gradient: tf.Tensor,
    weights: tf.Tensor,
    taps: tf.Tensor,
    splits: tf.Tensor,
    kernel_size: Sequence[int],
    channels: int,
) -> tf.Tensor:
    """Twin of `prospr_ops.ops.sparse_conv_input_gradient`.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> gradient = tf.reshape(tf.constant([2.0, 5.0]), [1, 1, 2, 1])  # of 2 filters
        >>> taps, splits = tf.constant([1]), tf.constant([0, 1, 1])  # filter 0 reads channel 1
        >>> by_image = po.reference.sparse_conv_input_gradient(
        ...     gradient, tf.constant([3.0]), taps, splits, (1, 1), channels=2
        ... )
        >>> by_image.numpy().ravel().tolist()
        [0.0, 6.0]
    """
    rows, columns, filters, samples = output_gradient.shape
    height, width = kernel_size
    image = tf.zeros([rows + height - 1, columns + width - 1, channels, samples], weights.dtype)
    bias = tf.zeros([filters], weights.dtype)
    with tf.GradientTape() as tape:
        tape.watch(image)
        output = sparse_conv(image, weights, bias, taps, splits, kernel_size)
    return tape.gradient(output, image, output_gradient)


def sparse_conv_filter_gradient(
    image: tf.Tensor,
    output_gradient: tf.Tensor,
    taps: tf.Tensor,
    splits: tf.Tensor,
    kernel_size: Sequence[int],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Twin of `prospr_ops.ops.sparse_conv_filter_gradient`.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> image = tf.reshape(tf.constant([1.0, 10.0]), [1, 1, 2, 1])  # 2 channels, 1 sample
        >>> gradient = tf.reshape(tf.constant([2.0, 5.0]), [1, 1, 2, 1])  # of 2 filters
        >>> taps, splits = tf.constant([1]), tf.constant([0, 1, 1])  # filter 0 reads channel 1
        >>> by_weights, by_bias = po.reference.sparse_conv_filter_gradient(
        ...     image, gradient, taps, splits, (1, 1)
        ... )
        >>> by_weights.numpy().tolist(), by_bias.numpy().tolist()
        ([20.0], [2.0, 5.0])
    """
    weights = tf.zeros(tf.shape(taps), image.dtype)
    bias = tf.zeros([output_gradient.shape[2]], image.dtype)
    with tf.GradientTape() as tape:
        tape.watch([weights, bias])
        output = sparse_conv(image, weights, bias, taps, splits, kernel_size)
    return tuple(tape.gradient(output, [weights, bias], output_gradient))


def _dense(
    weights: tf.Tensor,
    taps: tf.Tensor,
    splits: tf.Tensor,
    kernel_size: Sequence[int],
    channels: int,
) -> tf.Tensor:
    """The filters [kernel_height, kernel_width, C, F], zero where there is no weight."""
    filters = tf.size(splits) - 1
    filter_of = tf.repeat(tf.range(filters), splits[1:] - splits[:-1])
    height, width = kernel_size
    matrix = tf.scatter_nd(
        tf.stack([taps, filter_of], axis=1), weights, [height * width * channels, filters]
    )
    return tf.reshape(matrix, [height, width, channels, filters])
