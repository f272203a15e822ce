"""Criteria that look at no data."""

from __future__ import annotations

import tensorflow as tf

from prospr_ops.methods.descent import log_weights
from prospr_ops.methods.problem import LogScores, Problem


def magnitude(problem: Problem) -> LogScores:
    """log|w_0|."""
    return log_weights(problem)


def random(problem: Problem) -> LogScores:
    """Independent uniform scores, from the seed."""
    return {
        path: tf.math.log(
            tf.random.stateless_uniform(weight.shape, [problem.settings.seed, number], alg="philox")
        )
        for number, (path, weight) in enumerate(problem.weights.items())
    }
