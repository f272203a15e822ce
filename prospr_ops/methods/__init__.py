"""Pruning methods.

A method is a function from a `Problem` to log-scores: a tensor for each weight, by variable path;
larger is more important, −inf is least. To add one, add a file and a line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable

from prospr_ops.methods.baselines import magnitude, random
from prospr_ops.methods.diagonal import diagonal
from prospr_ops.methods.first_order import first_order, snip
from prospr_ops.methods.problem import LogScores, Problem

METHODS: dict[str, Callable[[Problem], LogScores]] = {
    "diagonal": diagonal,
    "first_order": first_order,
    "snip": snip,
    "magnitude": magnitude,
    "random": random,
}

# The methods that look at no data, and can be called with data=None.
DATA_FREE = frozenset({"magnitude", "random"})

# The methods that look at the loss after `steps` steps of gradient descent.
WITH_STEPS = frozenset({"diagonal", "first_order"})

__all__ = ["DATA_FREE", "METHODS", "WITH_STEPS", "LogScores", "Problem"]
