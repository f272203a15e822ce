"""How the labels of channels pass through each kind of layer: one rule per kind, see `RULES`.

A layer has a rule only if it keeps zero channels zero; `prospr_ops.pruning.channels.graph` explains
why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from prospr_ops.network import keras_private

Labels: TypeAlias = npt.NDArray[np.intp]


class NoRuleError(Exception):
    """Raised with the reason why an operation is not known to keep channels separate."""


class Graph(Protocol):
    """The operations of a rule on the labels of a model."""

    def new_labels(self, count: int) -> Labels:
        """Makes labels for the channels that a layer makes."""

    def tie(self, one: Labels, other: Labels) -> None:
        """Merges the groups of the two labels at each index."""

    def slice(
        self, variable: keras.Variable | None, axes: dict[int, Labels], own: int | None = None
    ) -> None:
        """Records which slices of a variable belong to which labels, and which axis is its own."""

    def activate(self, node: Any, made: Labels, activation: Callable[..., Any]) -> None:
        """Fixes an activation's channels unless the activation maps zero to zero."""


# A function of a graph, a node of the model and its input labels; returns its output labels.
Rule: TypeAlias = Callable[[Graph, Any, list[Labels]], Labels]


def _check_last(layer: keras.layers.Layer) -> None:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        msg = "its channels come first"
        raise NoRuleError(msg)


def _check_variables(layer: keras.layers.Layer, known: Iterable[str]) -> None:
    """Refuses layers with additional variables, such as adapters or quantised kernels."""
    expected = {id(getattr(layer, name)) for name in known if getattr(layer, name) is not None}
    if {id(variable) for variable in layer.weights} - expected:
        msg = "it has variables that a plain one has not"
        raise NoRuleError(msg)


def _projection(graph: Graph, node: Any, inputs: list[Labels]) -> Labels:
    """Dense and convolution: every output depends on all inputs."""
    layer = node.operation
    _check_last(layer)
    _check_variables(layer, ("kernel", "bias"))
    if getattr(layer, "groups", 1) != 1:
        msg = "its groups cannot differ in size"
        raise NoRuleError(msg)
    read, own = (-1, -2) if isinstance(layer, _TRANSPOSED) else (-2, -1)
    made = graph.new_labels(layer.kernel.shape[own])
    graph.slice(layer.kernel, {read: inputs[0], own: made}, own)
    graph.slice(layer.bias, {0: made}, 0)
    graph.activate(node, made, layer.activation)
    return made


def _depthwise(graph: Graph, node: Any, inputs: list[Labels]) -> Labels:
    """Every output depends on one input and shares its group."""
    layer = node.operation
    _check_last(layer)
    _check_variables(layer, ("kernel", "bias"))
    made = np.repeat(inputs[0], layer.depth_multiplier)
    graph.slice(layer.kernel, {-2: inputs[0]}, -2)
    graph.slice(layer.bias, {0: made}, 0)
    graph.activate(node, made, layer.activation)
    return made


def _separable(graph: Graph, node: Any, inputs: list[Labels]) -> Labels:
    layer = node.operation
    _check_last(layer)
    _check_variables(layer, ("depthwise_kernel", "pointwise_kernel", "bias"))
    made = graph.new_labels(layer.filters)
    between = np.repeat(inputs[0], layer.depth_multiplier)
    graph.slice(layer.depthwise_kernel, {-2: inputs[0]})
    graph.slice(layer.pointwise_kernel, {-2: between, -1: made}, -1)
    graph.slice(layer.bias, {0: made}, 0)
    graph.activate(node, made, layer.activation)
    return made


def _batch_normalization(graph: Graph, node: Any, inputs: list[Labels]) -> Labels:
    layer = node.operation
    if layer.axis not in (-1, len(node.input_tensors[0].shape) - 1):
        msg = "its axis is not the last"
        raise NoRuleError(msg)
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    _check_variables(layer, names)
    for name in names:
        # In (x − mean) γ/σ + β the mean does not matter if γ is zero.
        own = name in ("gamma", "beta") or (name == "moving_mean" and not layer.scale)
        graph.slice(getattr(layer, name), {0: inputs[0]}, 0 if own else None)
    return inputs[0]


