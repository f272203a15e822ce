"""Backpropagation of several columns at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

# Operations with one input whose derivative is another tensor of its shape.
_ELEMENTWISE = "Elu Erf Exp LeakyRelu Relu Relu6 Selu Sigmoid Softplus Softsign Square Tanh"


def leading_to(output: tf.Tensor) -> set[str]:
    """Names of the operations that a tensor is computed from."""
    found: set[str] = set()
    todo = [output.op]
    while todo:
        operation = todo.pop()
        if operation.name not in found:
            found.add(operation.name)
            todo.extend(tensor.op for tensor in operation.inputs)
    return found


class _Gradient(NamedTuple):
    """Gradients of K columns at a tensor of some shape: [K, *shape].

    Attributes:
        shape: Of the tensor.
        values: The gradients, or what gives them when multiplied by `derivative`.
        derivative: The same for all columns, and not yet multiplied with.
    """

    shape: tf.TensorShape
    values: tf.Tensor
    derivative: tf.Tensor | None = None

    def product(self) -> tf.Tensor:
        if self.derivative is None:
            return self.values
        return tf.reshape(self.values * self.derivative, [self.values.shape[0], *self.shape])

    def plus(self, other: _Gradient) -> _Gradient:
        return _Gradient(self.shape, self.product() + other.product())

    def times(self, derivative: tf.Tensor) -> _Gradient:
        """The gradients before an elementwise operation, from those after it."""
        if self.derivative is not None:
            derivative = self.derivative * tf.reshape(derivative, self.derivative.shape)
        return self._replace(derivative=derivative)


class Backpropagation:
    """The way back from a model's output to tensors that lead to it, for several columns at once.

    `tf.vectorized_map` over the whole of it would do, but it tiles whatever is the same for all
    columns, and searches the windows of a pooling layer anew for each. So it goes an operation at a
    time, and the derivatives of activations and of pooling are taken once.

    Args:
        output: Where the columns are.
        targets: Where their gradients are wanted.
    """

    def __init__(self, output: tf.Tensor, targets: Sequence[tf.Tensor]) -> None:
        self._output = output
        self._targets = targets
        leading = leading_to(output)
        dependent = {target.name for target in targets}
        self._path: list[tuple[tf.Operation, list[tf.Tensor]]] = []
        for operation in output.graph.get_operations():
            sources = {t.name: t for t in operation.inputs if t.name in dependent}
            if sources and operation.name in leading:
                self._path.append((operation, list(sources.values())))
                # No gradient goes through a comparison.
                dependent.update(t.name for t in operation.outputs if t.dtype.is_floating)
        self._derivatives = {
            operation.name: _gradients(operation.outputs, sources)[0]
            for operation, sources in self._path
            if operation.type in _ELEMENTWISE.split() or _is_tiling(operation)
        }

    def __call__(self, columns: tf.Tensor) -> list[tf.Tensor]:
        """Takes columns [K, N, C], gives the gradients [K, …] at the targets."""
        found = {self._output.name: _Gradient(self._output.shape, columns)}
        for operation, sources in reversed(self._path):
            outputs = [tensor for tensor in operation.outputs if tensor.name in found]
            if not outputs:
                continue
            before = self._before(operation, outputs, [found[t.name] for t in outputs], sources)
            for source, here in zip(sources, before, strict=True):
                also = found.get(source.name)
                found[source.name] = here if also is None else also.plus(here)
        return [
            found[target.name].product()
            if target.name in found
            else tf.zeros([columns.shape[0], *target.shape], target.dtype)
            for target in self._targets
        ]

    def _before(
        self,
        operation: tf.Operation,
        outputs: Sequence[tf.Tensor],
        after: Sequence[_Gradient],
        sources: Sequence[tf.Tensor],
    ) -> list[_Gradient]:
        """The gradients at the sources of an operation, from those at its outputs."""
        derivative = self._derivatives.get(operation.name)
        if _is_matrix_product(operation, sources):
            return [_times_matrix(after[0].product(), operation)]
        if derivative is None:
            products = tuple(there.product() for there in after)
            before = tf.vectorized_map(lambda one: _gradients(outputs, sources, one), products)
            return [_Gradient(t.shape, values) for t, values in zip(sources, before, strict=True)]
        if operation.type == "MaxPool":
            return [_unpooled(after[0].product(), derivative)]
        return [after[0].times(derivative)]


def _gradients(
    outputs: Sequence[tf.Tensor],
    sources: Sequence[tf.Tensor],
    output_gradients: Sequence[tf.Tensor] | None = None,
) -> list[tf.Tensor]:
    """Gradients through one operation."""
    found = tf.gradients(
        outputs,
        sources,
        output_gradients,
        stop_gradients=sources,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return [tf.convert_to_tensor(values) for values in found]


def _is_tiling(operation: tf.Operation) -> bool:
    """Whether this is a max-pooling that has each pixel in one window."""
    if operation.type != "MaxPool" or operation.get_attr("data_format") != b"NHWC":
        return False
    window, strides = operation.get_attr("ksize"), operation.get_attr("strides")
    sizes = zip(operation.inputs[0].shape, operation.outputs[0].shape, window, strict=True)
    return window == strides and all(size == pooled * edge for size, pooled, edge in sizes)


def _is_matrix_product(operation: tf.Operation, sources: Sequence[tf.Tensor]) -> bool:
    """Whether this multiplies all rows of its only source by one matrix from the right."""
    if not operation.type.startswith("BatchMatMul") or operation.get_attr("adj_x"):
        return False
    left, right = operation.inputs
    return right.shape.rank == 2 and [left.name] == [source.name for source in sources]


def _times_matrix(values: tf.Tensor, operation: tf.Operation) -> _Gradient:
    """The gradients before a product with a matrix.

    By hand: with the axis of columns it has four axes, of which the batch may be 1, and there
    TensorFlow 2.21 writes past the end of its memory (tensorflow/tensorflow#117700).
    """
    left, matrix = operation.inputs
    rows = tf.reshape(values, [-1, values.shape[-1]])
    product = tf.matmul(rows, matrix, transpose_b=not operation.get_attr("adj_y"))
    return _Gradient(left.shape, tf.reshape(product, [values.shape[0], *left.shape]))


def _unpooled(pooled: tf.Tensor, derivative: tf.Tensor) -> _Gradient:
    """The gradients before a pooling whose windows tile: each pixel's window's, times 0 or 1."""
    samples, _, width, channels = derivative.shape
    count, _, rows, columns, _ = pooled.shape
    row = tf.concat([pooled] * (width // columns), axis=-1)
    row = tf.reshape(row, [count, samples * rows, 1, width * channels])
    derivative_by_row = tf.reshape(derivative, [samples * rows, -1, width * channels])
    return _Gradient(derivative.shape, row, derivative_by_row)
