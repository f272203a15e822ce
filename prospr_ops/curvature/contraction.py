"""The closed form of each kind of layer: its compiled contraction, and the operands.

For the recorded calls of a layer with inputs a, and the gradient factors s at the output of each
call, a contraction gives Σ_n Σ_c (Σ_t a s)² for each of the layer's kernels.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import keras
import tensorflow as tf

from prospr_ops import ops
from prospr_ops.curvature.backpropagation import Gradient
from prospr_ops.curvature.loss_factors import NotApplicable
from prospr_ops.network.layer_calls import Call

Layer: TypeAlias = keras.layers.Layer
# A function of a layer, its calls and the factors [K, N, …] at the output of each call; returns the
# diagonal of each kernel, in the order of `ClosedForm.kernels`.
Contraction = Callable[[Layer, Sequence[Call], Sequence[tf.Tensor]], list[tf.Tensor]]


class ClosedForm(NamedTuple):
    """The closed form of a kind of layer: its kernels and their contraction."""

    kernels: tuple[str, ...]
    contract: Contraction
    # The same for one call, and a gradient whose derivative is not multiplied in yet.
    contract_with_derivative: Callable[[Layer, Call, Gradient], list[tf.Tensor]] | None = None

    def diagonals(
        self, layer: Layer, calls: Sequence[Call], gradients: Sequence[Gradient]
    ) -> list[tf.Tensor]:
        """The contraction, with the gradients at the output of each call as the factors."""
        first = gradients[0]
        if self.contract_with_derivative and len(calls) == 1 and first.has_kernel():
            return self.contract_with_derivative(layer, calls[0], first)
        return self.contract(layer, calls, [gradient.dense() for gradient in gradients])


def closed_form(layer: Layer) -> ClosedForm | None:
    """The closed form of a layer; None if it has none or overrides how its output is computed."""
    for kind, form in _CLOSED_FORMS.items():
        if isinstance(layer, kind):
            # Keras tells subclasses of a convolution to override `convolution_op`.
            own = any(
                getattr(type(layer), method, None) is not getattr(kind, method, None)
                for method in ("call", "convolution_op", *form.kernels)
            )
            return None if own or getattr(layer, "lora_enabled", False) else form
    return None


def _columns_of(factors: tf.Tensor) -> int:
    return factors.shape[0]


def _with_positions(inputs: tf.Tensor, factors: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """[N, …, I] and [K, N, …, O] with the middle axes merged into one."""
    samples = inputs.shape[0]
    return (
        tf.reshape(inputs, [samples, -1, inputs.shape[-1]]),
        tf.reshape(factors, [_columns_of(factors), samples, -1, factors.shape[-1]]),
    )


def _dense_calls(calls: Sequence[Call], factors: Sequence[tf.Tensor]) -> tf.Tensor:
    """The diagonal for several calls: the sum runs over the positions of all calls."""
    if len(calls) == 1:
        return ops.dense_curvature(calls[0].inputs, factors[0])
    pairs = [_with_positions(call.inputs, s) for call, s in zip(calls, factors, strict=True)]
    inputs, outputs = zip(*pairs, strict=True)
    return ops.dense_curvature(tf.concat(inputs, axis=1), tf.concat(outputs, axis=2))


def _dense(layer: Layer, calls: Sequence[Call], factors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    del layer
    return [_dense_calls(calls, factors)]


def _dense_with_derivative(layer: Layer, call: Call, gradient: Gradient) -> list[tf.Tensor]:
    """Treats a dense layer without positions as a convolution of one pixel."""
    if call.inputs.shape.rank != 2:
        return _dense(layer, [call], [gradient.dense()])
    assert gradient.derivative is not None
    curvature = ops.pooled_conv_curvature(
        call.inputs[:, None],
        gradient.values[:, :, None],
        gradient.derivative[:, None],
        kernel_size=1,
    )
    return [curvature[0]]


def _einsum_dense(
    layer: Layer, calls: Sequence[Call], factors: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Treats an einsum as a dense layer over positions P (with the batch), inputs I and outputs O.

    "abc,cde->abde": P = ab, I = c, O = de.
    """
    terms, output = layer.equation.replace(" ", "").split("->")
    data, kernel = terms.split(",")
    if "..." in layer.equation:
        unused = "".join(sorted(set(string.ascii_letters) - set(layer.equation)))
        extra = unused[: calls[0].inputs.shape.rank - len(data) + 3]
        data, output = data.replace("...", extra), output.replace("...", extra)
    positions = [axis for axis in data if axis in output]
    contracted = [axis for axis in data if axis in kernel]
    produced = [axis for axis in output if axis in kernel]
    if (
        set(contracted) & set(produced)
        or len(positions) + len(contracted) != len(data)
        or len(positions) + len(produced) != len(output)
        or positions[:1] != [data[0]]
        or data[0] != output[0]
    ):
        msg = f"the einsum {layer.equation!r} is no dense layer over positions"
        raise NotApplicable(msg)

    def arranged(tensor: tf.Tensor, axes: str, last: list[str], leading: int) -> tf.Tensor:
        order = [leading + axes.index(axis) for axis in [*positions, *last]]
        tensor = tf.transpose(tensor, [*range(leading), *order])
        size = tf.TensorShape(tensor.shape[leading + len(positions) :]).num_elements()
        return tf.reshape(tensor, [*tensor.shape[: leading + len(positions)], size])

    flat_calls = [Call(arranged(call.inputs, data, contracted, 0), call.outputs) for call in calls]
    flat_factors = [arranged(s, output, produced, 1) for s in factors]
    flat = _dense_calls(flat_calls, flat_factors)
    sizes = dict(zip(kernel, layer.kernel.shape, strict=True))
    shaped = tf.reshape(flat, [sizes[axis] for axis in [*contracted, *produced]])
    return [tf.transpose(shaped, [[*contracted, *produced].index(axis) for axis in kernel])]


