"""Functions of tf.nn that Keras layers call, replaced while a model is called."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

_stock_moments = tf.nn.moments
# Other threads must neither see the replacements nor undo them.
_replaced_lock = threading.RLock()


def moments(*args: Any, **options: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """tf.nn.moments with a correct second derivative.

    The original treats the mean a in the variance E[(x − a)²] as a constant. The first derivative
    is right, since deviations from the mean sum to zero; the second is not. The variance equals
    E[(x − a)²] − (mean − a)² for every a; at a = mean the last term and its first derivative are
    zero, but its second derivative is not.
    """
    mean, about_mean = _stock_moments(*args, **options)
    return mean, about_mean - tf.square(mean - tf.stop_gradient(mean))


@contextmanager
def replaced(functions: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Replaces functions of tf.nn, which Keras layers call, while the context is open."""
    with _replaced_lock:
        before = {name: getattr(tf.nn, name) for name in functions}
        try:
            for name, function in functions.items():
                setattr(tf.nn, name, function)
            yield
        finally:
            for name, function in before.items():
                setattr(tf.nn, name, function)
