"""Backpropagation of several gradient columns at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from prospr_ops import ops

# Operations with one input whose derivative is another tensor of its shape.
_ELEMENTWISE = "Elu Erf Exp LeakyRelu Relu Relu6 Selu Sigmoid Softplus Softsign Square Tanh"
# Windows per sample from which our kernel is faster: it reads the convolution's kernel once per
# sample, which does not pay for few windows.
_LEAST_WINDOWS = 16


def leading_to(output: tf.Tensor) -> set[str]:
    """Names of the operations from which a tensor is computed."""
    found: set[str] = set()
    todo = [output.op]
    while todo:
        operation = todo.pop()
        if operation.name not in found:
            found.add(operation.name)
            todo.extend(tensor.op for tensor in operation.inputs)
    return found


class Gradient(NamedTuple):
    """Gradients of K columns at a tensor: [K, *shape].

    Attributes:
        shape: Shape of the tensor.
        values: The gradients, or what must be multiplied by `derivative` to give them.
        derivative: Factor that all columns share and that is not multiplied in yet; None for no
            factor.
        pooled: Whether `values` are gradients after a pooling whose windows tile the tensor, one
            per window; the derivative is then mostly zero.
    """

    shape: tf.TensorShape
    values: tf.Tensor
    derivative: tf.Tensor | None = None
    pooled: bool = False

    def dense(self) -> tf.Tensor:
        """The gradients with the derivative multiplied in."""
        if self.derivative is None:
            return self.values
        if self.pooled:
            unpooled = _unpooled(self.values, self.derivative)
            return tf.reshape(unpooled, [self.values.shape[0], *self.shape])
        return self.values * self.derivative

    def has_kernel(self) -> bool:
        """Whether there is a derivative, and compiled kernels that multiply by it on the way.

        GPU kernels do not skip zeros, so dense gradients are faster there (docs/cuda.md).
        """
        return (
            self.derivative is not None
            and self.values.dtype in (tf.float32, tf.float64)
            and not tf.config.list_logical_devices("GPU")
        )

    def plus(self, other: Gradient) -> Gradient:
        """The sum of the gradients from two uses of a tensor."""
        return Gradient(self.shape, self.dense() + other.dense())

    def times(self, derivative: tf.Tensor) -> Gradient:
        """The gradients before an elementwise operation, from those after it."""
        if self.derivative is not None:
            derivative = self.derivative * derivative
        return self._replace(derivative=derivative)


class Backpropagation:
    """Backpropagation from a model's output to earlier tensors, for several columns at once.

    `tf.vectorized_map` over all of it would tile whatever the columns share, and would search the
    windows of a pooling layer once per column. This class goes one operation at a time and computes
    the derivatives of activations and of pooling once. The gradients before a max-pooling, which
    are nonzero at one element per window, stay pooled as long as possible.

    Args:
        output: Tensor at which the columns are given.
        targets: Tensors at which the gradients are wanted.
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
                # Comparisons have no gradient.
                dependent.update(t.name for t in operation.outputs if t.dtype.is_floating)
        self._derivatives = {
            operation.name: _gradients(operation.outputs, sources)[0]
            for operation, sources in self._path
            if operation.type in _ELEMENTWISE.split() or _is_tiling(operation)
        }
        # Number of windows, by the names of tensors whose gradients stay pooled.
        self._windows: dict[str, int] = {}
        for operation, sources in reversed(self._path):
            after = operation.outputs[0]
            if _is_tiling(operation):
                self._windows[sources[0].name] = after.shape.num_elements()
            elif after.name in self._windows and _is_pixel_by_pixel(operation, sources):
                self._windows[sources[0].name] = self._windows[after.name]

    def bytes_per_column(self) -> int:
        """Approximate size in bytes of the gradients of one column at all targets."""
        return sum(
            self._windows.get(target.name, target.shape.num_elements()) * target.dtype.size
            for target in self._targets
        )

    def __call__(self, columns: tf.Tensor) -> list[Gradient]:
        """Returns the gradients [K, …] at the targets, for columns [K, N, C] at the output."""
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
    """Whether this is a max-pooling whose windows tile the image."""
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

    Written by hand because with the axis of columns the product has four axes, where TensorFlow
    2.21 writes out of bounds if the batch is 1 (tensorflow/tensorflow#117700).
    """
    left, matrix = operation.inputs
    rows = tf.reshape(values, [-1, values.shape[-1]])
    product = tf.matmul(rows, matrix, transpose_b=not operation.get_attr("adj_y"))
    return Gradient(left.shape, tf.reshape(product, [values.shape[0], *left.shape]))


def _is_pixel_by_pixel(operation: tf.Operation, sources: Sequence[tf.Tensor]) -> bool:
    """Whether an operation changes gradients by an elementwise derivative at most."""
    if operation.type == "BiasAdd":
        return len(sources) == 1 and sources[0] is operation.inputs[0]
    return operation.type in _ELEMENTWISE.split()


def _is_worth_a_kernel(gradient: Gradient) -> bool:
    windows = gradient.values.shape[2:-1].num_elements()
    return gradient.pooled and gradient.has_kernel() and windows >= _LEAST_WINDOWS


def _is_plain_convolution(operation: tf.Operation, sources: Sequence[tf.Tensor]) -> bool:
    """Whether a compiled kernel takes pooled gradients back to the input of this operation."""
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
    """The gradient of each pixel's window times the derivative, one row of windows at a time."""
    samples, _, width, channels = derivative.shape
    count, _, rows, columns, _ = values.shape
    row = tf.concat([values] * (width // columns), axis=-1)
    row = tf.reshape(row, [count, samples * rows, 1, width * channels])
    return row * tf.reshape(derivative, [samples * rows, -1, width * channels])
