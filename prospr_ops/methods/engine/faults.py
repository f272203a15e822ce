"""In which layer a derivative fails. What is here runs only once one has."""

from __future__ import annotations

import re
from collections.abc import Iterable

import keras
import tensorflow as tf

from prospr_ops.curvature.estimate import gradient, second_derivative
from prospr_ops.methods.engine.problem import Problem
from prospr_ops.network import keras_private
from prospr_ops.network.loss import Batch
from prospr_ops.network.second_derivatives import (
    NoSecondDerivative,
    differentiating_gradients,
    refused,
)

_CHECKED = (tf.float16, tf.bfloat16, tf.float32, tf.float64)


def layer_without_derivative(problem: Problem, error: NoSecondDerivative) -> str:
    """Name of the layer behind which a second derivative is missing; empty if it is not known.

    The operations of a graph have their layer's name, so the loss is differentiated twice in one.
    """
    batch = next(problem.batches)
    try:
        with refused(error.operation):
            tf.function(lambda: _twice(problem, batch), autograph=False).get_concrete_function()
    except NoSecondDerivative as found:
        return _layer(found.scope, problem.objective.model)
    except Exception:  # noqa: BLE001 - a model that cannot be traced
        return ""
    return ""


def layer_not_finite(problem: Problem, batch: Batch) -> str:
    """Name of the layer in which a derivative stops being finite; empty if it is not known.

    The graph of both derivatives is computed again, and each operation's result looked at: from a
    derivative that is not finite one goes back to an operation that made it so.
    """
    operations: list[tf.Operation] = []
    ends: list[str] = []

    def finite() -> tf.Tensor:
        derivatives = _twice(problem, batch)
        graph = derivatives[0].graph
        ends.extend(tensor.op.name for tensor in derivatives)
        operations.extend(op for op in graph.get_operations() if _numbers(op.outputs))
        return tf.stack(
            [
                tf.reduce_all([tf.reduce_all(tf.math.is_finite(t)) for t in _numbers(op.outputs)])
                for op in operations
            ]
        )

    try:
        flags = tf.function(finite, autograph=False)().numpy()
    except Exception:  # noqa: BLE001 - a model that cannot be traced or differentiated twice
        return ""
    bad = {op.name: op for op, good in zip(operations, flags, strict=True) if not good}
    todo = [bad[name] for name in ends if name in bad]
    seen: set[str] = set()
    while todo:
        operation = todo.pop()
        seen.add(operation.name)
        before = [t.op for t in operation.inputs if t.op.name in bad]
        if not before:
            if not _numbers(operation.inputs):  # a variable, which the pass has changed already
                return ""
            return _layer(operation.name, problem.objective.model)
        todo.extend(op for op in before if op.name not in seen)
    return ""


def _twice(problem: Problem, batch: Batch) -> list[tf.Tensor]:
    """First and second derivatives of the loss, to be traced in one graph."""
    variables = [*problem.prunable(), *problem.others()]
    with differentiating_gradients(), tf.GradientTape() as tape:
        with tf.GradientTape() as first:
            loss = problem.objective(batch)
        gradients = gradient(first, loss, variables)
    return [*gradients, *second_derivative(tape, gradients, variables)]


def _numbers(tensors: Iterable[tf.Tensor]) -> list[tf.Tensor]:
    return [tensor for tensor in tensors if tensor.dtype in _CHECKED]


def _layer(scope: str, model: keras.Model) -> str:
    """The innermost layer whose name is a part of an operation's."""
    names = {layer.name for layer in keras_private.all_layers(model)} - {model.name}
    for part in reversed(scope.split("/")):
        for name in (part, re.sub(r"_\d+$", "", part)):  # TensorFlow counts a name's uses
            if name in names:
                return name
    return ""
