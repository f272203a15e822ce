"""Twins of the ops of batch normalisation on blocks: on the samples, by the twins for samples."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from prospr_ops.reference.normalisation import batch_moments, batch_norm
from prospr_ops.reference.sparse_convolution import from_blocks, to_blocks


def block_moments(x: tf.Tensor, samples: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Twin of `prospr_ops.ops.block_moments`.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> x = po.reference.to_blocks(tf.constant([[1.0], [3.0]]))
        >>> mean, variance, _ = po.reference.block_moments(x, 2)
        >>> mean.numpy().tolist(), variance.numpy().tolist()
        ([2.0], [1.0])
    """
    return batch_moments(from_blocks(x, samples))


def block_norm(
    x: tf.Tensor,
    scale: tf.Tensor,
    offset: tf.Tensor,
    moments: Any,
    epsilon: Any,
    samples: int,
    residual: tf.Tensor | None = None,
    relu: bool = False,
    ceiling: float = math.inf,
) -> tf.Tensor:
    """Twin of `prospr_ops.ops.block_norm`; the moments are computed again from x.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> x = po.reference.to_blocks(tf.constant([[1.0], [3.0]]))
        >>> y = po.reference.block_norm(x, tf.ones(1), tf.zeros(1), None, 0.0, 2, relu=True)
        >>> po.reference.from_blocks(y, 2).numpy().tolist()
        [[0.0], [1.0]]
    """
    y = batch_norm(from_blocks(x, samples), scale, offset, moments, epsilon)
    if residual is not None:
        y += from_blocks(residual, samples)
    return to_blocks(tf.minimum(tf.nn.relu(y), ceiling) if relu else y)


def block_norm_gradient(
    y_gradient: tf.Tensor,
    x: tf.Tensor,
    scale: tf.Tensor,
    offset: tf.Tensor,
    moments: Any,
    epsilon: Any,
    samples: int,
    residual: tf.Tensor | None = None,
    relu: bool = False,
    ceiling: float = math.inf,
) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor, tf.Tensor]:
    """Twin of `prospr_ops.ops.block_norm_gradient`: a tape over the formula.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> x = po.reference.to_blocks(tf.constant([[1.0], [3.0]]))
        >>> _, _, by_scale, by_offset = po.reference.block_norm_gradient(
        ...     x, x, tf.ones(1), tf.zeros(1), None, 0.0, 2
        ... )
        >>> by_scale.numpy().tolist(), by_offset.numpy().tolist()
        ([2.0], [4.0])
    """
    given = [x, residual, scale, offset]
    watched = [tensor for tensor in given if tensor is not None]
    with tf.GradientTape() as tape:
        tape.watch(watched)
        y = block_norm(x, scale, offset, moments, epsilon, samples, residual, relu, ceiling)
    gradients = iter(tape.gradient(y, watched, y_gradient))
    by_x, by_residual, by_scale, by_offset = (
        None if tensor is None else next(gradients) for tensor in given
    )
    return by_x, by_residual, by_scale, by_offset
