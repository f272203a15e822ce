"""Random pruning."""

from __future__ import annotations

import tensorflow as tf

from prospr_ops.methods.engine.problem import Found, Problem


def random_scores(problem: Problem) -> Found:
    """Independent uniform scores from the seed; uses no data."""
    scores = {
        path: tf.math.log(
            tf.random.stateless_uniform(weight.shape, [problem.settings.seed, number], alg="philox")
        )
        for number, (path, weight) in enumerate(problem.weights.items())
    }
    return Found(scores)
