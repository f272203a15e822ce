"""The Hessian by brute force: one backward pass for each weight."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from prospr_ops.network.loss import Batch, Objective
from prospr_ops.network.tracing import traced


def hessian(objective: Objective, batch: Batch, variables: Sequence[tf.Variable]) -> tf.Tensor:
    """The whole matrix of second derivatives of the loss.

    Args:
        objective: The loss as a function of a batch.
        batch: The batch it is taken on.
        variables: The model's variables, n elements in all, numbered one after the other.

    Returns:
        [n, n], in the variables' dtype.
    """
    zero = tf.UnconnectedGradients.ZERO

    @traced
    def rows() -> list[tf.Tensor]:
        with tf.GradientTape(persistent=True) as outer:
            with tf.GradientTape() as inner:
                loss = objective(batch)
            gradients = inner.gradient(loss, variables, unconnected_gradients=zero)
            flat = tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], axis=0)
        return outer.jacobian(
            flat, variables, unconnected_gradients=zero, experimental_use_pfor=False
        )

    return tf.concat([tf.reshape(row, [row.shape[0], -1]) for row in rows()], axis=1)


def hessian_diagonal(
    objective: Objective, batch: Batch, variables: Sequence[tf.Variable]
) -> list[tf.Tensor]:
    """The diagonal of `hessian`, as one tensor in the shape of each variable."""
    diagonal = tf.linalg.diag_part(hessian(objective, batch, variables))
    parts = tf.split(diagonal, [variable.shape.num_elements() for variable in variables])
    return [tf.reshape(part, v.shape) for part, v in zip(parts, variables, strict=True)]
