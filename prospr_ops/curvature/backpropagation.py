"""Backpropagation of several columns at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from prospr_ops import ops

# Operations with one input whose derivative is another tensor of its shape.
_ELEMENTWISE = "Elu Erf Exp LeakyRelu Relu Relu6 Selu Sigmoid Softplus Softsign Square Tanh"
# Our kernel is worth it from so many windows on: it passes over the convolution's kernel for each
# sample, and does too little with it where there are few.
_LEAST_WINDOWS = 16


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


class Gradient(NamedTuple):
    """Gradients of K columns at a tensor of some shape: [K, *shape].

    Attributes:
        shape: Of the tensor.
        values: The gradients, or what gives them when multiplied by `derivative`.
        derivative: The same for all columns, and not yet multiplied with.
        pooled: Whether `values` are those after a pooling, one for each window of those that tile
            the tensor; the derivative is then mostly zero.
    """

    shape: tf.TensorShape
    values: tf.Tensor
    derivative: tf.Tensor | None = None
    pooled: bool = False

    def dense(self) -> tf.Tensor:
        """The gradients themselves."""
        if self.derivative is None:
            return self.values
        if self.pooled:
            unpooled = _unpooled(self.values, self.derivative)
            return tf.reshape(unpooled, [self.values.shape[0], *self.shape])
        return self.values * self.derivative

    def has_kernel(self) -> bool:
        """Whether there is a derivative, and kernels that multiply with it on the way.

        On a GPU, where those skip no zeros, what takes dense gradients is faster (docs/cuda.md).
        """
        return (
            self.derivative is not None
            and self.values.dtype in (tf.float32, tf.float64)
            and not tf.config.list_logical_devices("GPU")
        )

    def plus(self, other: Gradient) -> Gradient:
        """The sum of the gradients that two uses of a tensor give."""
        return Gradient(self.shape, self.dense() + other.dense())

    def times(self, derivative: tf.Tensor) -> Gradient:
        """The gradients before an elementwise operation, from those after it."""
        if self.derivative is not None:
            derivative = self.derivative * derivative
        return self._replace(derivative=derivative)


class Backpropagation:
    """The way back from a model's output to tensors that lead to it, for several columns at once.

    `tf.vectorized_map` over the whole of it would do, but it tiles whatever is the same for all
    columns, and searches the windows of a pooling layer anew for each. So it goes an operation at a
    time, and the derivatives of activations and of pooling are taken once. The gradients before a
    max-pooling, which has one non-zero in each window, stay pooled as long as they can.

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
        # Windows, by the names of tensors whose gradients stay pooled.
        self._windows: dict[str, int] = {}
        for operation, sources in reversed(self._path):
            after = operation.outputs[0]
            if _is_tiling(operation):
                self._windows[sources[0].name] = after.shape.num_elements()
            elif after.name in self._windows and _is_pixel_by_pixel(operation, sources):
                self._windows[sources[0].name] = self._windows[after.name]

    def bytes_per_column(self) -> int:
        """What the gradients of a column at all targets take, roughly."""
        return sum(
            self._windows.get(target.name, target.shape.num_elements()) * target.dtype.size
            for target in self._targets
        )

    def __call__(self, columns: tf.Tensor) -> list[Gradient]:
        """Takes columns [K, N, C], gives the gradients [K, …] at the targets."""
        found = {self._output.name: Gradient(self._output.shape, columns)}
        for operation, sources in reversed(self._path):
            outputs = [tensor for tensor in operation.outputs if tensor.name in found]
            if not outputs:
                continue
            before = self._before(operation, outputs, [found[t.name] for t in outputs], sources)
            for source, here in zip(sources, before, strict=True):
                also = found.get(source.name)
                found[source.name] = here if also is None else also.plus(here)
        return [
            found[target.name]
            if target.name in found
            else Gradient(target.shape, tf.zeros([columns.shape[0], *target.shape], target.dtype))
            for target in self._targets
        ]

    def _before(
        self,
        operation: tf.Operation,
        outputs: Sequence[tf.Tensor],
        after: Sequence[Gradient],
        sources: Sequence[tf.Tensor],
    ) -> list[Gradient]:
        """The gradients at the sources of an operation, from those at its outputs."""
        there = after[0]
        derivative = self._derivatives.get(operation.name)
        if operation.type == "MaxPool" and derivative is not None:
            return [Gradient(derivative.shape, there.dense(), derivative, pooled=True)]
        if derivative is not None:
            return [there.times(derivative)]
        if _is_pixel_by_pixel(operation, sources):
            return [there]
        if _is_worth_a_kernel(there) and _is_plain_convolution(operation, sources):
            return [_through_convolution(operation, there)]
        if _is_matrix_product(operation, sources):
            return [_times_matrix(there.dense(), operation)]
        products = tuple(gradient.dense() for gradient in after)
        before = tf.vectorized_map(lambda one: _gradients(outputs, sources, one), products)
        return [Gradient(t.shape, values) for t, values in zip(sources, before, strict=True)]


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
    if operation.get_attr("padding") not in (b"VALID", b"SAME"):
        return False
    window, strides = operation.get_attr("ksize"), operation.get_attr("strides")
    sizes = zip(operation.inputs[0].shape, operation.outputs[0].shape, window, strict=True)
    tiles = all(size == pooled * edge for size, pooled, edge in sizes)
    return window == strides and window[0] == window[3] == 1 and tiles


