"""The row sums of the Hessian, which are not its diagonal."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from prospr_ops.curvature.estimate import Estimate, gradient, second_derivative, sum_dtype
from prospr_ops.network.loss import Batch, Objective
from prospr_ops.ops.nn.replacements import fast_calls


def row_sum_estimate(
    objective: Objective,
    batch: Batch,
    variables: Sequence[tf.Variable],
    weights: Sequence[tf.Variable],
    probes: int,
    seed: tf.Tensor,
) -> Estimate:
    """H·1, the result of differentiating the sum of the gradient.

    Σ_j H_ij is *not* H_ii: it differs by the sum of the off-diagonal elements, which does not
    average out. It is here for comparison, since it is often mistaken for the diagonal.
    """
    del probes, seed  # nothing here is random
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            loss = objective(batch, fast_calls())
        gradients = gradient(inner, loss, [*variables, *weights], scale=objective.scale)
        by_weight = gradients[len(variables) :]
    diagonal = [
        tf.cast(values, sum_dtype(values.dtype))
        for values in second_derivative(outer, by_weight, weights, scale=objective.scale)
    ]
    return Estimate(loss, gradients[: len(variables)], diagonal, ["row_sum"] * len(weights))
