"""Restores the variables of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf


@contextmanager
def preserved(model: keras.Model) -> Iterator[None]:
    """Restores every variable of the model on exit, also after an exception.

    Weights, moving averages, seed generators and metrics are restored bit for bit; the optimizer is
    not touched by this package. TensorFlow copies a variable's buffer only on its first write, so a
    variable that never changes costs no memory.
    """
    variables = [*model.variables, *model.metrics_variables]
    values = [tf.identity(variable.value) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
