"""Checks that several ops share."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np


def per_axis(name: str, value: int | Sequence[int], axes: int) -> list[int]:
    """One positive number for each spatial axis."""
    given: Any = value if np.ndim(value) else [value] * axes
    try:
        values = [operator.index(number) for number in given]
    except (AttributeError, TypeError):  # the former of a tensor that is no integer
        values = []
    if len(values) != axes or not all(1 <= number < 2**31 for number in values):
        msg = f"{name} is {value}; it must be a positive 32-bit whole number, or {axes} of them"
        raise ValueError(msg)
    return values
