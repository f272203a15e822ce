"""Magnitude pruning."""

from __future__ import annotations

from prospr_ops.methods.engine.problem import Found, LogNumbers, Problem


def magnitude_scores(problem: Problem) -> Found:
    """log|w_0|; uses no data."""
    numbers = problem.log_weights()
    # Without signs a channel's score is the L1 norm of its weights: a sum of magnitudes.
    return Found.of({path: LogNumbers(number.log, None) for path, number in numbers.items()})
