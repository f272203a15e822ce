"""Magnitude pruning."""

from __future__ import annotations

from prospr_ops.methods.engine.problem import Found, LogNumbers, Problem, Scorer


def magnitude_scorer(problem: Problem) -> Scorer:
    """log|w_0|; uses no data."""

    def scores(_: int) -> Found:
        numbers = problem.log_weights()
        # Without signs a channel's score is the L1 norm of its weights: a sum of magnitudes.
        return Found.of({path: LogNumbers(number.log, None) for path, number in numbers.items()})

    return scores
