"""Twins of the ops that max-pooling and its derivatives are built from."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def max_pool(image: tf.Tensor, window: Sequence[int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Twin of `prospr_ops.ops.max_pool`, for images without NaN.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> image = tf.reshape(tf.constant([1.0, 5.0, 2.0, 3.0]), [1, 2, 2, 1])
        >>> maxima, positions = po.reference.max_pool(image, (2, 2))
        >>> maxima.numpy().item(), positions.numpy().item()
        (5.0, 1)
    """
    elements = _elements(image, window)
    positions = tf.cast(tf.argmax(elements, axis=-1), tf.uint8)
    return tf.reduce_max(elements, axis=-1), positions


def max_unpool(
    values: tf.Tensor, positions: tf.Tensor, window: Sequence[int], size: Sequence[int]
) -> tf.Tensor:
    """Twin of `prospr_ops.ops.max_unpool`: writes out every window and pads the rest.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> values = tf.fill([1, 1, 1, 1], 7.0)
        >>> positions = tf.fill([1, 1, 1, 1], tf.constant(1, tf.uint8))
        >>> image = po.reference.max_unpool(values, positions, (2, 2), (2, 2))
        >>> image[0, :, :, 0].numpy().tolist()
        [[0.0, 7.0], [0.0, 0.0]]
    """
    height, width = window
    samples, rows, columns, channels = values.shape
    elements = values[..., tf.newaxis] * _one_hot(positions, window, values.dtype)
    tiles = tf.reshape(elements, [samples, rows, columns, channels, height, width])
    image = tf.reshape(
        tf.transpose(tiles, [0, 1, 4, 2, 5, 3]),
        [samples, rows * height, columns * width, channels],
    )
    return tf.pad(
        image, [[0, 0], [0, size[0] - rows * height], [0, size[1] - columns * width], [0, 0]]
    )


def gather_pooled(image: tf.Tensor, positions: tf.Tensor, window: Sequence[int]) -> tf.Tensor:
    """Twin of `prospr_ops.ops.gather_pooled`: sums over every window.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> image = tf.reshape(tf.constant([1.0, 5.0, 2.0, 3.0]), [1, 2, 2, 1])
        >>> positions = tf.fill([1, 1, 1, 1], tf.constant(2, tf.uint8))
        >>> po.reference.gather_pooled(image, positions, (2, 2)).numpy().item()
        2.0
    """
    return tf.reduce_sum(
        _elements(image, window) * _one_hot(positions, window, image.dtype), axis=-1
    )


def _elements(image: tf.Tensor, window: Sequence[int]) -> tf.Tensor:
    """The windows [N, H // h, W // w, C, h * w]."""
    height, width = window
    samples, rows, columns, channels = image.shape
    rows, columns = rows // height, columns // width
    tiles = tf.reshape(
        image[:, : rows * height, : columns * width],
        [samples, rows, height, columns, width, channels],
    )
    elements = tf.transpose(tiles, [0, 1, 3, 5, 2, 4])
    return tf.reshape(elements, [samples, rows, columns, channels, height * width])


def _one_hot(positions: tf.Tensor, window: Sequence[int], dtype: tf.DType) -> tf.Tensor:
    return tf.one_hot(positions, window[0] * window[1], dtype=dtype)
