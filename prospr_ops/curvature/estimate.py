"""What every estimator takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from prospr_ops.network.loss import Batch, Objective


class Estimate(NamedTuple):
    """What one forward pass gave.

    Attributes:
        loss: Scalar.
        gradients: Gradient of the loss by each variable, dense, in its shape.
        diagonal: Diagonal of the Hessian by each weight, in its shape; float32 for half precision.
        origin: For each weight, which estimator gave it, and what it is worth.
    """

    loss: tf.Tensor
    gradients: list[tf.Tensor]
    diagonal: list[tf.Tensor]
    origin: list[str]


Estimator = Callable[
    [Objective, Batch, Sequence[tf.Variable], Sequence[tf.Variable], int, tf.Tensor], Estimate
]


def sum_dtype(dtype: tf.DType) -> tf.DType:
    """What sums of a dtype's values are kept in: float64 for float64, else float32."""
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
