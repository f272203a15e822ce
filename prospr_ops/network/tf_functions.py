"""Functions of tf.nn that Keras's layers call, replaced while a model is called."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

_stock_moments = tf.nn.moments
# Other threads must neither find the replacements nor take them away.
_replaced_lock = threading.RLock()


def moments(*args: Any, **options: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """tf.nn.moments, which can be differentiated twice.

    The original takes the variance about the mean as about a constant, a = mean: the first
    derivative of E[(x − a)²] is right, as deviations from the mean sum to zero, and the second is
    not. The variance is E[(x − a)²] − (mean − a)² for every a; the last term is zero, but for its
    own second derivative.
    """
    mean, about_mean = _stock_moments(*args, **options)
    return mean, about_mean - tf.square(mean - tf.stop_gradient(mean))


@contextmanager
def replaced(functions: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Replaces functions of tf.nn, which Keras's layers call, while the context is open."""
    with _replaced_lock:
        before = {name: getattr(tf.nn, name) for name in functions}
        try:
            for name, function in functions.items():
                setattr(tf.nn, name, function)
            yield
        finally:
            for name, function in before.items():
                setattr(tf.nn, name, function)
