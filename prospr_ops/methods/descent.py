"""Gradient descent on the variables of a model, and the gradient at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from prospr_ops.curvature.estimate import gradient, sum_dtype
from prospr_ops.methods.problem import LogScores, Problem, StepOutput, all_finite, run_step
from prospr_ops.objective import Batch
from prospr_ops.tracing import traced


def gradient_descent(
    variables: Sequence[tf.Variable], learning_rate: float, momentum: float
) -> Callable[[Sequence[tf.Tensor]], None]:
    """A function that takes gradients and makes one step: v ← μ v + g, w ← w − α v."""
    if momentum == 0.0:

        def descend(gradients: Sequence[tf.Tensor]) -> None:
            for variable, g in zip(variables, gradients, strict=True):
                variable.assign_sub(learning_rate * g)

        return descend

    velocities = [tf.Variable(tf.zeros_like(variable)) for variable in variables]

    def descend_with_momentum(gradients: Sequence[tf.Tensor]) -> None:
        for variable, velocity, g in zip(variables, velocities, gradients, strict=True):
            velocity.assign(momentum * velocity + g)
            variable.assign_sub(learning_rate * velocity)

    return descend_with_momentum


def descend(problem: Problem, steps: int) -> None:
    """Runs `steps` steps of gradient descent on all trainable variables, one batch each."""
    variables = [*problem.prunable(), *problem.others()]
    settings = problem.settings
    update = gradient_descent(variables, settings.learning_rate, settings.momentum)

    @traced
    def step(batch: Batch, number: tf.Tensor) -> StepOutput:
        del number
        with tf.GradientTape() as tape:
            loss = problem.objective(batch)
        gradients = gradient(tape, loss, variables)
        update(gradients)
        return StepOutput(loss, all_finite(gradients[: len(problem.weights)]), ())

    for number in range(steps):
        run_step(problem, step, number, list(problem.weights))


def log_final_gradient(problem: Problem, number: int) -> LogScores:
    """log|∇L(w)| of the next batch at the weights as they are now, by variable path."""
    weights = problem.prunable()

    @traced
    def step(batch: Batch, number: tf.Tensor) -> StepOutput:
        del number
        with tf.GradientTape() as tape:
            loss = problem.objective(batch)
        gradients = gradient(tape, loss, weights)
        logs = [log_magnitude(g) for g in gradients]
        return StepOutput(loss, all_finite(gradients), logs)

    logs = run_step(problem, step, number, list(problem.weights))
    return dict(zip(problem.weights, logs, strict=True))


def log_magnitude(tensor: tf.Tensor) -> tf.Tensor:
    """log|x|, in float32 for half precision."""
    return tf.math.log(tf.abs(tf.cast(tensor, sum_dtype(tensor.dtype))))


def log_weights(problem: Problem) -> LogScores:
    """log|w| of the weights as they are now, by variable path."""
    return {path: log_magnitude(tf.convert_to_tensor(w)) for path, w in problem.weights.items()}