def _is_matrix_product(operation: tf.Operation, sources: Sequence[tf.Tensor]) -> bool:
    """Whether this multiplies all rows of its only source by one matrix from the right."""
    if not operation.type.startswith("BatchMatMul") or operation.get_attr("adj_x"):
        return False
    left, right = operation.inputs
    return right.shape.rank == 2 and [left.name] == [source.name for source in sources]


def _times_matrix(values: tf.Tensor, operation: tf.Operation) -> Gradient:
    """The gradients before a product with a matrix.

    By hand: with the axis of columns it has four axes, of which the batch may be 1, and there
    TensorFlow 2.21 writes past the end of its memory (tensorflow/tensorflow#117700).
    """
    left, matrix = operation.inputs
    rows = tf.reshape(values, [-1, values.shape[-1]])
    product = tf.matmul(rows, matrix, transpose_b=not operation.get_attr("adj_y"))
    return Gradient(left.shape, tf.reshape(product, [values.shape[0], *left.shape]))


def _is_pixel_by_pixel(operation: tf.Operation, sources: Sequence[tf.Tensor]) -> bool:
    """Whether gradients before an operation are those after it, but for a derivative."""
    if operation.type == "BiasAdd":
        return len(sources) == 1 and sources[0] is operation.inputs[0]
    return operation.type in _ELEMENTWISE.split()


def _is_worth_a_kernel(gradient: Gradient) -> bool:
    windows = gradient.values.shape[2:-1].num_elements()
    return gradient.pooled and gradient.has_kernel() and windows >= _LEAST_WINDOWS


def _is_plain_convolution(operation: tf.Operation, sources: Sequence[tf.Tensor]) -> bool:
    """Whether there is a kernel that takes pooled gradients back to its input."""
    return (
        operation.type == "Conv2D"
        and operation.get_attr("data_format") == b"NHWC"
        and operation.get_attr("padding") in (b"VALID", b"SAME")
        and len(sources) == 1
        and sources[0] is operation.inputs[0]
    )


def _through_convolution(convolution: tf.Operation, after: Gradient) -> Gradient:
    inputs, kernel = convolution.inputs
    values = ops.pooled_conv_input_gradient(
        kernel,
        after.values,
        after.derivative,
        inputs.shape[1:3],
        strides=convolution.get_attr("strides")[1:3],
        padding=convolution.get_attr("padding").decode().lower(),
        dilation_rate=convolution.get_attr("dilations")[1:3],
        groups=inputs.shape[-1] // kernel.shape[2],
    )
    return Gradient(inputs.shape, values)


def _unpooled(values: tf.Tensor, derivative: tf.Tensor) -> tf.Tensor:
    """Each pixel's window's gradient, times the derivative; a row of windows at a time."""
    samples, _, width, channels = derivative.shape
    count, _, rows, columns, _ = values.shape
    row = tf.concat([values] * (width // columns), axis=-1)
    row = tf.reshape(row, [count, samples * rows, 1, width * channels])
    return row * tf.reshape(derivative, [samples * rows, -1, width * channels])
