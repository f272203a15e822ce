"""Layers of Keras that are called without what Keras does around each call.

Around a layer's `call` Keras binds arguments, casts inputs, looks for masks and opens scopes, and within it
the operations of `keras.ops` check their arguments again. Where a model runs eagerly and once or twice, this
takes longer than the kernels do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from prospr_ops.network import keras_private

Call = Callable[[Any], Any]

_FULL = ("float32", "float64")


@contextmanager
def layers_called_directly(model: keras.Model) -> Iterator[None]:
    """The layers of a model's graph, and of graphs within it, are called directly in eager training.

    They compute what they always do, of which the scopes' names are no part. Layers that are not stock ones,
    and those on which Keras has more to do, such as masks, mixed dtypes or losses of their outputs, are called
    as ever. For one thread at a time: within `prospr_ops.network.tf_functions.replaced`, which sees to that.
    """
    graphs = [*keras_private.graphs(model)] if tf.executing_eagerly() else []
    try:
        for graph in graphs:
            vars(graph)["call"] = partial(_call, graph, {})
        yield
    finally:
        for graph in graphs:
            vars(graph).pop("call", None)


def _call(
    graph: Any,
    known: dict[int, Callable[..., Any]],
    inputs: Any,
    training: Any = None,
    mask: Any = None,
    **named: Any,
) -> Any:
    """A functional model's `call`; `known` holds how its layers are called, by their ids."""
    masked = any(one is not None for one in keras.tree.flatten(mask))
    if not training or named or masked or not keras_private.is_eager_and_casts_nothing():
        return type(graph).call(graph, inputs, training=training, mask=mask, **named)

    def direct(operation: Any) -> Callable[..., Any]:
        if id(operation) not in known:
            known[id(operation)] = _direct(operation)
        return known[id(operation)]

    return keras_private.call_graph(graph, inputs, direct)


def _direct(operation: Any) -> Callable[..., Any]:
    """How an operation of a graph is called in training."""
    stock = keras_private.in_training(operation)
    make = _CALLS.get(type(operation))
    if make is None or not _is_stock(operation) or not keras_private.is_called_plainly(operation):
        return stock
    call, dtype, merges = make(operation), operation.compute_dtype, isinstance(operation, _MERGES)

    def checked(*args: Any, **named: Any) -> Any:
        given = any(value is not None for value in named.values())
        if given or len(args) != 1 or isinstance(args[0], list) != merges:
            return stock(*args, **named)
        if not all(_is_plain(tensor, dtype) for tensor in (args[0] if merges else args)):
            return stock(*args, **named)
        # A layer may get shapes that its graph does not tell of. Of some, operations kill the process.
        keras_private.check_input(operation, args[0])
        return call(args[0])

    return checked


def _is_stock(layer: Any) -> bool:
    """Whether nobody has put other methods into a layer or its class than Keras did.

    What stands in the place of the `call` of a layer that is told of training is called as Keras calls it.
    """
    told = _CALLS[type(layer)] is _in_training
    return all(
        getattr(getattr(layer, name, None), "__func__", None) is method
        for name, method in _METHODS[type(layer)].items()
        if not (told and name == "call")
    )


def _is_plain(tensor: Any, dtype: str) -> bool:
    """Whether Keras would hand a tensor to a layer of a dtype as it is, and has attached no mask."""
    return (
        isinstance(tensor, tf.Tensor)
        and tensor.dtype.name == dtype
        and keras_private.mask_of(tensor) is None
    )


def _as_it_is(layer: Any) -> Call:
    return layer.call


def _in_training(layer: Any) -> Call:
    return partial(layer.call, training=True)


def _dense(layer: layers.Dense) -> Call:
    def product(x: tf.Tensor) -> tf.Tensor:
        if x.shape.rank == 2:
            return tf.raw_ops.MatMul(a=x, b=layer.kernel.value)
        # One product; Keras makes one per sample, whose gradients by the kernel are then added.
        *outer, channels = x.shape
        rows = tf.raw_ops.MatMul(a=tf.reshape(x, [-1, channels]), b=layer.kernel.value)
        return tf.reshape(rows, [*outer, layer.units])

    return _behind(layer, product)


def _layer_normalisation(layer: layers.LayerNormalization) -> Call:
    """Over the last axis: batch normalisation of the transpose, for which there are compiled ops."""
    if layer.rms_scaling or len(layer.axis) != 1 or layer.compute_dtype not in _FULL:
        return layer.call
    (axis,) = layer.axis

    def call(x: tf.Tensor) -> Any:
        if axis % x.shape.rank != x.shape.rank - 1:
            return layer.call(x)
        columns = tf.transpose(tf.reshape(x, [-1, x.shape[-1]]))
        mean, variance = tf.nn.moments(columns, [0])
        rows = tf.nn.batch_normalization(columns, mean, variance, None, None, layer.epsilon)
        outputs = tf.reshape(tf.transpose(rows), x.shape)
        if layer.gamma is not None:
            outputs *= layer.gamma.value
        return outputs if layer.beta is None else outputs + layer.beta.value

    return call


