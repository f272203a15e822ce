"""Magnitude pruning."""

from __future__ import annotations

from prospr_ops.methods.engine.problem import Found, LogNumbers, Problem


def magnitude_scores(problem: Problem) -> Found:
    """log|w_0|, which looks at no data."""
    numbers = problem.log_weights()
    # A channel's score is its weights' L1 norm: a sum of magnitudes, without signs.
    return Found.of({path: LogNumbers(number.log, None) for path, number in numbers.items()})
