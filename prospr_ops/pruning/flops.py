"""FLOPs: how often one sample uses each weight, and what that costs.

If each of the n weights of a kernel takes part in p multiply-adds per sample, the kernel costs
2 n p floating-point operations, and 2 k p where only k weights are nonzero. p is the number of
positions at which the kernel is applied: 1 for a Dense layer on vectors, the output's pixels for a
convolution. Biases, normalisation and activations are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from prospr_ops.network import keras_private
from prospr_ops.network.layer_calls import Call, recorded_calls
from prospr_ops.network.weights import is_kernel, owned_weights


def input_specs(model: keras.Model, batch: Any = None) -> Any:
    """The model's inputs as a structure of `tf.TensorSpec` with known shapes.

    Args:
        model: A built model.
        batch: Inputs that the model can be called on; needed if the model does not define their
            shapes (a subclassed model, or one for images of any size).

    Returns:
        The structure, for a batch of one sample (or of the model's fixed batch size, or of the size
        of `batch`); None if neither `model` nor `batch` gives the shapes.
    """
    own = keras_private.input_structure(model)
    for inputs in (own, batch):
        if inputs is not None:
            specs = keras.tree.map_structure(
                lambda tensor: tf.TensorSpec(
                    (tensor.shape[0] or 1, *tensor.shape[1:]), tensor.dtype
                ),
                inputs,
            )
            if all(spec.shape.is_fully_defined() for spec in keras.tree.flatten(specs)):
                return specs
    return None


def weight_uses(model: keras.Model, specs: Any = None) -> dict[str, int]:
    """Multiply-adds per sample that each weight of a kernel takes part in.

    The model is traced once and not run. Products with the padding of a convolution are counted, as
    is usual; a row of an Embedding is looked up and multiplied by nothing.

    Args:
        model: A built model.
        specs: Inputs to trace the model with; `input_specs(model)` by default.

    Returns:
        Count by the path of each kernel of a Dense, EinsumDense, Embedding, convolution, transposed,
        depthwise or separable convolution layer, or recurrent cell. Missing are layers within loops
        (cells of an RNN that is not unrolled) and compiled functions, whose turns a trace does not
        show, and those that are not called or whose shapes are unknown; and all, if the shape of
        the model's input is, or the model cannot be traced.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: The model is not built.
    """
    owners = {
        path: layer
        for path, (layer, variable) in owned_weights(model).items()
        if is_kernel(layer, variable)
    }
    specs = input_specs(model) if specs is None else specs
    if specs is None:
        return {}
    distinct = {id(layer): layer for layer in owners.values()}
    with recorded_calls(distinct.values()) as calls:
        function = tf.function(lambda inputs: model(inputs, training=False))
        try:
            with keras_private.name_scopes_restored():
                graph = function.get_concrete_function(specs).graph
        except Exception:  # noqa: BLE001 - whatever a layer raises that only runs eagerly
            return {}
    samples = keras.tree.flatten(specs)[0].shape[0]
    uses = {}
    for path, layer in owners.items():
        positions = _positions(layer, calls[id(layer)], graph)
        if positions is not None:
            uses[path] = positions // samples
    return uses


def model_flops(model: keras.Model) -> int:
    """Floating-point operations per sample: two per multiply-add with a kernel's weight.

    Weights that are zero count too, since dense kernels multiply by them.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: The model is not built.
    """
    weights = owned_weights(model)
    return sum(
        2 * uses * math.prod(weights[path][1].shape) for path, uses in weight_uses(model).items()
    )


def _positions(layer: layers.Layer, calls: list[Call], graph: tf.Graph) -> int | None:
    """Positions of all calls together; None if they are unknown."""
    known = all(
        isinstance(call.outputs, tf.Tensor)
        and call.outputs.graph is graph
        and call.inputs.shape.is_fully_defined()
        and call.outputs.shape.is_fully_defined()
        for call in calls
    )
    if not calls or not known:
        return None
    count = next(count for kinds, count in _COUNTS.items() if isinstance(layer, kinds))
    return sum(count(layer, call) for call in calls)


def _pixels(layer: layers.Layer, tensor: tf.Tensor) -> int:
    """Number of elements of one channel."""
    first = getattr(layer, "data_format", None) == "channels_first"
    return tensor.shape.num_elements() // tensor.shape[1 if first else -1]


def _einsum(layer: layers.Layer, call: Call) -> int:
    """Number of elements of the input along the axes that the kernel does not have."""
    data, kernel = layer.equation.replace(" ", "").split("->")[0].split(",")
    before, _, after = data.partition("...")
    shape = call.inputs.shape.as_list()
    axes = [*before, *("." * (len(shape) - len(before) - len(after))), *after]
    return math.prod(size for axis, size in zip(axes, shape, strict=True) if axis not in kernel)


# Positions of one call, by the kinds of layers that are prunable by default.
_COUNTS: dict[tuple[type[layers.Layer], ...], Callable[[layers.Layer, Call], int]] = {
    (layers.Embedding,): lambda *_: 0,
    (layers.EinsumDense,): _einsum,
    # A transposed convolution applies the whole kernel to every pixel of the input.
    (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose): (
        lambda layer, call: _pixels(layer, call.inputs)
    ),
    (layers.Layer,): lambda layer, call: _pixels(layer, call.outputs),
}
