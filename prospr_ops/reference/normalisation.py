"""Twins of the ops that batch normalisation and its derivatives are made of."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def channel_products(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Twin of `prospr_ops.ops.channel_products`: one sum for each pair, of any number of tensors."""
    wide = [tf.cast(tensor, tf.float64) for tensor in tensors]
    wide.append(tf.ones_like(wide[0]))
    rows = list(range(wide[0].shape.rank - 1))
    return tf.stack([tf.stack([tf.reduce_sum(a * b, rows) for b in wide]) for a in wide])


def channel_combinations(tensors: Sequence[tf.Tensor], coefficients: tf.Tensor) -> list[tf.Tensor]:
    """Twin of `prospr_ops.ops.channel_combinations`: one product for each term, of any number."""
    return [
        tf.add_n([c * tensor for c, tensor in zip(row[:-1], tensors, strict=True)]) + row[-1]
        for row in map(tf.unstack, tf.unstack(coefficients))
    ]
