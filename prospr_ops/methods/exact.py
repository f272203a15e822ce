"""ProsPr's meta-gradient, exactly, without a graph through the steps."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from prospr_ops.curvature.estimate import sum_dtype
from prospr_ops.methods.engine.descent import final_gradient, gradient_descent
from prospr_ops.methods.engine.passes import (
    Apply,
    Passes,
    all_finite,
    batch_pass,
    gradients_by,
    hessian_products_by,
)
from prospr_ops.methods.engine.problem import Found, LogNumbers, Problem


def exact_scores(problem: Problem) -> Found:
    """log|∂L_M(w_M)/∂c|, for a mask c that multiplies the initial weights, at c = 1.

    This is ProsPr's score (Alizadeh et al., arXiv 2202.08132), which its authors get by
    backpropagation through all steps. Here a step leaves behind only its batch and the weights it
    began with, and the derivatives λ = ∂L_M/∂w and ν = ∂L_M/∂v go back from step to step:

        ν ← ν − α λ        λ ← λ + H_m ν        ν ← μ ν

    with one Hessian-vector product each. Nothing else grows with the number of steps.

    A checkpoint holds λ and ν, and not the weights of all steps: a run that is resumed makes the steps
    forward again, a third of its work, and goes back from where it was.
    """
    passes, settings = Passes(problem), problem.settings
    variables = [*problem.prunable(), *problem.others()]
    # A step is differentiated as it was taken.
    state = problem.model_state()
    initial = problem.values_now()

    update, _ = gradient_descent(variables, settings)

    def take_step(by_variable: list[tf.Tensor]) -> tuple[tf.Tensor, tuple[()]]:
        update(by_variable)
        return all_finite(by_variable[: len(problem.weights)]), ()

    gradients = gradients_by(problem, variables)
    step = batch_pass(gradients, take_step, settings.microbatch)
    trajectory = []
    for number in range(settings.steps):
        batch = next(problem.batches)
        # Shares the variables' buffers: TensorFlow copies one when it is next written.
        trajectory.append((batch, [tf.identity(variable) for variable in state]))
        passes.run(step, number, batch)

    adjoint = [
        tf.Variable(tf.cast(g, sum_dtype(g.dtype))) for g in final_gradient(passes, gradients)
    ]
    by_velocity = (
        [tf.Variable(tf.zeros_like(by_weight)) for by_weight in adjoint]
        if settings.momentum
        else []
    )
    log_scale = tf.Variable(0.0, dtype=tf.float64)
    vector, apply_product = _adjoint_step(problem, adjoint, by_velocity, log_scale)
    step_back = batch_pass(
        hessian_products_by(problem, gradients, variables, vector),
        apply_product,
        settings.microbatch,
    )
    backwards = range(settings.steps)[::-1]
    for number in passes.resumable(backwards, [*adjoint, *by_velocity, log_scale]):
        del trajectory[number + 1 :]
        batch, values = trajectory.pop()
        for variable, value in zip(state, values, strict=True):
            variable.assign(value)
        passes.run(step_back, number, batch, "the Hessian-vector product")
    scores = {}
    for (path, weight), by_weight in zip(initial.items(), adjoint, strict=False):
        derivative = problem.log_numbers(tf.convert_to_tensor(by_weight))
        log = derivative.log + tf.cast(log_scale, derivative.log.dtype)
        scores[path] = LogNumbers(log, derivative.sign).times(problem.log_numbers(weight))
    return passes.found(scores)


def _adjoint_step(
    problem: Problem,
    adjoint: list[tf.Variable],
    by_velocity: list[tf.Variable],
    log_scale: tf.Variable,
) -> tuple[Callable[[], list[tf.Tensor]], Apply]:
    """The vector u of one step, and what takes λ and ν back over it, given Hu.

    They are `adjoint` · exp(`log_scale`) and `by_velocity` · exp(`log_scale`), which is empty without
    momentum.

    λ and ν are divided by a power of two after each step, which is exact: however many steps there
    are, nothing overflows or vanishes.
    """
    learning_rate, momentum = problem.settings.learning_rate, problem.settings.momentum

    # Derivatives by this step's velocity (of all that it enters) and by its gradient.
    def by_this_velocity() -> list[tf.Tensor]:
        weight = learning_rate * (momentum if problem.settings.nesterov else 1.0)
        if not momentum:
            return [-weight * by_weight for by_weight in adjoint]
        return [nu - weight * by_weight for nu, by_weight in zip(by_velocity, adjoint, strict=True)]

    def by_gradient() -> list[tf.Tensor]:
        by_v = by_this_velocity()
        if not problem.settings.nesterov:
            return by_v
        return [nu - learning_rate * lam for nu, lam in zip(by_v, adjoint, strict=True)]

    def apply(products: list[tf.Tensor]) -> tuple[tf.Tensor, tuple[()]]:
        weights = [lam + tf.cast(hu, lam.dtype) for lam, hu in zip(adjoint, products, strict=True)]
        velocities = [momentum * nu for nu in by_this_velocity()] if momentum else []
        scale = _power_of_two([*weights, *velocities])
        for variable, value in zip([*adjoint, *by_velocity], [*weights, *velocities], strict=True):
            variable.assign(value / tf.cast(scale, value.dtype))
        log_scale.assign_add(tf.math.log(scale))
        return all_finite(products[: len(problem.weights)]), ()

    return by_gradient, apply


def _power_of_two(tensors: list[tf.Tensor]) -> tf.Tensor:
    """The largest power of two, float64, that is at most the largest magnitude of any element.

    Kept within float32's normal numbers; of what is beyond, the next step takes the rest.
    """
    largest = tf.reduce_max(
        [tf.cast(tf.reduce_max(tf.abs(tensor)), tf.float64) for tensor in tensors]
    )
    exponent = tf.bitcast(largest, tf.int64) & 0x7FF0000000000000
    return tf.clip_by_value(tf.bitcast(exponent, tf.float64), 2.0**-126, 2.0**126)
