"""Twins of the ops of batch normalisation: one formula, which TensorFlow differentiates."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def batch_moments(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Twin of `prospr_ops.ops.batch_moments`: means over all axes but the last, in float64.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> mean, variance, _ = po.reference.batch_moments(tf.constant([[1.0], [3.0]]))
        >>> mean.numpy().tolist(), variance.numpy().tolist()
        ([2.0], [1.0])
    """
    wide = tf.cast(x, tf.float64)
    rows = list(range(x.shape.rank - 1))
    mean = tf.reduce_mean(wide, rows)
    variance = tf.reduce_mean(tf.square(wide - mean), rows)
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype), tf.stack([mean, variance])


def batch_norm(
    x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, moments: Any, epsilon: Any
) -> tf.Tensor:
    """Twin of `prospr_ops.ops.batch_norm`, in float64; the moments are computed again from x.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> x = tf.constant([[1.0], [3.0]])
        >>> po.reference.batch_norm(x, tf.ones(1), tf.zeros(1), None, 0.0).numpy().tolist()
        [[-1.0], [1.0]]
    """
    del moments
    mean, variance = tf.unstack(batch_moments(x)[-1])
    wide, by, to = (tf.cast(tensor, tf.float64) for tensor in (x, scale, offset))
    epsilon = tf.convert_to_tensor(epsilon, tf.float64)
    return tf.cast((wide - mean) * by / tf.sqrt(variance + epsilon) + to, x.dtype)


def batch_norm_gradient(
    y_gradient: tf.Tensor, x: tf.Tensor, scale: tf.Tensor, moments: Any, epsilon: Any
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Twin of `prospr_ops.ops.batch_norm_gradient`: a tape over the formula.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> x = tf.constant([[1.0], [3.0]])
        >>> gradients = po.reference.batch_norm_gradient(x, x, tf.ones(1), None, 0.0)
        >>> [gradient.numpy().tolist() for gradient in gradients]
        [[[0.0], [0.0]], [2.0], [4.0]]
    """
    offset = tf.zeros_like(scale)
    with tf.GradientTape() as tape:
        tape.watch([x, scale, offset])
        y = batch_norm(x, scale, offset, moments, epsilon)
    return tuple(tape.gradient(y, [x, scale, offset], y_gradient))


def batch_norm_second_gradient(
    u: tf.Tensor,
    u_scale: tf.Tensor,
    u_offset: tf.Tensor,
    y_gradient: tf.Tensor,
    x: tf.Tensor,
    scale: tf.Tensor,
    moments: Any,
    epsilon: Any,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Twin of `prospr_ops.ops.batch_norm_second_gradient`: a tape over the gradient's twin.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> x, u = tf.constant([[1.0], [3.0]]), tf.zeros([2, 1])
        >>> by_y_gradient, by_x, by_scale = po.reference.batch_norm_second_gradient(
        ...     u, tf.zeros(1), tf.ones(1), x, x, tf.ones(1), None, 0.0
        ... )
        >>> by_y_gradient.numpy().tolist()  # offset's gradient is the sum of y's
        [[1.0], [1.0]]
    """
    given = [y_gradient, x, scale]
    with tf.GradientTape() as tape:
        tape.watch(given)
        gradients = batch_norm_gradient(y_gradient, x, scale, moments, epsilon)
    return tuple(tape.gradient(gradients, given, [u, u_scale, u_offset]))
