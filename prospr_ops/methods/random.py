"""Random pruning."""

from __future__ import annotations

import tensorflow as tf

from prospr_ops.methods.engine.problem import Found, Problem, Scorer


def random_scorer(problem: Problem) -> Scorer:
    """Independent uniform scores from the seed, the same in every round; uses no data."""
    seed = problem.settings.seed

    def scores(_: int) -> Found:
        return Found(
            {
                path: tf.math.log(
                    tf.random.stateless_uniform(weight.shape, [seed, number], alg="philox")
                )
                for number, (path, weight) in enumerate(problem.weights.items())
            }
        )

    return scores
