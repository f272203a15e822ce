"""How channels pass through each kind of layer and operation: one rule per kind, see `RULES`.

`prospr_ops.pruning.channels.graph` explains labels, and which channels are zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from prospr_ops.network import keras_private
from prospr_ops.pruning.channels.normalisation import PartLayerNormalization
from prospr_ops.pruning.channels.probing import zero_at_zero

Labels: TypeAlias = npt.NDArray[np.intp]


class Channels(NamedTuple):
    """The channels of a tensor.

    Attributes:
        labels: Label of each channel.
        origins: 0 for a channel that is zero once its group is pruned; else the number of the
            operation that makes another constant of it, as a sigmoid does (`Graph.origin`).
    """

    labels: Labels
    origins: Labels

    @classmethod
    def zero(cls, labels: Labels) -> Channels:
        """Channels that are zero once their groups are pruned."""
        return cls(labels, np.zeros_like(labels))

    def each(self, arrange: Callable[[Labels], Labels]) -> Channels:
        """The channels in another arrangement."""
        return Channels(arrange(self.labels), arrange(self.origins))


class NoRuleError(Exception):
    """Raised with the reason why an operation is not known to keep channels separate."""


class Graph(Protocol):
    """The operations of a rule on the channels of a model."""

    def new_labels(self, count: int) -> Labels:
        """Makes labels for the channels that a layer makes."""

    def tie(self, one: Labels, other: Labels) -> None:
        """Merges the groups of the two labels at each index."""

    def fix(self, labels: Labels) -> None:
        """Ties the labels to the channels that must stay."""

    def origin(self, node: Any, why: str) -> int:
        """Number of an operation whose output is not zero where its inputs are."""

    def read(self, channels: Channels) -> Labels:
        """Labels of channels that an operation can do without where they are zero; fixes others."""

    def slice(
        self, variable: keras.Variable | None, axes: dict[int, Labels], own: int | None = None
    ) -> None:
        """Records which slices of a variable belong to which labels, and which axis is its own."""

    def activate(self, node: Any, made: Channels) -> Channels:
        """What the activation of a layer makes of its channels."""


# A function of a graph, a node of the model and its inputs; returns its output.
Rule: TypeAlias = Callable[[Graph, Any, list[Channels]], Channels]


def _check_last(layer: keras.layers.Layer) -> None:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        msg = "its channels come first"
        raise NoRuleError(msg)


def _check_axis(node: Any) -> None:
    axis = node.operation.axis
    last = _rank(node) - 1
    if axis not in (-1, [-1], last, [last]):
        msg = "its axis is not the last"
        raise NoRuleError(msg)


def _rank(node: Any) -> int:
    return len(node.input_tensors[0].shape)


def _check_variables(layer: keras.layers.Layer, known: Iterable[str]) -> None:
    """Refuses layers with additional variables, such as adapters or quantised kernels."""
    expected = {id(getattr(layer, name)) for name in known if getattr(layer, name) is not None}
    if {id(variable) for variable in layer.weights} - expected:
        msg = "it has variables that a plain one has not"
        raise NoRuleError(msg)


def _projection(graph: Graph, node: Any, inputs: list[Channels]) -> Channels:
    """Dense and convolution: every output depends on all inputs."""
    layer = node.operation
    _check_last(layer)
    _check_variables(layer, ("kernel", "bias"))
    read, own = (-1, -2) if isinstance(layer, _TRANSPOSED) else (-2, -1)
    outputs = layer.kernel.shape[own]
    groups = getattr(layer, "groups", 1)
    if groups == 1:
        made = graph.new_labels(outputs)
        graph.slice(layer.kernel, {read: graph.read(inputs[0]), own: made}, own)
    else:  # whole groups leave, with their inputs
        made = np.repeat(_blocks(graph, inputs[0].labels, groups), outputs // groups)
        graph.slice(layer.kernel, {own: made}, own)
    graph.slice(layer.bias, {0: made}, 0)
    return graph.activate(node, Channels.zero(made))


def _blocks(graph: Graph, labels: Labels, count: int) -> Labels:
    """Ties the channels within each of so many blocks; returns one label per block."""
    blocks = labels.reshape(count, -1)
    for column in blocks.T[1:]:
        graph.tie(blocks[:, 0], column)
    return blocks[:, 0]


def _depthwise(graph: Graph, node: Any, inputs: list[Channels]) -> Channels:
    """Every output depends on one input and shares its group."""
    layer = node.operation
    _check_last(layer)
    _check_variables(layer, ("kernel", "bias"))
    labels = inputs[0].labels
    made = np.repeat(labels, layer.depth_multiplier)
    graph.slice(layer.kernel, {-2: labels}, -2)
    graph.slice(layer.bias, {0: made}, 0)
    return graph.activate(node, Channels.zero(made))


def _separable(graph: Graph, node: Any, inputs: list[Channels]) -> Channels:
    layer = node.operation
    _check_last(layer)
    _check_variables(layer, ("depthwise_kernel", "pointwise_kernel", "bias"))
    made = graph.new_labels(layer.filters)
    read = graph.read(inputs[0])
    graph.slice(layer.depthwise_kernel, {-2: read})
    between = np.repeat(read, layer.depth_multiplier)
    graph.slice(layer.pointwise_kernel, {-2: between, -1: made}, -1)
    graph.slice(layer.bias, {0: made}, 0)
    return graph.activate(node, Channels.zero(made))


def _batch_normalization(graph: Graph, node: Any, inputs: list[Channels]) -> Channels:
    layer = node.operation
    _check_axis(node)
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    _check_variables(layer, names)
    for name in names:
        # In (x − mean) γ/σ + β the mean does not matter if γ is zero.
        own = name in ("gamma", "beta") or (name == "moving_mean" and not layer.scale)
        graph.slice(getattr(layer, name), {0: inputs[0].labels}, 0 if own else None)
    return Channels.zero(inputs[0].labels) if layer.scale else inputs[0]


def _layer_normalization(graph: Graph, node: Any, inputs: list[Channels]) -> Channels:
    """Zeros count in the mean: see `PartLayerNormalization`."""
    layer = node.operation
    _check_axis(node)
    _check_variables(layer, ("gamma", "beta"))
    if layer.rms_scaling:
        msg = "it has rms_scaling"
        raise NoRuleError(msg)
    made = Channels.zero(graph.read(inputs[0]))
    for variable in (layer.gamma, layer.beta):
        graph.slice(variable, {0: made.labels}, 0)
    if not layer.scale:  # then a zero channel becomes −mean/σ
        made.origins[:] = graph.origin(node, "it has no gamma to make a channel 0")
    return made


def _group_normalization(graph: Graph, node: Any, inputs: list[Channels]) -> Channels:
    """Whole groups leave, so that no mean changes."""
    layer = node.operation
    _check_axis(node)
    _check_variables(layer, ("gamma", "beta"))
    if layer.groups == 1:
        msg = "its mean is over all channels"
        raise NoRuleError(msg)
    labels = inputs[0].labels
    _blocks(graph, labels, layer.groups)
    for variable in (layer.gamma, layer.beta):
        graph.slice(variable, {0: labels}, 0)
    if layer.scale:
        return Channels.zero(labels)
    origins = inputs[0].origins.reshape(layer.groups, -1).max(axis=1)
    return Channels(labels, np.repeat(origins, labels.size // layer.groups))


def _layer_scale(graph: Graph, node: Any, inputs: list[Channels]) -> Channels:
    graph.slice(node.operation.gamma, {0: inputs[0].labels}, 0)
    return Channels.zero(inputs[0].labels)


def _prelu(graph: Graph, node: Any, inputs: list[Channels]) -> Channels:
    layer = node.operation
    if layer.alpha.shape[-1] == inputs[0].labels.size:
        graph.slice(layer.alpha, {-1: inputs[0].labels})
    return inputs[0]


def _activation(graph: Graph, node: Any, inputs: list[Channels]) -> Channels:
    return graph.activate(node, inputs[0])


def _unchanged(graph: Graph, node: Any, inputs: list[Channels]) -> Channels:
    """Layers that treat all channels alike and keep zero channels zero."""
    del graph
    _check_last(node.operation)
    return inputs[0]


def _rescaling(graph: Graph, node: Any, inputs: list[Channels]) -> Channels:
    if np.size(node.operation.scale) > 1 or np.size(node.operation.offset) > 1:
        msg = "it has a constant per channel"
        raise NoRuleError(msg)
    return _elementwise(graph, node, inputs)


def _elementwise(graph: Graph, node: Any, inputs: list[Channels]) -> Channels:
    """Elementwise functions of tensors, and of constants that are the same for all channels."""
    size = node.outputs[0].shape[-1]
    for constant in keras.tree.flatten((node.arguments.args, node.arguments.kwargs)):
        if not isinstance(constant, keras.KerasTensor) and (np.shape(constant) or (1,))[-1] != 1:
            msg = "it has a constant per channel"
            raise NoRuleError(msg)
    wide = [channels for channels in inputs if channels.labels.size == size]
    narrow = [channels for channels in inputs if channels.labels.size != size]
    for channels in narrow:  # one channel for all of the others
        graph.fix(channels.labels)
    for channels in wide[1:]:
        graph.tie(wide[0].labels, channels.labels)
    if not wide:
        msg = "the number of its channels is not known"
        raise NoRuleError(msg)
    origins = np.stack([channels.origins for channels in wide])
    made = np.max(origins, axis=0)
    if isinstance(node.operation, _PRODUCTS):  # zero times anything
        made[(origins == 0).any(axis=0)] = 0
    elif narrow or not zero_at_zero(node):
        made[made == 0] = graph.origin(node, "it is not 0 at 0")
    return Channels(wide[0].labels, made)


def _concatenate(graph: Graph, node: Any, inputs: list[Channels]) -> Channels:
    if node.operation.axis in (-1, len(node.outputs[0].shape) - 1):
        return Channels(*(np.concatenate(part) for part in zip(*inputs, strict=True)))
    for channels in inputs[1:]:
        graph.tie(inputs[0].labels, channels.labels)
    return Channels(inputs[0].labels, np.max([channels.origins for channels in inputs], axis=0))


def _reshape(graph: Graph, node: Any, inputs: list[Channels]) -> Channels:
    """In C order, the last axis must run through the channels once or several times."""
    del graph
    _check_last(node.operation)
    repeats, rest = divmod(node.outputs[0].shape[-1] or 0, inputs[0].labels.size)
    if not repeats or rest:
        msg = "it splits up the channels, or its shape is not known"
        raise NoRuleError(msg)
    return inputs[0].each(lambda values: np.tile(values, repeats))


def _along_other_axes(graph: Graph, node: Any, inputs: list[Channels]) -> Channels:
    """Means, sums and extremes over axes other than the channels', and axes that come or go."""
    del graph
    operation = node.operation
    rank = max(_rank(node), len(node.outputs[0].shape))
    axes = operation.axis if isinstance(operation.axis, (tuple, list)) else [operation.axis]
    if any(axis is None or axis in (-1, rank - 1) for axis in axes):
        msg = "its axis is that of the channels"
        raise NoRuleError(msg)
    return inputs[0]