def _embedding(
    layer: Layer, calls: Sequence[Call], factors: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    indices, outputs = [], []
    for call, s in zip(calls, factors, strict=True):
        samples = call.inputs.shape[0]
        indices.append(tf.reshape(tf.cast(call.inputs, tf.int32), [samples, -1]))
        outputs.append(tf.reshape(s, [_columns_of(s), samples, -1, s.shape[-1]]))
    return [
        ops.embedding_curvature(
            tf.concat(indices, axis=1), tf.concat(outputs, axis=2), layer.input_dim
        )
    ]


def _conv_calls(
    layer: Layer, inputs: Sequence[tf.Tensor], factors: Sequence[tf.Tensor], *, depthwise: bool
) -> tf.Tensor:
    if layer.data_format != "channels_last":
        msg = "its data format is channels_first"
        raise NotApplicable(msg)
    axes = {
        "kernel_size": layer.kernel_size,
        "strides": layer.strides,
        "dilation_rate": layer.dilation_rate,
    }
    groups = getattr(layer, "groups", 1)
    if len(inputs) == 1:
        return ops.conv_curvature(
            inputs[0], factors[0], padding=layer.padding, groups=groups, depthwise=depthwise, **axes
        )
    # Several calls become one more spatial axis, on which the kernel has size 1: the pixels of all
    # of them are summed before the square.
    same_shape = len({tuple(tensor.shape) for tensor in inputs}) == 1
    if not same_shape or layer.rank == 3 or layer.padding == "causal":
        msg = "it is called several times, and not on 1- or 2-D inputs of one shape"
        raise NotApplicable(msg)
    found = ops.conv_curvature(
        tf.stack(inputs, axis=1),
        tf.stack(factors, axis=2),
        padding=layer.padding,
        groups=groups,
        depthwise=depthwise,
        **{name: (1, *values) for name, values in axes.items()},
    )
    return found[0]


def _conv(layer: Layer, calls: Sequence[Call], factors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [_conv_calls(layer, [call.inputs for call in calls], factors, depthwise=False)]


def _conv_with_derivative(layer: Layer, call: Call, gradient: Gradient) -> list[tf.Tensor]:
    if not gradient.pooled:
        return _conv(layer, [call], [gradient.dense()])
    return [
        ops.pooled_conv_curvature(
            call.inputs,
            gradient.values,
            gradient.derivative,
            kernel_size=layer.kernel_size,
            strides=layer.strides,
            padding=layer.padding,
            dilation_rate=layer.dilation_rate,
            groups=layer.groups,
        )
    ]


def _depthwise(
    layer: Layer, calls: Sequence[Call], factors: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    return [_conv_calls(layer, [call.inputs for call in calls], factors, depthwise=True)]


def _separable(
    layer: Layer, calls: Sequence[Call], factors: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """A depthwise convolution followed by a pointwise one, which is a dense layer over pixels."""
    between = [
        keras.ops.depthwise_conv(
            call.inputs,
            tf.cast(layer.depthwise_kernel, call.inputs.dtype),  # as in the layer's autocast scope
            strides=layer.strides,
            padding=layer.padding,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
        )
        for call in calls
    ]
    pointwise = tf.cast(layer.pointwise_kernel, factors[0].dtype)
    pointwise = tf.reshape(pointwise, pointwise.shape[-2:])
    before = [tf.tensordot(s, pointwise, [[-1], [1]]) for s in factors]
    inputs = [call.inputs for call in calls]
    depthwise = _conv_calls(layer, inputs, before, depthwise=True)
    middle = [Call(tensor, call.outputs) for tensor, call in zip(between, calls, strict=True)]
    return [depthwise, tf.reshape(_dense_calls(middle, factors), layer.pointwise_kernel.shape)]


_CLOSED_FORMS: dict[type[Layer], ClosedForm] = {
    keras.layers.Dense: ClosedForm(("kernel",), _dense, _dense_with_derivative),
    keras.layers.EinsumDense: ClosedForm(("kernel",), _einsum_dense),
    keras.layers.Embedding: ClosedForm(("embeddings",), _embedding),
    keras.layers.Conv1D: ClosedForm(("kernel",), _conv),
    keras.layers.Conv2D: ClosedForm(("kernel",), _conv, _conv_with_derivative),
    keras.layers.Conv3D: ClosedForm(("kernel",), _conv),
    keras.layers.DepthwiseConv1D: ClosedForm(("kernel",), _depthwise),
    keras.layers.DepthwiseConv2D: ClosedForm(("kernel",), _depthwise),
    keras.layers.SeparableConv1D: ClosedForm(("depthwise_kernel", "pointwise_kernel"), _separable),
    keras.layers.SeparableConv2D: ClosedForm(("depthwise_kernel", "pointwise_kernel"), _separable),
}