def _convolution(
    operation: Callable[..., tf.Tensor], layer: layers.Conv2D | layers.DepthwiseConv2D
) -> Call:
    """A convolution by one of TensorFlow's operations, where that is all that Keras calls."""
    across, down = layer.strides
    simple = layer.data_format == "channels_last" and getattr(layer, "groups", 1) == 1
    if not simple or across != down or tuple(layer.dilation_rate) != (1, 1):
        return layer.call
    options = {"strides": [1, across, down, 1], "padding": layer.padding.upper()}

    def convolved(x: tf.Tensor) -> tf.Tensor:
        return operation(input=x, filter=layer.kernel.value, **options)

    behind = _behind(layer, convolved)
    sizes = zip(layer.kernel_size, (1, 2), strict=True)
    # Of an image that is too small Keras says so.
    spans = [] if layer.padding == "same" else [*sizes]

    def call(x: tf.Tensor) -> Any:
        fits = x.shape.rank == 4 and all(x.shape[axis] >= size for size, axis in spans)
        return behind(x) if fits else layer.call(x)

    return call


def _behind(layer: Any, product: Callable[[tf.Tensor], tf.Tensor]) -> Call:
    """What a layer computes, given what it does first: then come its bias and its activation."""
    activation = _direct_activation(layer.activation) or layer.activation
    bias = keras.Variable if layer.use_bias else type(None)
    has_variables = isinstance(layer.kernel, keras.Variable) and isinstance(layer.bias, bias)
    if not has_variables:
        return layer.call

    def call(x: tf.Tensor) -> Any:
        outputs = product(x)
        if layer.use_bias:
            # As Keras adds a bias; the gradient of AddV2, a sum over pixels, loses most of it in float16.
            outputs = tf.raw_ops.BiasAdd(value=outputs, bias=layer.bias.value)
        return outputs if activation is None else activation(outputs)

    return call


def _activation(layer: layers.Activation) -> Call:
    return _direct_activation(layer.activation) or layer.call


def _direct_activation(activation: Any) -> Call | None:
    """What computes an activation function, which may be an object without a hash."""
    return next((call for known, call in _ACTIVATIONS if activation is known), None)


def _relu(layer: layers.ReLU) -> Call:
    if layer.negative_slope or layer.threshold:
        return layer.call
    return {None: _rectified, 6.0: _rectified_to_6}.get(layer.max_value, layer.call)


def _sum(layer: layers.Add) -> Call:
    def call(inputs: list[tf.Tensor]) -> Any:
        if len(inputs) != 2 or inputs[0].shape != inputs[1].shape:
            return layer.call(inputs)
        return tf.raw_ops.AddV2(x=inputs[0], y=inputs[1])

    return call


def _rectified(x: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.Relu(features=x)


def _rectified_to_6(x: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.Relu6(features=x)


_ACTIVATIONS: list[tuple[Any, Call]] = [
    (keras.activations.relu, _rectified),
    (keras.activations.relu6, _rectified_to_6),
    (keras.activations.linear, lambda x: x),
]
# How layers are called, by their types: functions of the layer that give functions of its input.
_CALLS: dict[type, Callable[[Any], Call]] = {
    layers.Activation: _activation,
    layers.Add: _sum,
    layers.Conv2D: partial(_convolution, tf.raw_ops.Conv2D),
    layers.Dense: _dense,
    layers.DepthwiseConv2D: partial(_convolution, tf.raw_ops.DepthwiseConv2dNative),
    layers.LayerNormalization: _layer_normalisation,
    layers.ReLU: _relu,
} | dict.fromkeys((layers.BatchNormalization, layers.Dropout), _in_training) | dict.fromkeys(
    (
        *(layers.AveragePooling2D, layers.Concatenate, layers.Conv1D, layers.EinsumDense),
        *(layers.Flatten, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D),
        *(layers.MaxPooling2D, layers.Multiply, layers.Reshape, layers.UpSampling2D),
        layers.ZeroPadding2D,
    ),
    _as_it_is,
)  # fmt: skip
# Those that are called on lists.
_MERGES = (layers.Add, layers.Concatenate, layers.Multiply)
# The methods that say what a layer computes, as they are in Keras, by the types of the layers.
_METHODS: dict[type, dict[str, Any]] = {
    kind: {
        name: getattr(kind, name, None)
        for name in ("call", "compute_mask", "convolution_op", "_merge_function")
    }
    for kind in _CALLS
}