def _get_item(graph: Graph, node: Any, inputs: list[Channels]) -> Channels:
    """Indices that leave the last axis alone, as x[:, None, None, :]."""
    del graph
    key = node.arguments.args[1] if len(node.arguments.args) > 1 else node.arguments.kwargs["key"]
    entries = key if isinstance(key, tuple) else (key,)
    known = all(entry is None or isinstance(entry, (int, slice, type(...))) for entry in entries)
    taken = sum(isinstance(entry, (int, slice)) for entry in entries)
    before_last = ... not in entries and taken < _rank(node)
    if not known or not (before_last or entries[-1] in (..., slice(None))):
        msg = "it takes some channels out, or moves them"
        raise NoRuleError(msg)
    return inputs[0]


def _pad(graph: Graph, node: Any, inputs: list[Channels]) -> Channels:
    """No weight makes the padded channels."""
    operation = node.operation
    constants = [*node.arguments.args[1:], *node.arguments.kwargs.values()]
    widths = operation.pad_width
    if operation.mode != "constant" or any(constants) or len(widths) == 1:
        msg = "it does not pad certain axes with zeros"
        raise NoRuleError(msg)
    before, after = (Channels.zero(graph.new_labels(width)) for width in widths[-1])
    parts = zip(before, inputs[0], after, strict=True)
    return Channels(*(np.concatenate(part) for part in parts))


