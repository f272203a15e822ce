"""Hutchinson's estimator of the diagonal."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from prospr_ops.curvature.estimate import Estimate, gradient, second_derivative, sum_dtype
from prospr_ops.network.loss import Batch, Objective
from prospr_ops.ops.nn.replacements import fast_calls


def rademacher(shape: tf.TensorShape, dtype: tf.DType, seed: tf.Tensor) -> tf.Tensor:
    """A tensor of independent random signs: −1 and +1 with probability ½ each."""
    bits = tf.random.stateless_uniform(
        shape, seed, minval=0, maxval=2, dtype=tf.int32, alg="philox"
    )
    return tf.cast(2 * bits - 1, dtype)


def mean_of_probes(
    tape: tf.GradientTape,
    gradients: Sequence[tf.Tensor],
    weights: Sequence[tf.Variable],
    probes: int,
    seed: tf.Tensor,
    scale: float = 1.0,
) -> list[tf.Tensor]:
    """Mean of z ⊙ Hz over random sign vectors z.

    Args:
        tape: Tape that has recorded the computation of `gradients`; persistent, unless it is eager
            and there is one probe.
        gradients: Gradients of the loss by each of `weights`.
        weights: Variables by which H is taken.
        probes: Number of sign vectors.
        seed: Seed for the sign vectors, int64 [2].
        scale: Scale of the loss, as in `gradient`.

    Returns:
        A tensor in the shape of each weight; float32 for half precision.
    """

    def add_probe(probe: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
        probe_seed = tf.random.experimental.stateless_fold_in(seed, probe, alg="philox")
        signs = [
            rademacher(
                weight.shape,
                weight.dtype,
                tf.random.experimental.stateless_fold_in(probe_seed, i, alg="philox"),
            )
            for i, weight in enumerate(weights)
        ]
        products = second_derivative(tape, gradients, weights, signs, scale)
        return (
            probe + 1,
            *(
                total + tf.cast(z * hz, total.dtype)
                for total, z, hz in zip(sums, signs, products, strict=True)
            ),
        )

    # As a loop in the graph, neither tracing nor memory grows with the number of probes.
    _, *sums = tf.while_loop(
        lambda probe, *_: probe < probes,
        add_probe,
        (tf.constant(0), *(tf.zeros(weight.shape, sum_dtype(weight.dtype)) for weight in weights)),
        parallel_iterations=1,
    )
    return [total / probes for total in sums]


def hutchinson_estimate(
    objective: Objective,
    batch: Batch,
    variables: Sequence[tf.Variable],
    weights: Sequence[tf.Variable],
    probes: int,
    seed: tf.Tensor,
) -> Estimate:
    """diag(H) ≈ mean of z ⊙ Hz over `probes` random sign vectors z.

    Unbiased for any model and loss, including batch statistics and dropout: E[z_i z_j] is 1 if
    i = j, else 0, so E[z_i Σ_j H_ij z_j] = H_ii. The variance of element i is Σ_{j≠i} H_ij² per
    probe. Each probe costs one Hessian-vector product, reverse over reverse (Bekas, Kokiopoulou and
    Saad, "An estimator for the diagonal of a matrix", 2007).
    """
    # A tape that is spent frees what it holds on its way back.
    with tf.GradientTape(persistent=probes > 1) as outer:
        with tf.GradientTape() as inner:
            loss = objective(batch, fast_calls())
        gradients = gradient(inner, loss, [*variables, *weights], scale=objective.scale)
        by_weight = gradients[len(variables) :]
    diagonal = mean_of_probes(outer, by_weight, weights, probes, seed, objective.scale)
    return Estimate(loss, gradients[: len(variables)], diagonal, ["hutchinson"] * len(weights))
