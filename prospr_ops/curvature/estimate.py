"""The signature of an estimator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from prospr_ops.network.loss import Batch, Objective


class Estimate(NamedTuple):
    """The result of one forward pass.

    Attributes:
        loss: The loss, a scalar.
        gradients: Gradient of the loss by each variable, dense, in the variable's shape.
        diagonal: Diagonal of the Hessian by each weight, in the weight's shape; float32 for half
            precision.
        origin: Name of the estimator of each weight, and how its value relates to the Hessian's
            diagonal.

    Example:
        >>> import keras
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> from prospr_ops.network.loss import Batch, Objective
        >>> model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1, use_bias=False)])
        >>> weights = [weight.value for weight in model.trainable_weights]
        >>> estimate = po.curvature.find("hutchinson")(
        ...     Objective.of(model, "mse"),
        ...     Batch(tf.constant([[3.0]]), tf.constant([[0.0]])),
        ...     weights,
        ...     weights,
        ...     probes=1,
        ...     seed=tf.constant([0, 0], tf.int64),
        ... )
        >>> estimate.diagonal[0].numpy().tolist(), estimate.origin
        ([[18.0]], ['hutchinson'])
    """

    loss: tf.Tensor
    gradients: list[tf.Tensor]
    diagonal: list[tf.Tensor]
    origin: list[str]


Estimator = Callable[
    [Objective, Batch, Sequence[tf.Variable], Sequence[tf.Variable], int, tf.Tensor], Estimate
]


def sum_dtype(dtype: tf.DType) -> tf.DType:
    """The dtype in which a dtype's values are summed: float64 for float64, else float32."""
    return tf.float64 if dtype == tf.float64 else tf.float32


def gradient(
    tape: tf.GradientTape,
    target: tf.Tensor | Sequence[tf.Tensor],
    sources: Sequence[tf.Variable],
    output_gradients: Sequence[tf.Tensor] | None = None,
) -> list[tf.Tensor]:
    """Dense gradients of `target`; zeros for a source on which it does not depend."""
    gradients = tape.gradient(
        target,
        sources,
        output_gradients=output_gradients,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return [tf.convert_to_tensor(gradient) for gradient in gradients]
