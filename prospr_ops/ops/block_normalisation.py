"""Batch normalisation of blocks of samples, with the sum and the ReLU behind it, and its gradient.

Blocks are those of `to_blocks`. Between two sparse layers normalisation, sum and ReLU are most of what
is read and written, so each of them is one pass here. `block_norm` can be differentiated once. All are
for CPUs: there are no kernels for a GPU.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from prospr_ops.ops._library import library, raises_value_error


@raises_value_error
def block_moments(x: Any, samples: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Mean and variance of each channel of blocks of samples.

    The same bits for every number of threads. It has no gradient: that of `block_norm` at x is the one
    through the moments too.

    Args:
        x: Blocks of samples, ``[ceil(samples / 16), ..., C, 16]``, with at least one element, float32
            or float64.
        samples: Number of samples, at least 1; what lies behind the last one does not count.

    Returns:
        Mean and variance (a mean of squares), each ``[C]`` and of x's dtype, and both once more in
        float64, ``[2, C]``, for `block_norm` and its gradient.

    Raises:
        ValueError: There are not as many blocks as the samples have, or no elements.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> x = po.ops.to_blocks(tf.constant([[1.0], [3.0]]))
        >>> mean, variance, _ = po.ops.block_moments(x, 2)
        >>> mean.numpy().tolist(), variance.numpy().tolist()
        ([2.0], [1.0])
    """
    return tuple(library.prospr_block_moments(x, samples))


@raises_value_error
def block_norm(
    x: Any,
    scale: Any,
    offset: Any,
    moments: Any,
    epsilon: float,
    samples: Any,
    residual: Any = None,
    relu: bool = False,
    ceiling: float = math.inf,
) -> tf.Tensor:
    """``scale * (x - mean) / sqrt(variance + epsilon) + offset + residual``, and its ReLU.

    Its gradient at x is that through the moments too, and its gradient at them is None. The same bits
    for every number of threads.

    Args:
        x: Blocks of samples, ``[ceil(samples / 16), ..., C, 16]``, with at least one element, float32
            or float64.
        scale: ``[C]``, of x's dtype.
        offset: ``[C]``, of x's dtype.
        moments: Mean and variance of x, ``[2, C]`` and float64: the last result of `block_moments`.
        epsilon: Number that is added to the variance.
        samples: Number of samples, at least 1.
        residual: What is added before the ReLU, in the shape of x, or None; it needs the ReLU.
        relu: Whether there is a ReLU.
        ceiling: Largest result of the ReLU, such as 6 for ReLU6.

    Returns:
        The blocks, in the shape of x, zero behind the last sample.

    Raises:
        ValueError: The shapes do not fit together, x has no elements, or there is a residual without
            a ReLU.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> x = po.ops.to_blocks(tf.constant([[1.0], [3.0]]))
        >>> moments = po.ops.block_moments(x, 2)[-1]
        >>> y = po.ops.block_norm(x, tf.ones(1), tf.zeros(1), moments, 0.0, 2, relu=True)
        >>> po.ops.from_blocks(y, 2).numpy().tolist()
        [[0.0], [1.0]]
    """
    return library.prospr_block_norm(
        x, _listed(residual), scale, offset, moments, epsilon, samples, relu=relu, ceiling=ceiling
    )


@raises_value_error
def block_norm_gradient(
    y_gradient: Any,
    x: Any,
    scale: Any,
    offset: Any,
    moments: Any,
    epsilon: float,
    samples: Any,
    residual: Any = None,
    relu: bool = False,
    ceiling: float = math.inf,
) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor, tf.Tensor]:
    """The gradients of `block_norm`, at x through the moments too.

    The same bits for every number of threads.

    Args:
        y_gradient: Gradient at what `block_norm` gives, ``[ceil(samples / 16), ..., C, 16]``, zero
            behind the last sample, float32 or float64.
        x: In the shape of y_gradient, and of its dtype.
        scale: ``[C]``, of x's dtype.
        offset: ``[C]``, of x's dtype.
        moments: Mean and variance of x, ``[2, C]`` and float64: the last result of `block_moments`.
        epsilon: Number that is added to the variance.
        samples: Number of samples, at least 1.
        residual: What is added before the ReLU, in the shape of x, or None; it needs the ReLU.
        relu: Whether there is a ReLU.
        ceiling: Largest result of the ReLU, such as 6 for ReLU6.

    Returns:
        The gradients at x, in its shape and zero behind the last sample, at residual, or None, and at
        scale and offset, each ``[C]``.

    Raises:
        ValueError: The shapes do not fit together, x has no elements, or there is a residual without
            a ReLU.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> x = po.ops.to_blocks(tf.constant([[1.0], [3.0]]))
        >>> moments = po.ops.block_moments(x, 2)[-1]
        >>> _, _, by_scale, by_offset = po.ops.block_norm_gradient(
        ...     x, x, tf.ones(1), tf.zeros(1), moments, 0.0, 2
        ... )
        >>> by_scale.numpy().tolist(), by_offset.numpy().tolist()
        ([2.0], [4.0])
    """
    numbers = (scale, offset, moments, epsilon, samples)
    by_x, by_residual, by_scale, by_offset = library.prospr_block_norm_gradient(
        y_gradient, x, _listed(residual), *numbers, relu=relu, ceiling=ceiling
    )
    return by_x, next(iter(by_residual), None), by_scale, by_offset


def _listed(residual: Any) -> list[Any]:
    return [] if residual is None else [residual]


@tf.RegisterGradient("Prospr>BlockNorm")
def _gradient(op: tf.Operation, by_y: tf.Tensor) -> list[tf.Tensor | None]:
    x, *residual, scale, offset, moments, epsilon, samples = op.inputs
    numbers = (scale, offset, moments, epsilon, samples)
    relu, ceiling = op.get_attr("relu"), op.get_attr("ceiling")
    by_x, by_residual, by_scale, by_offset = library.prospr_block_norm_gradient(
        by_y, x, residual, *numbers, relu=relu, ceiling=ceiling
    )
    return [by_x, *by_residual, by_scale, by_offset, None, None, None]
