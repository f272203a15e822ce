"""Gradient descent on the variables of a model, and the gradient after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from prospr_ops.methods.engine.passes import Evaluate, Passes, all_finite
from prospr_ops.methods.engine.problem import LogNumbers
from prospr_ops.network.loss import Batch
from prospr_ops.utils.settings import Settings


def gradient_descent(
    variables: Sequence[tf.Variable], settings: Settings
) -> tuple[Callable[[Sequence[tf.Tensor]], None], list[tf.Variable]]:
    """A function that makes one SGD step, given gradients g; and the velocities, if any.

    As PyTorch defines it: v ← μ v + g, then w ← w − α v; with Nesterov momentum
    w ← w − α (g + μ v).
    """
    learning_rate, momentum = settings.learning_rate, settings.momentum
    if momentum == 0.0:

        def descend(gradients: Sequence[tf.Tensor]) -> None:
            for variable, g in zip(variables, gradients, strict=True):
                variable.assign_sub(learning_rate * g, read_value=False)

        return descend, []

    velocities = [tf.Variable(tf.zeros_like(variable)) for variable in variables]

    def descend_with_momentum(gradients: Sequence[tf.Tensor]) -> None:
        for variable, velocity, g in zip(variables, velocities, gradients, strict=True):
            v = velocity.assign(momentum * velocity + g)
            direction = g + momentum * v if settings.nesterov else v
            variable.assign_sub(learning_rate * direction, read_value=False)

    return descend_with_momentum, velocities


def zero(variables: Sequence[tf.Variable]) -> None:
    """Sets variables to zero, as velocities are when a round begins."""
    for variable in variables:
        variable.assign(tf.zeros_like(variable), read_value=False)


def set_all(variables: list[tf.Variable], values: Sequence[tf.Tensor]) -> None:
    """Sets variables to these values; makes them in the first round, when the list is empty."""
    if not variables:
        variables.extend(tf.Variable(value) for value in values)
        return
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value, read_value=False)


def sgd_steps(passes: Passes, gradients: Evaluate) -> Callable[[], None]:
    """A function that makes the SGD steps on all trainable variables, one batch per step.

    What is pruned already stands still, also where `gradients` are not held.
    """
    problem = passes.problem
    variables = [*problem.prunable(), *problem.others()]
    update, velocities = gradient_descent(variables, problem.settings)

    def apply(by_variable: list[tf.Tensor]) -> tuple[tf.Tensor, tuple[()]]:
        update(problem.hold(variables, by_variable))
        return all_finite(by_variable[: len(problem.weights)]), ()

    step = passes.pass_of(gradients, apply)
    state = [*problem.model_state(), *velocities]

    def descend() -> None:
        zero(velocities)
        for number in passes.resumable(range(problem.settings.steps), state):
            passes.run(step, number, next(problem.batches))

    return descend


def gradient_on(passes: Passes, gradients: Evaluate) -> Callable[[Batch], list[tf.Tensor]]:
    """A function: the gradient on a new batch at the current weights; prunable variables first."""
    problem = passes.problem

    def apply(by_variable: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        return all_finite(by_variable[: len(problem.weights)]), by_variable

    last = passes.pass_of(gradients, apply)
    return lambda batch: passes.run(last, len(passes.losses), batch)


def final_gradient(passes: Passes, gradients: Evaluate) -> Callable[[], list[tf.Tensor]]:
    """A function: `gradient_on` the next batch."""
    gradient = gradient_on(passes, gradients)
    return lambda: gradient(next(passes.problem.batches))


def log_final_gradient(passes: Passes, gradients: Evaluate) -> Callable[[], dict[str, LogNumbers]]:
    """A function: ∇L(w) of the next batch at the current weights, by variable path."""
    problem = passes.problem

    # Other variables' gradients are not reduced over replicas.
    def of_weights(batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        loss, by_variable = gradients(batch, seed)
        return loss, by_variable[: len(problem.weights)]

    final = final_gradient(passes, of_weights)

    def logarithms() -> dict[str, LogNumbers]:
        by_weight = final()[::-1]
        # Each gradient is freed once its logarithm is taken.
        return {path: problem.log_numbers(by_weight.pop()) for path in problem.weights}

    return logarithms
