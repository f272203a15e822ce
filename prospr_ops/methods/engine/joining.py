"""Tensors of many shapes as one vector."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def joined(tensors: Sequence[tf.Tensor], variables: Sequence[tf.Variable]) -> tf.Tensor:
    """The elements of all tensors, one per variable: float64 if one of the variables is, else float32."""
    dtype = _dtype_of(variables)
    return tf.concat([tf.reshape(tf.cast(tensor, dtype), [-1]) for tensor in tensors], 0)


def parted(vector: tf.Tensor, variables: Sequence[tf.Variable]) -> list[tf.Tensor]:
    """What `joined` has joined: a tensor per variable, in its shape, and the vector's dtype."""
    parts = tf.split(vector, [variable.shape.num_elements() for variable in variables])
    return [
        tf.reshape(part, variable.shape) for part, variable in zip(parts, variables, strict=True)
    ]


def _dtype_of(variables: Sequence[tf.Variable]) -> tf.DType:
    wide = any(variable.dtype == tf.float64 for variable in variables)
    return tf.float64 if wide else tf.float32
