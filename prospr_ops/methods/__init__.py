"""Pruning methods.

A method is a function from a `Problem` to scores: a tensor for each weight, by variable path; larger
is more important, −inf is least. They are logarithms, unless the method is `signed`. To add one, add
a file and a line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from prospr_ops.methods.baselines import magnitude, random
from prospr_ops.methods.diagonal import diagonal
from prospr_ops.methods.exact import exact
from prospr_ops.methods.first_order import first_order, snip
from prospr_ops.methods.grasp import grasp
from prospr_ops.methods.problem import LogScores, Problem, SignedScores
from prospr_ops.methods.synflow import ITERATIONS, synflow


class Method(NamedTuple):
    """A pruning method.

    Attributes:
        scores: The function.
        passes: How many passes over a batch it makes, by the number of steps; always 0 for a
            method that looks at no data, and can be called with data=None.
        sums: Whether the score of a channel is the sum of its weights' (with `Problem.signs`); else
            the function is given one element a channel instead of its weights.
        signed: Whether the scores are signed numbers, of which the largest are kept, instead of
            logarithms of magnitudes.
        iterations: In how many it prunes, where a sparsity is asked for.
    """

    scores: Callable[[Problem], LogScores | SignedScores]
    passes: Callable[[int], int]
    sums: bool = True
    signed: bool = False
    iterations: int = 1


METHODS: dict[str, Method] = {
    "diagonal": Method(diagonal, lambda steps: steps + 1),
    "exact": Method(exact, lambda steps: 2 * steps + 1),
    "first_order": Method(first_order, lambda steps: steps + 1),
    "snip": Method(snip, lambda _: 1),
    "grasp": Method(grasp, lambda _: 2, signed=True),
    "synflow": Method(synflow, lambda _: 0, iterations=ITERATIONS),
    "magnitude": Method(magnitude, lambda _: 0),
    "random": Method(random, lambda _: 0, sums=False),
}

__all__ = ["METHODS", "LogScores", "Method", "Problem", "SignedScores"]