def _named(names: Sequence[str], dimensions: Sequence[int]) -> list[type]:
    return [getattr(layers, f"{name}{n}D") for name in names for n in dimensions]


_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_PRODUCTS = (layers.Multiply, keras_private.Multiply)
_POOLING = ("MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling")
_SPATIAL = ("ZeroPadding", "Cropping", "UpSampling", "SpatialDropout")

# By exact type, since a subclass may compute anything.
RULES: dict[type, Rule] = {
    **dict.fromkeys([layers.Dense, *_named(["Conv"], (1, 2, 3)), *_TRANSPOSED], _projection),
    **dict.fromkeys(_named(["DepthwiseConv"], (1, 2)), _depthwise),
    **dict.fromkeys(_named(["SeparableConv"], (1, 2)), _separable),
    layers.BatchNormalization: _batch_normalization,
    **dict.fromkeys([layers.LayerNormalization, PartLayerNormalization], _layer_normalization),
    layers.GroupNormalization: _group_normalization,
    keras_private.LayerScale: _layer_scale,
    layers.PReLU: _prelu,
    layers.Activation: _activation,
    layers.Rescaling: _rescaling,
    **dict.fromkeys(
        [
            *_named([*_POOLING, *_SPATIAL], (1, 2, 3)),
            *(layers.Dropout, layers.GaussianDropout, layers.Identity),
            *(layers.ActivityRegularization, keras_private.StochasticDepth),
        ],
        _unchanged,
    ),
    **dict.fromkeys(
        [
            *(layers.Add, layers.Subtract, layers.Multiply, layers.Average),
            *(layers.Maximum, layers.Minimum, layers.ReLU, layers.LeakyReLU, layers.ELU),
            *keras_private.ELEMENTWISE,
        ],
        _elementwise,
    ),
    **dict.fromkeys([layers.Concatenate, keras_private.Concatenate], _concatenate),
    **dict.fromkeys([layers.Flatten, layers.Reshape, keras_private.Reshape], _reshape),
    **dict.fromkeys(keras_private.ALONG_AXES, _along_other_axes),
    keras_private.GetItem: _get_item,
    keras_private.Pad: _pad,
}
