"""Criteria that look at no data."""

from __future__ import annotations

import tensorflow as tf

from prospr_ops.methods.descent import log_magnitude
from prospr_ops.methods.problem import LogScores, Problem


def magnitude(problem: Problem) -> LogScores:
    """log|w_0|."""
    return {
        path: log_magnitude(tf.convert_to_tensor(weight))
        for path, weight in problem.weights.items()
    }


def random(problem: Problem) -> LogScores:
    """Independent uniform scores, from the seed."""
    return {
        path: tf.math.log(
            tf.random.stateless_uniform(weight.shape, [problem.settings.seed, number], alg="philox")
        )
        for number, (path, weight) in enumerate(problem.weights.items())
    }