def _prelu(graph: Graph, node: Any, inputs: list[Labels]) -> Labels:
    layer = node.operation
    if layer.alpha.shape[-1] == inputs[0].size:
        graph.slice(layer.alpha, {-1: inputs[0]})
    return inputs[0]


def _activation(graph: Graph, node: Any, inputs: list[Labels]) -> Labels:
    graph.activate(node, inputs[0], node.operation.activation)
    return inputs[0]


def _relu(graph: Graph, node: Any, inputs: list[Labels]) -> Labels:
    del graph
    if node.operation.threshold and node.operation.negative_slope:
        msg = "it is not 0 at 0"
        raise NoRuleError(msg)
    return inputs[0]


def _unchanged(graph: Graph, node: Any, inputs: list[Labels]) -> Labels:
    """Layers that treat all channels alike and keep zero channels zero."""
    del graph
    _check_last(node.operation)
    return inputs[0]


def _merge(graph: Graph, node: Any, inputs: list[Labels]) -> Labels:
    """Elementwise functions of several tensors that are zero if all of them are zero."""
    arguments = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    if not all(isinstance(argument, keras.KerasTensor) for argument in arguments):
        msg = "one side of it is a constant"
        raise NoRuleError(msg)
    if len({labels.size for labels in inputs}) > 1:
        msg = "its inputs are broadcast along channels"
        raise NoRuleError(msg)
    for labels in inputs[1:]:
        graph.tie(inputs[0], labels)
    return inputs[0]


def _concatenate(graph: Graph, node: Any, inputs: list[Labels]) -> Labels:
    if node.operation.axis in (-1, len(node.outputs[0].shape) - 1):
        return np.concatenate(inputs)
    return _merge(graph, node, inputs)


def _reshape(graph: Graph, node: Any, inputs: list[Labels]) -> Labels:
    """In C order, the last axis must run through the channels once or several times."""
    del graph
    _check_last(node.operation)
    repeats, rest = divmod(node.outputs[0].shape[-1] or 0, inputs[0].size)
    if not repeats or rest:
        msg = "it splits up the channels, or its shape is not known"
        raise NoRuleError(msg)
    return np.tile(inputs[0], repeats)


def _pad(graph: Graph, node: Any, inputs: list[Labels]) -> Labels:
    """No weight makes the padded channels."""
    operation = node.operation
    constants = [*node.arguments.args[1:], *node.arguments.kwargs.values()]
    widths = operation.pad_width
    if operation.mode != "constant" or any(constants) or len(widths) == 1:
        msg = "it does not pad certain axes with zeros"
        raise NoRuleError(msg)
    before, after = widths[-1]
    return np.concatenate([graph.new_labels(before), inputs[0], graph.new_labels(after)])


def _named(names: Sequence[str], dimensions: Sequence[int]) -> list[type]:
    return [getattr(layers, f"{name}{n}D") for name in names for n in dimensions]


_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_POOLING = ("MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling")
_SPATIAL = ("ZeroPadding", "Cropping", "UpSampling", "SpatialDropout")

# By exact type, since a subclass may compute anything.
RULES: dict[type, Rule] = {
    **dict.fromkeys([layers.Dense, *_named(["Conv"], (1, 2, 3)), *_TRANSPOSED], _projection),
    **dict.fromkeys(_named(["DepthwiseConv"], (1, 2)), _depthwise),
    **dict.fromkeys(_named(["SeparableConv"], (1, 2)), _separable),
    layers.BatchNormalization: _batch_normalization,
    layers.PReLU: _prelu,
    layers.Activation: _activation,
    layers.ReLU: _relu,
    **dict.fromkeys(
        [
            *_named([*_POOLING, *_SPATIAL], (1, 2, 3)),
            *(layers.Dropout, layers.GaussianDropout, layers.Identity),
            *(layers.LeakyReLU, layers.ELU, layers.ActivityRegularization),
        ],
        _unchanged,
    ),
    **dict.fromkeys(
        [
            *(layers.Add, layers.Subtract, layers.Multiply, layers.Average),
            *(layers.Maximum, layers.Minimum, keras_private.Add),
        ],
        _merge,
    ),
    layers.Concatenate: _concatenate,
    **dict.fromkeys([layers.Flatten, layers.Reshape], _reshape),
    keras_private.Pad: _pad,
}
