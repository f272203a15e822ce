"""ProsPr with the diagonal of each step's Jacobian, streamed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from prospr_ops import curvature, ops
from prospr_ops.curvature.in_parts import auto_in_parts
from prospr_ops.methods.engine.descent import gradient_descent, log_final_gradient, zero
from prospr_ops.methods.engine.passes import Passes
from prospr_ops.methods.engine.problem import Found, LogNumbers, Problem, Scorer
from prospr_ops.network.loss import Batch
from prospr_ops.network.tracing import traced


class _Accumulator(NamedTuple):
    """The running product of one weight's factors.

    Attributes:
        begin: Function that begins a round at the weight's current value.
        step: Function that takes the gradient and the curvature and makes one step; returns whether
            both were finite.
        factor: Function that returns log|∂w/∂w_0| after the last step, and a tensor with the sign
            of ∂w/∂w_0.
        state: Variables that persist between steps, besides the weight.
    """

    begin: Callable[[], None]
    step: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    factor: Callable[[], tuple[tf.Tensor, tf.Tensor]]
    state: list[tf.Variable]


def diagonal_scorer(problem: Problem) -> Scorer:
    """log|∇L_M(w_M)| + Σ_m log|γ_m| + log|w_0|, with γ_m = 1 − α diag(H_m).

    The derivative ∂w_M/∂w_0 of the inner gradient descent is a product of matrices I − α H_m. Here
    each is replaced by its diagonal, so the product is one number per weight, and only its
    logarithm and sign are kept between steps. With momentum the number becomes a pair (see
    `prospr_ops.ops.gamma_momentum_step`). After ProsPr (Alizadeh et al., arXiv 2202.08132), which
    differentiates through the steps.

    Raises:
        ValueError: Nesterov momentum is asked for.
    """
    settings = problem.settings
    passes = Passes(problem, settings.steps * (1 + settings.probes) + 1)
    if settings.nesterov:
        msg = "method 'diagonal' knows plain momentum only; nesterov is for 'exact', 'first_order'"
        raise ValueError(msg)
    weights, others = problem.prunable(), problem.others()
    eager = passes.eager and settings.curvature in curvature.EAGER
    estimate = _estimator(problem, [*weights, *others], weights, eager=eager)
    accumulators = [
        _accumulator(weight, settings.learning_rate, settings.momentum) for weight in weights
    ]
    descend, velocities = gradient_descent(others, settings)

    def evaluate(batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        found = estimate(batch, seed)
        # Every batch uses the same estimators.
        passes.estimators.update(zip(problem.weights, found.origin, strict=True))
        gradients = problem.hold([*weights, *others], found.gradients)
        return found.loss, [*gradients, *found.diagonal]

    def apply(derivatives: list[tf.Tensor]) -> tuple[tf.Tensor, tuple[()]]:
        gradients = derivatives[: len(weights)]
        diagonals = derivatives[len(weights) + len(others) :]
        finite = [
            accumulator.step(g, h)
            for accumulator, g, h in zip(accumulators, gradients, diagonals, strict=True)
        ]
        descend(derivatives[len(weights) : len(weights) + len(others)])
        return tf.stack(finite), ()

    step = passes.pass_of(evaluate if eager or not passes.whole else traced(evaluate), apply)
    state = [*problem.model_state(), *velocities, *(v for a in accumulators for v in a.state)]
    final_gradient = log_final_gradient(passes, passes.gradients_by(weights))

    def scores(round_: int) -> Found:
        passes.begin(round_)
        zero(velocities)
        for accumulator in accumulators:
            accumulator.begin()
        initial = problem.values_now()
        for number in passes.resumable(range(settings.steps), state):
            passes.run(step, number, next(problem.batches))
        final = final_gradient()
        found = {}
        for path, accumulator in zip(problem.weights, accumulators, strict=True):
            log_derivative, signed = accumulator.factor()
            sign = tf.cast(tf.sign(signed), tf.int8) if problem.signed else None
            derivative = final.pop(path).times(LogNumbers(log_derivative, sign))
            found[path] = derivative.times(problem.log_numbers(initial[path]))
        return passes.found(found)

    return scores


def _estimator(
    problem: Problem, variables: list[tf.Variable], weights: list[tf.Variable], *, eager: bool
) -> Callable[[Batch, tf.Tensor], curvature.Estimate]:
    """The curvature estimator that the settings name, for these variables."""
    name, probes = problem.settings.curvature, problem.settings.probes
    if eager and name == "auto":
        return auto_in_parts(problem.objective, variables, weights, probes)
    estimate = curvature.find(name)
    return lambda batch, seed: estimate(problem.objective, batch, variables, weights, probes, seed)


def _accumulator(weight: tf.Variable, learning_rate: float, momentum: float) -> _Accumulator:
    if weight.dtype in (tf.float32, tf.float64):
        return _full_precision(weight, learning_rate, momentum)

    # Half precision is too coarse for sums of logarithms and small steps: both are in float32.
    shadow = tf.Variable(tf.cast(weight, tf.float32))
    of_shadow = _full_precision(shadow, learning_rate, momentum)

    def begin() -> None:
        shadow.assign(tf.cast(weight, tf.float32))
        of_shadow.begin()

    def accumulate(gradient: tf.Tensor, diagonal: tf.Tensor) -> tf.Tensor:
        finite = of_shadow.step(tf.cast(gradient, tf.float32), tf.cast(diagonal, tf.float32))
        weight.assign(tf.cast(shadow, weight.dtype))
        return finite

    return _Accumulator(begin, accumulate, of_shadow.factor, [shadow, *of_shadow.state])


def _full_precision(weight: tf.Variable, learning_rate: float, momentum: float) -> _Accumulator:
    zeros = tf.zeros_like(weight)
    if momentum == 0.0:
        log_gamma = tf.Variable(zeros)
        sign = tf.Variable(tf.ones_like(weight, tf.int8))

        def begin() -> None:
            zero([log_gamma])
            sign.assign(tf.ones_like(sign))

        return _Accumulator(
            begin,
            lambda g, h: ops.gamma_step(weight, log_gamma, sign, g, h, learning_rate),
            lambda: (tf.convert_to_tensor(log_gamma), tf.convert_to_tensor(sign)),
            [log_gamma, sign],
        )
    velocity, log_scale, q = (tf.Variable(zeros) for _ in range(3))
    p = tf.Variable(tf.ones_like(weight))

    def begin_with_momentum() -> None:
        zero([velocity, log_scale, q])
        p.assign(tf.ones_like(p))

    return _Accumulator(
        begin_with_momentum,
        lambda g, h: ops.gamma_momentum_step(
            weight, velocity, log_scale, p, q, g, h, learning_rate, momentum
        ),
        lambda: (log_scale + tf.math.log(tf.abs(p)), tf.convert_to_tensor(p)),
        [velocity, log_scale, p, q],
    )
