"""Batch normalisation by the statistics of the batch, and its first two gradients: one op each.

Each reads its tensors once for the sums per channel and once for what it computes of each element.
They can be differentiated to any order; from the third derivative on TensorFlow's own operations do it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.eager.record import record_operation, stop_recording

from prospr_ops import reference
from prospr_ops.ops._library import library, raises_value_error


@raises_value_error
def batch_moments(x: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Mean and variance of each channel, over all axes but the last.

    The same bits for every number of threads.

    Args:
        x: ``[..., C]`` with at least one element, float32 or float64.

    Returns:
        Mean and variance (a mean of squares), each ``[C]`` and of x's dtype, and both once more in
        float64, ``[2, C]``, for `batch_norm` and its gradients.

    Raises:
        ValueError: x has no axis or no elements.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> mean, variance, _ = po.ops.batch_moments(tf.constant([[1.0], [3.0]]))
        >>> mean.numpy().tolist(), variance.numpy().tolist()
        ([2.0], [1.0])
    """
    return tuple(library.prospr_batch_moments(x))


@raises_value_error
def batch_norm(x: Any, scale: Any, offset: Any, moments: Any, epsilon: float) -> tf.Tensor:
    """Batch normalisation: ``scale * (x - mean) / sqrt(variance + epsilon) + offset``.

    Its gradient at x is that through the moments too, and its gradient at them is None. The same bits
    for every number of threads.

    Args:
        x: ``[..., C]`` with at least one element, float32 or float64.
        scale: ``[C]``, of x's dtype.
        offset: ``[C]``, of x's dtype.
        moments: Mean and variance of x, ``[2, C]`` and float64: the last result of `batch_moments`.
        epsilon: Number that is added to the variance.

    Returns:
        The normalised tensor, in the shape of x.

    Raises:
        ValueError: The shapes do not fit together, or x has no elements.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> x = tf.constant([[1.0], [3.0]])
        >>> moments = po.ops.batch_moments(x)[-1]
        >>> po.ops.batch_norm(x, tf.ones(1), tf.zeros(1), moments, 0.0).numpy().tolist()
        [[-1.0], [1.0]]
    """
    x, scale, offset, moments = map(tf.convert_to_tensor, (x, scale, offset, moments))

    def pullback(by_y: tf.Tensor) -> list[tf.Tensor | None]:
        return [*batch_norm_gradient(by_y, x, scale, moments, epsilon), None]

    inputs = [x, scale, offset, moments]
    return _recorded(library.prospr_batch_norm, inputs, epsilon, pullback)


