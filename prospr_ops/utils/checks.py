"""Checks of arguments: each returns the value, or raises an error that says what is accepted."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import Any


def choose(name: str, value: Any, accepted: Iterable[str]) -> str:
    """Returns `value` if it is one of `accepted`.

    Raises:
        ValueError: `value` is not accepted; the message lists what is.
    """
    accepted = list(accepted)
    if value not in accepted:
        msg = f"{name} must be one of {', '.join(map(repr, accepted))}, not {value!r}"
        raise ValueError(msg)
    return value


def check_real(name: str, value: Any, *, below: float = math.inf) -> float:
    """Returns `value` as a float if it is a number in [0, `below`).

    Raises:
        TypeError: `value` is not a number.
        ValueError: `value` is out of range or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        msg = f"{name} must be a number, not {type(value).__name__}"
        raise TypeError(msg)
    value = float(value)
    if not 0 <= value < below:
        limit = "finite" if below == math.inf else f"less than {below:g}"
        msg = f"{name} must be at least 0 and {limit}, not {value!r}"
        raise ValueError(msg)
    return value


def check_integer(name: str, value: Any, *, at_least: int) -> int:
    """Returns `value` as an int if it is an integer ≥ `at_least`.

    Raises:
        TypeError: `value` is not an integer.
        ValueError: `value` is less than `at_least`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        msg = f"{name} must be an integer, not {type(value).__name__} ({value!r})"
        raise TypeError(msg)
    if value < at_least:
        msg = f"{name} must be at least {at_least}, not {value!r}"
        raise ValueError(msg)
    return int(value)
