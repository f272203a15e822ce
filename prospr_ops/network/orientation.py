"""Which axes of a kernel run over its inputs and which over its outputs."""

from __future__ import annotations

import keras
from keras import layers

from prospr_ops.network.weights import is_kernel
from prospr_ops.utils.axes import Axes

_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)


def kernel_axes(layer: keras.layers.Layer, variable: keras.Variable) -> Axes:
    """The input and output axes of a weight array.

    A kernel is [inputs, outputs] in Dense layers, Embeddings (as a product with one-hot rows) and
    recurrent cells, and [positions, inputs, outputs] in convolutions. Inputs and outputs change
    places in transposed convolutions. An output of a depthwise convolution sums over positions only,
    so its kernel has no input axis. In EinsumDense the equation tells. Any other array is taken
    as [rest, inputs, outputs], and a vector as outputs.
    """
    dimensions = len(variable.shape)
    if is_kernel(layer, variable):
        if isinstance(layer, layers.EinsumDense):
            return _einsum(layer.equation)
        if isinstance(layer, _TRANSPOSED):
            return Axes((dimensions - 1,), (dimensions - 2,))
        if isinstance(layer, _DEPTHWISE) or variable is getattr(layer, "depthwise_kernel", None):
            return Axes((), (dimensions - 2, dimensions - 1))
    if dimensions < 2:
        return Axes((), tuple(range(dimensions)))
    return Axes((dimensions - 2,), (dimensions - 1,))


def _einsum(equation: str) -> Axes:
    """Inputs are what is summed over; an axis of both data and output makes several kernels."""
    operands, output = equation.replace(" ", "").split("->")
    data, kernel = operands.split(",")
    return Axes(
        tuple(i for i, axis in enumerate(kernel) if axis not in output),
        tuple(i for i, axis in enumerate(kernel) if axis in output and axis not in data),
    )
