"""Gradient descent on the variables of a model, and the gradient at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from prospr_ops.curvature.estimate import sum_dtype
from prospr_ops.methods.passes import Evaluate, all_finite, batch_pass, resumable, run_pass
from prospr_ops.methods.problem import LogScores, Problem
from prospr_ops.objective import Batch
from prospr_ops.settings import Settings


def gradient_descent(
    variables: Sequence[tf.Variable], settings: Settings
) -> tuple[Callable[[Sequence[tf.Tensor]], None], list[tf.Variable]]:
    """A function that takes gradients g and makes one step of SGD, and the velocities, if any.

    As PyTorch defines it: v ← μ v + g, then w ← w − α v; with Nesterov's momentum
    w ← w − α (g + μ v).
    """
    learning_rate, momentum = settings.learning_rate, settings.momentum
    if momentum == 0.0:

        def descend(gradients: Sequence[tf.Tensor]) -> None:
            for variable, g in zip(variables, gradients, strict=True):
                variable.assign_sub(learning_rate * g)

        return descend, []

    velocities = [tf.Variable(tf.zeros_like(variable)) for variable in variables]

    def descend_with_momentum(gradients: Sequence[tf.Tensor]) -> None:
        for variable, velocity, g in zip(variables, velocities, gradients, strict=True):
            v = velocity.assign(momentum * velocity + g)
            direction = g + momentum * v if settings.nesterov else v
            variable.assign_sub(learning_rate * direction)

    return descend_with_momentum, velocities


def descend(problem: Problem, gradients: Evaluate) -> None:
    """Runs the steps of gradient descent on all trainable variables, one batch each."""
    variables = [*problem.prunable(), *problem.others()]
    update, velocities = gradient_descent(variables, problem.settings)

    def apply(by_variable: list[tf.Tensor]) -> tuple[tf.Tensor, tuple[()]]:
        update(by_variable)
        return all_finite(by_variable[: len(problem.weights)]), ()

    step = batch_pass(gradients, apply, problem.settings.microbatch)
    state = [*problem.model_state(), *velocities]
    for number in resumable(problem, range(problem.settings.steps), state):
        run_pass(problem, step, number, next(problem.batches))


def gradient_on(problem: Problem, gradients: Evaluate, batch: Batch) -> list[tf.Tensor]:
    """The gradient on a new batch at the weights as they are now; prunable variables first."""

    def apply(by_variable: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        return all_finite(by_variable[: len(problem.weights)]), by_variable

    last = batch_pass(gradients, apply, problem.settings.microbatch)
    return run_pass(problem, last, len(problem.losses), batch)


def final_gradient(problem: Problem, gradients: Evaluate) -> list[tf.Tensor]:
    """`gradient_on` the next batch."""
    return gradient_on(problem, gradients, next(problem.batches))


def log_final_gradient(problem: Problem, gradients: Evaluate) -> LogScores:
    """log|∇L(w)| of the next batch at the weights as they are now, by variable path."""

    # The others' are neither computed, in a traced pass, nor reduced over replicas.
    def of_weights(batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        loss, by_variable = gradients(batch, seed)
        return loss, by_variable[: len(problem.weights)]

    by_weight = final_gradient(problem, of_weights)[::-1]
    # Each goes when its logarithm is there.
    return {path: log_factor(problem, path, by_weight.pop()) for path in problem.weights}


def log_magnitude(tensor: tf.Tensor) -> tf.Tensor:
    """log|x|, in float32 for half precision."""
    return tf.math.log(tf.abs(tf.cast(tensor, sum_dtype(tensor.dtype))))


def log_factor(problem: Problem, path: str, tensor: tf.Tensor) -> tf.Tensor:
    """`log_magnitude` of a factor of a weight's score, whose sign the problem is told."""
    problem.multiply_sign(path, tensor)
    return log_magnitude(tensor)


def weights_now(problem: Problem) -> dict[str, tf.Tensor]:
    """The weights as they are now, by variable path; they share their buffers with the caller's copy."""
    return {path: tf.identity(weight.value) for path, weight in problem.weights.items()}


def log_weights(problem: Problem) -> LogScores:
    """log|w| of the weights as they are now, as a factor of their scores, by variable path."""
    return {
        path: log_factor(problem, path, tf.convert_to_tensor(weight))
        for path, weight in problem.weights.items()
    }
