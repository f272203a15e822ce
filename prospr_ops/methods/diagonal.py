"""ProsPr with the diagonal of each step's Jacobian, streamed."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from prospr_ops import curvature, ops
from prospr_ops.methods.descent import gradient_descent, log_final_gradient, log_weights
from prospr_ops.methods.passes import batch_pass, run_pass
from prospr_ops.methods.problem import LogScores, Problem
from prospr_ops.objective import Batch

# Takes the gradient and the curvature of one weight; returns whether they were finite.
_Step = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
# Gives log|∂w/∂w_0| after the last step, and what has the sign of ∂w/∂w_0.
_Factor = Callable[[], tuple[tf.Tensor, tf.Tensor]]


def diagonal(problem: Problem) -> LogScores:
    """log|∇L_M(w_M)| + Σ_m log|γ_m| + log|w_0|, with γ_m = 1 − α diag(H_m).

    The derivative ∂w_M/∂w_0 of the inner gradient descent is a product of matrices I − α H_m; here
    each is replaced by its diagonal, so the product is one number a weight and only its logarithm
    and sign outlive a step. With momentum the number becomes a pair (see
    `prospr_ops.ops.gamma_momentum_step`). After ProsPr (Alizadeh et al., arXiv 2202.08132), which
    differentiates through the steps.

    Raises:
        ValueError: Nesterov's momentum is asked for.
    """
    settings = problem.settings
    if settings.nesterov:
        msg = "method 'diagonal' knows plain momentum only; nesterov is for 'exact', 'first_order'"
        raise ValueError(msg)
    estimate = curvature.find(settings.curvature)
    weights, others = problem.prunable(), problem.others()
    initial = log_weights(problem)
    accumulators = [
        _accumulator(weight, settings.learning_rate, settings.momentum) for weight in weights
    ]
    descend = gradient_descent(others, settings)

    def evaluate(batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        found = estimate(
            problem.objective, batch, [*weights, *others], weights, settings.probes, seed
        )
        # Runs when the pass is traced: the choice of estimator is the same for every batch.
        problem.estimators.update(zip(problem.weights, found.origin, strict=True))
        return found.loss, [*found.gradients, *found.diagonal]

    def apply(derivatives: list[tf.Tensor]) -> tuple[tf.Tensor, tuple[()]]:
        gradients = derivatives[: len(weights)]
        diagonals = derivatives[len(weights) + len(others) :]
        finite = [
            accumulate(g, h)
            for (accumulate, _), g, h in zip(accumulators, gradients, diagonals, strict=True)
        ]
        descend(derivatives[len(weights) : len(weights) + len(others)])
        return tf.stack(finite), ()

    step = batch_pass(evaluate, apply, settings.microbatch)
    for number in range(settings.steps):
        run_pass(problem, step, number, next(problem.batches))
    final = log_final_gradient(problem)
    scores = {}
    for path, (_, factor) in zip(problem.weights, accumulators, strict=True):
        log_factor, signed = factor()
        problem.multiply_sign(path, signed)
        scores[path] = tf.add_n([final[path], log_factor, initial[path]])
    return scores


def _accumulator(
    weight: tf.Variable, learning_rate: float, momentum: float
) -> tuple[_Step, _Factor]:
    """The running product of one weight's factors."""
    if weight.dtype in (tf.float32, tf.float64):
        return _full_precision(weight, learning_rate, momentum)

    # Half precision holds neither a sum of logarithms nor a small step: both happen in float32.
    shadow = tf.Variable(tf.cast(weight, tf.float32))
    accumulate_shadow, factor = _full_precision(shadow, learning_rate, momentum)

    def accumulate(gradient: tf.Tensor, diagonal: tf.Tensor) -> tf.Tensor:
        finite = accumulate_shadow(tf.cast(gradient, tf.float32), tf.cast(diagonal, tf.float32))
        weight.assign(tf.cast(shadow, weight.dtype))
        return finite

    return accumulate, factor


def _full_precision(
    weight: tf.Variable, learning_rate: float, momentum: float
) -> tuple[_Step, _Factor]:
    zeros = tf.zeros_like(weight)
    if momentum == 0.0:
        log_gamma = tf.Variable(zeros)
        sign = tf.Variable(tf.ones_like(weight, tf.int8))
        return (
            lambda g, h: ops.gamma_step(weight, log_gamma, sign, g, h, learning_rate),
            lambda: (tf.convert_to_tensor(log_gamma), tf.convert_to_tensor(sign)),
        )
    velocity, log_scale, q = (tf.Variable(zeros) for _ in range(3))
    p = tf.Variable(tf.ones_like(weight))
    return (
        lambda g, h: ops.gamma_momentum_step(
            weight, velocity, log_scale, p, q, g, h, learning_rate, momentum
        ),
        lambda: (log_scale + tf.math.log(tf.abs(p)), tf.convert_to_tensor(p)),
    )
