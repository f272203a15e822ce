"""Restores the variables of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf


@contextmanager
def preserved(model: keras.Model) -> Iterator[None]:
    """Restores every variable of the model on exit, also after an exception.

    Weights, moving averages, states, seed generators and metrics are all put back, bit for bit, and
    metrics that were made meanwhile (Keras makes one per loss) are reset; the optimizer is not
    touched by anything here. TensorFlow copies a variable's buffer only when it is
    first written, so what is never changed costs no memory.
    """
    variables = [*model.variables, *model.metrics_variables]
    values = [tf.identity(variable.value) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.value.assign(value, read_value=False)
        known = {id(variable) for variable in variables}
        for metric in model.metrics:
            if any(id(variable) not in known for variable in metric.variables):
                metric.reset_state()
