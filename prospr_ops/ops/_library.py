"""The op library: loaded once, with its errors turned into Python's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import keras
import tensorflow as tf

from prospr_ops import _native
from prospr_ops.utils.build import check_tensorflow

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _load() -> Any:
    """Loads the library that was installed beside the native module.

    Raises:
        ImportError: Another TensorFlow or Keras backend runs, or the library does not load.
    """
    check_tensorflow(_native.build_info()["tensorflow"], tf.__version__)
    if keras.backend.backend() != "tensorflow":
        msg = (
            f"prospr_ops needs Keras on TensorFlow, but its backend is {keras.backend.backend()!r}; "
            "set the environment variable KERAS_BACKEND=tensorflow before Keras is imported."
        )
        raise ImportError(msg)
    assert _native.__file__ is not None
    library = Path(_native.__file__).with_name("_prospr_ops.so")
    try:
        return tf.load_op_library(str(library))
    except (tf.errors.OpError, OSError) as error:
        msg = f"the op library {library} does not load into TensorFlow {tf.__version__}: {error}"
        raise ImportError(msg) from error


library: Any = _load()


def raises_value_error(op: Callable[_P, _R]) -> Callable[_P, _R]:
    """The kernels hold the checks; this turns what they report into Python's own exception."""

    @functools.wraps(op)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return op(*args, **kwargs)
        except (tf.errors.InvalidArgumentError, tf.errors.FailedPreconditionError) as error:
            msg = f"{op.__name__}: {error.message}"
            raise ValueError(msg) from error
        except OverflowError as error:  # of a number in the place of a tensor
            msg = f"{op.__name__}: {error}"
            raise ValueError(msg) from error

    return wrapper
