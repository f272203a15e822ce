"""Twins of the pruning methods: eager, in plain space instead of logarithms."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from prospr_ops.objective import Batch, Objective


def diagonal_scores(
    objective: Objective,
    batches: Sequence[Batch],
    weights: Sequence[tf.Variable],
    curvature: Callable[[Batch, int], Sequence[tf.Tensor]],
    learning_rate: float,
    momentum: float = 0.0,
) -> list[tf.Tensor]:
    """Twin of the method "diagonal": ∇L_M(w_M) · ∂w_M/∂w_0 · w_0, with its sign.

    The recursion for ∂w/∂w_0 is DESIGN's pair (p, q), which for momentum 0 is p ← (1 − α h) p.
    Changes the model's trainable variables.

    Args:
        objective: The loss as a function of a batch.
        batches: M + 1 batches.
        weights: The weights that are scored.
        curvature: Diagonal of the Hessian by `weights`, of a batch and the step's number.
        learning_rate: α.
        momentum: μ.

    Returns:
        A tensor in the shape of each weight.
    """
    variables = [variable.value for variable in objective.model.trainable_variables]
    velocities = [tf.zeros_like(variable) for variable in variables]
    initial = [tf.identity(weight) for weight in weights]
    p = [tf.ones_like(weight) for weight in weights]
    q = [tf.zeros_like(weight) for weight in weights]

    def gradients(batch: Batch, sources: Sequence[tf.Variable]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = objective(batch)
        return [tf.convert_to_tensor(g) for g in tape.gradient(loss, sources)]

    for number, batch in enumerate(batches[:-1]):
        diagonal = curvature(batch, number)
        q = [momentum * qi + hi * pi for qi, hi, pi in zip(q, diagonal, p, strict=True)]
        p = [pi - learning_rate * qi for pi, qi in zip(p, q, strict=True)]
        found = gradients(batch, variables)
        velocities = [momentum * v + g for v, g in zip(velocities, found, strict=True)]
        for variable, velocity in zip(variables, velocities, strict=True):
            variable.assign_sub(learning_rate * velocity)
    final = gradients(batches[-1], weights)
    return [g * pi * w for g, pi, w in zip(final, p, initial, strict=True)]
