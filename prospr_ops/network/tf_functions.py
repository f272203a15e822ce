"""Functions of tf.nn that Keras layers call, replaced while a model is called."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import backprop

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


# Types and shapes, and lists of them, as `backprop.make_attr` knows them.
_KINDS = (int(pywrap_tfe.TF_ATTR_TYPE), int(pywrap_tfe.TF_ATTR_SHAPE))
_MADE_BY_TENSORFLOW = [*_KINDS, *([kind] for kind in _KINDS)]
_stock_make_attr = backprop.make_attr


def _make_attr(kind: Any, value: Any) -> Any:
    if kind in _MADE_BY_TENSORFLOW:
        return _stock_make_attr(kind, value)
    if isinstance(value, list):
        return [one.encode() if isinstance(one, str) else one for one in value]
    return value.encode() if isinstance(value, str) else value


@contextmanager
def attributes_as_they_are() -> Iterator[None]:
    """An eager tape gives attributes of operations to their gradients without looking into structures.

    TensorFlow maps a function over each, as over a structure of any depth; they are values, strings and
    flat lists. Another thread that
    leaves this context makes it slower here, not wrong.
    """
    backprop.make_attr = _make_attr
    try:
        yield
    finally:
        backprop.make_attr = _stock_make_attr


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
