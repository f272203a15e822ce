"""The loaded op library, and how its errors become Python's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import tensorflow as tf

from prospr_ops import _load

_P = ParamSpec("_P")
_R = TypeVar("_R")

library: Any = _load.load_ops()


def raises_value_error(op: Callable[_P, _R]) -> Callable[_P, _R]:
    """The kernels hold the checks; this turns what they report into Python's own exception."""

    @functools.wraps(op)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return op(*args, **kwargs)
        except (tf.errors.InvalidArgumentError, tf.errors.FailedPreconditionError) as error:
            msg = f"{op.__name__}: {error.message}"
            raise ValueError(msg) from error

    return wrapper
