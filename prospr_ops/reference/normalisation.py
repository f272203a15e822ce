"""Twins of the ops that batch normalisation and its derivatives are built from."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def channel_products(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Twin of `prospr_ops.ops.channel_products`: one sum per pair; any number of tensors.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> x = tf.constant([[1.0], [2.0], [3.0]])  # 3 rows of 1 channel
        >>> po.reference.channel_products([x])[..., 0].numpy().tolist()  # Σ x², Σ x; Σ x, rows
        [[14.0, 6.0], [6.0, 3.0]]
    """
    wide = [tf.cast(tensor, tf.float64) for tensor in tensors]
    wide.append(tf.ones_like(wide[0]))
    rows = list(range(wide[0].shape.rank - 1))
    return tf.stack([tf.stack([tf.reduce_sum(a * b, rows) for b in wide]) for a in wide])


def channel_combinations(tensors: Sequence[tf.Tensor], coefficients: tf.Tensor) -> list[tf.Tensor]:
    """Twin of `prospr_ops.ops.channel_combinations`: one product per term; any number.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> x = tf.constant([[1.0], [2.0]])
        >>> coefficients = tf.constant([[[10.0], [1.0]]])  # one result: 10 x + 1
        >>> po.reference.channel_combinations([x], coefficients)[0].numpy().tolist()
        [[11.0], [21.0]]
    """
    return [
        tf.add_n([c * tensor for c, tensor in zip(row[:-1], tensors, strict=True)]) + row[-1]
        for row in map(tf.unstack, tf.unstack(coefficients))
    ]
