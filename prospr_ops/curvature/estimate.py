"""The signature of an estimator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from prospr_ops.network.loss import Batch, Objective
from prospr_ops.network.second_derivatives import (
    differentiable_gradients,
    differentiating_gradients,
)


class Estimate(NamedTuple):
    """The result of one forward pass.

    Attributes:
        loss: The loss, a scalar.
        gradients: Gradient of the loss by each variable, dense, in the variable's shape.
        diagonal: Diagonal of the Hessian by each weight, in the weight's shape; float32 for half
            precision.
        origin: Name of the estimator of each weight, and how its value relates to the Hessian's
            diagonal.

    Examples:
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
    scale: float | tf.Tensor = 1.0,
) -> list[tf.Tensor]:
    """Dense gradients of `target`; zeros for a source that it does not depend on.

    They are multiplied by `scale` on their way and divided by it at the end, so that they do not
    vanish in half precision (see `Objective.scale`).

    Raises:
        ValueError: It is a second derivative behind a sparse input, of which TensorFlow's rules make
            what they cannot multiply.
    """
    scaled = isinstance(scale, tf.Tensor) or scale != 1.0
    if scaled:
        targets = target if isinstance(target, Sequence) else [target]
        seeds = [tf.ones_like(t) for t in targets] if output_gradients is None else output_gradients
        output_gradients = [tf.cast(scale, seed.dtype) * seed for seed in seeds]
        target = targets
    try:
        with differentiable_gradients():
            gradients = tape.gradient(
                target,
                sources,
                output_gradients=output_gradients,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
    except TypeError as error:
        if "IndexedSlices" not in str(error):
            raise
        msg = (
            "TensorFlow cannot differentiate twice here behind a sparse input; give dense batches, "
            "or use method 'exact', 'first_order', 'snip' or 'grasp'"
        )
        raise ValueError(msg) from error
    dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
    for values, source in zip(dense, sources, strict=True):
        values.set_shape(source.shape)  # TensorFlow knows some in part only, and a loop wants all
    if not scaled:
        return dense
    wide = [tf.cast(values, sum_dtype(values.dtype)) for values in dense]
    return [tf.cast(g / tf.cast(scale, g.dtype), v.dtype) for g, v in zip(wide, dense, strict=True)]


def second_derivative(
    tape: tf.GradientTape,
    gradients: Sequence[tf.Tensor],
    sources: Sequence[tf.Variable],
    vectors: Sequence[tf.Tensor] | None = None,
    scale: float | tf.Tensor = 1.0,
) -> list[tf.Tensor]:
    """`gradient` of gradients, each times its vector; without vectors, of their sum.

    Raises:
        NoSecondDerivative: TensorFlow has none of an operation between the sources and the loss.
    """
    with differentiating_gradients():
        return gradient(tape, gradients, sources, vectors, scale)