@raises_value_error
def batch_norm_gradient(
    y_gradient: Any, x: Any, scale: Any, moments: Any, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The gradients of `batch_norm`, at x through the moments too.

    The same bits for every number of threads.

    Args:
        y_gradient: Gradient at what `batch_norm` gives, ``[..., C]``, float32 or float64.
        x: In the shape of y_gradient, and of its dtype.
        scale: ``[C]``, of x's dtype.
        moments: Mean and variance of x, ``[2, C]`` and float64: the last result of `batch_moments`.
        epsilon: Number that is added to the variance.

    Returns:
        The gradients at x, in its shape, and at scale and offset, each ``[C]``.

    Raises:
        ValueError: The shapes do not fit together, or x has no elements.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> x = tf.constant([[1.0], [3.0]])
        >>> moments = po.ops.batch_moments(x)[-1]
        >>> gradients = po.ops.batch_norm_gradient(x, x, tf.ones(1), moments, 0.0)
        >>> [gradient.numpy().tolist() for gradient in gradients]
        [[[0.0], [0.0]], [2.0], [4.0]]
    """
    y_gradient, x, scale, moments = map(tf.convert_to_tensor, (y_gradient, x, scale, moments))

    def pullback(*u: tf.Tensor) -> list[tf.Tensor | None]:
        by_x, by_scale, by_offset = u
        others = y_gradient, x, scale, moments, epsilon
        return [*batch_norm_second_gradient(by_x, by_scale, by_offset, *others), None]

    inputs = [y_gradient, x, scale, moments]
    return tuple(_recorded(library.prospr_batch_norm_gradient, inputs, epsilon, pullback))


@raises_value_error
def batch_norm_second_gradient(
    u: Any,
    u_scale: Any,
    u_offset: Any,
    y_gradient: Any,
    x: Any,
    scale: Any,
    moments: Any,
    epsilon: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The gradients of `batch_norm_gradient`, at x through the moments too.

    They are those of ``sum(u * x_gradient) + sum(u_scale * scale_gradient) + sum(u_offset *
    offset_gradient)``. The same bits for every number of threads.

    Args:
        u: Gradient at the first result of `batch_norm_gradient`, ``[..., C]``, float32 or float64.
        u_scale: Gradient at the second, ``[C]``, of u's dtype.
        u_offset: Gradient at the third, ``[C]``, of u's dtype.
        y_gradient: In the shape of u, and of its dtype.
        x: In the shape of u, and of its dtype.
        scale: ``[C]``, of u's dtype.
        moments: Mean and variance of x, ``[2, C]`` and float64: the last result of `batch_moments`.
        epsilon: Number that is added to the variance.

    Returns:
        The gradients at y_gradient and at x, in their shape, and at scale, ``[C]``.

    Raises:
        ValueError: The shapes do not fit together, or x has no elements.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> x, u = tf.constant([[1.0], [3.0]]), tf.zeros([2, 1])
        >>> moments = po.ops.batch_moments(x)[-1]
        >>> by_y_gradient, by_x, by_scale = po.ops.batch_norm_second_gradient(
        ...     u, tf.zeros(1), tf.ones(1), x, x, tf.ones(1), moments, 0.0
        ... )
        >>> by_y_gradient.numpy().tolist()  # offset's gradient is the sum of y's
        [[1.0], [1.0]]
    """
    return tuple(
        library.prospr_batch_norm_second_gradient(
            u, u_scale, u_offset, y_gradient, x, scale, moments, epsilon
        )
    )


def _recorded(
    op: Callable[..., Any],
    inputs: list[tf.Tensor],
    epsilon: float,
    pullback: Callable[..., list[tf.Tensor | None]],
) -> Any:
    """Calls an op so that an eager tape keeps what its gradient needs.

    Of an op that TensorFlow does not know, an eager tape keeps all outputs. In a graph nothing is kept
    that is not used, and the registered gradient is asked for.
    """
    if not tf.executing_eagerly():
        return op(*inputs, epsilon)
    with stop_recording():
        results = op(*inputs, epsilon)
    outputs = [results] if isinstance(results, tf.Tensor) else [*results]
    record_operation(op.__name__, outputs, inputs, pullback)
    return results


@tf.RegisterGradient("Prospr>BatchMoments")
def _moments_gradient(
    op: tf.Operation, by_mean: tf.Tensor, by_variance: tf.Tensor, by_both: tf.Tensor
) -> tf.Tensor:
    x, mean = op.inputs[0], op.outputs[0]
    by_mean, by_variance = (
        by + tf.cast(more, x.dtype)
        for by, more in zip((by_mean, by_variance), tf.unstack(by_both), strict=True)
    )
    rows = tf.cast(tf.size(x) // tf.size(mean), x.dtype)
    return (by_mean + 2.0 * by_variance * (x - mean)) / rows


@tf.RegisterGradient("Prospr>BatchNorm")
def _norm_gradient(op: tf.Operation, by_y: tf.Tensor) -> list[tf.Tensor | None]:
    x, scale, _, moments, epsilon = op.inputs
    return [*library.prospr_batch_norm_gradient(by_y, x, scale, moments, epsilon), None, None]


@tf.RegisterGradient("Prospr>BatchNormGradient")
def _second_gradient(op: tf.Operation, *u: tf.Tensor) -> list[tf.Tensor | None]:
    return [*library.prospr_batch_norm_second_gradient(*u, *op.inputs), None, None]


@tf.RegisterGradient("Prospr>BatchNormSecondGradient")
def _third_gradient(op: tf.Operation, *upstream: tf.Tensor) -> list[tf.Tensor | None]:
    *inputs, moments, epsilon = op.inputs
    u, u_scale, u_offset, y_gradient, x, scale = inputs
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        results = reference.batch_norm_second_gradient(
            u, u_scale, u_offset, y_gradient, x, scale, moments, epsilon
        )
    gradients = tape.gradient(results, inputs, upstream, tf.UnconnectedGradients.ZERO)
    return [*gradients, None, None]
