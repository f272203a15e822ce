"""The whole Hessian: one backward pass per weight."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from prospr_ops.network.loss import Batch, Objective
from prospr_ops.network.tracing import traced


def hessian(objective: Objective, batch: Batch, variables: Sequence[tf.Variable]) -> tf.Tensor:
    """The matrix of second derivatives of the loss.

    Args:
        objective: The loss as a function of a batch.
        batch: The batch on which the loss is taken.
        variables: The model's variables, with n elements in all, numbered one after the other.

    Returns:
        The Hessian, [n, n], in the variables' dtype.

    Examples:
        >>> import keras
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> from prospr_ops.network.loss import Batch, Objective
        >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1, use_bias=False)])
        >>> batch = Batch(tf.constant([[1.0, 2.0]]), tf.constant([[0.0]]))
        >>> objective = Objective.of(model, "mse")  # (w₀ + 2 w₁)²
        >>> po.reference.hessian(objective, batch, [model.weights[0].value]).numpy().tolist()
        [[2.0, 4.0], [4.0, 8.0]]
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
    """The diagonal of `hessian`, one tensor per variable.

    Args:
        objective: The loss as a function of a batch.
        batch: The batch on which the loss is taken.
        variables: Variables of the model.

    Returns:
        For each variable, its diagonal elements in the variable's shape and dtype.

    Examples:
        >>> import keras
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> from prospr_ops.network.loss import Batch, Objective
        >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1, use_bias=False)])
        >>> batch = Batch(tf.constant([[1.0, 2.0]]), tf.constant([[0.0]]))
        >>> objective = Objective.of(model, "mse")  # (w₀ + 2 w₁)²
        >>> (diagonal,) = po.reference.hessian_diagonal(objective, batch, [model.weights[0].value])
        >>> diagonal.numpy().tolist()
        [[2.0], [8.0]]
    """
    diagonal = tf.linalg.diag_part(hessian(objective, batch, variables))
    parts = tf.split(diagonal, [variable.shape.num_elements() for variable in variables])
    return [tf.reshape(part, v.shape) for part, v in zip(parts, variables, strict=True)]
