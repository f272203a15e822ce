"""Which channels of a model stand or fall together.

A channel is an index of the last axis of an activation. Every channel of every tensor of a
functional model gets a *label*, and the rules below say how labels go through a layer: a convolution
takes labels in and makes new ones, BatchNormalization hands on what it gets, Concatenate
concatenates, Flatten repeats, an addition ties its inputs, so that two labels become one. What has
one label in the end is one *group*: its channels can only be removed together, and where they are,
whatever shapes the model has still fit.

Label 0 is of what must stay: the model's inputs and outputs, and all that goes into or comes out of
an operation that has no rule here, such as a group convolution, or LayerNormalization, whose mean
would be over fewer channels.

The same labels name the slices of the layers' variables. A variable is sliced along its input
channels (the rows of a Dense kernel) and along its output channels; the latter slices are the
group's *own*: kernel columns, biases, and the gamma and beta of every BatchNormalization that the
channel passes. **A group whose own slices are all zero is exactly zero wherever it goes**, which is
what all else rests on: a layer has a rule only if it keeps zero channels zero (so ReLU has one and
the sigmoid has none), zero-padding and pooling do, and nothing has to be folded into later biases.
BatchNormalization without gamma is no exception: then its moving mean must be zero as well.

One analysis serves both ends, `prospr_ops.structured`, which chooses the groups to prune, and
`prospr_ops.shrinking`, which cuts the zero ones out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import numpy.typing as npt
from keras import layers
from keras.src.models import Functional
from keras.src.ops.numpy import Add, Pad

Labels: TypeAlias = npt.NDArray[np.intp]

FIXED = 0

# Models whose layers and calls are known.
GRAPHS = (Functional, keras.Sequential)

# Elementwise functions that are zero at zero.
_KEEP_ZERO = {
    keras.activations.get(name)
    for name in (
        *("linear", "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish"),
        *("tanh", "softsign", "hard_silu", "hard_tanh", "hard_shrink", "soft_shrink"),
        "tanh_shrink",
    )
}


class Sliced:
    """A variable whose axes run over channels.

    Attributes:
        variable: The variable.
        axes: Labels by axis.
        own: The axis whose slices make the channel: where they are zero, the channel is. None for a
            variable that only reads channels or scales what the others make.
    """

    def __init__(self, variable: keras.Variable, axes: dict[int, Labels], own: int | None) -> None:
        self.variable = variable
        self.axes = {axis % len(variable.shape): labels for axis, labels in axes.items()}
        self.own = None if own is None else own % len(variable.shape)


class _NoRuleError(Exception):
    """Says why an operation is not known to keep channels apart."""


class ChannelGraph:
    """Labels of all channels of a model.

    Attributes:
        sliced: Variables with channels, in the model's order, by id.
        ends: Labels of the inputs and outputs of each operation of the model, by its id.
        left_whole: Operations inside the model that fix the channels they touch, and why.
    """

    def __init__(self, model: keras.Model) -> None:
        """Analyses a model.

        Raises:
            TypeError: `model` is no Keras model.
            ValueError: It is neither functional nor Sequential, or not built.
        """
        self.sliced: dict[int, Sliced] = {}
        self.ends: dict[int, tuple[list[Labels], list[Labels]]] = {}
        self.left_whole: list[str] = []
        self._parents = [FIXED]
        graph = functional(model)
        self._outputs = {id(tensor) for tensor in graph.outputs}
        fixed = [self._fixed_like(tensor) for tensor in graph.inputs]
        for labels in self._run(graph, fixed):
            self._fix(labels)

    def groups(self, labels: Labels) -> Labels:
        """The group of each label: the smallest label that it is tied to."""
        return np.array([self._root(int(label)) for label in labels], np.intp)

    @property
    def labels(self) -> int:
        """Number of labels; groups are less than that."""
        return len(self._parents)

    def _root(self, label: int) -> int:
        parents = self._parents
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

    def _new(self, count: int) -> Labels:
        labels = np.arange(len(self._parents), len(self._parents) + count)
        self._parents.extend(labels.tolist())
        return labels

    def _tie(self, one: Labels, other: Labels) -> None:
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            low, high = sorted((self._root(a), self._root(b)))
            self._parents[high] = low

    def _fix(self, labels: Labels) -> None:
        self._tie(labels, np.full_like(labels, FIXED))

    @staticmethod
    def _fixed_like(tensor: keras.KerasTensor) -> Labels:
        channels = tensor.shape[-1] if tensor.shape else None
        return np.full(channels or 1, FIXED, np.intp)

    def _slice(
        self, variable: keras.Variable | None, axes: dict[int, Labels], own: int | None = None
    ) -> None:
        if variable is None:
            return
        entry = Sliced(variable, axes, own)
        before = self.sliced.setdefault(id(variable), entry)
        for axis, labels in entry.axes.items():
            self._tie(before.axes[axis], labels)

    def _run(self, model: Functional, inputs: list[Labels]) -> list[Labels]:
        """Labels of a functional model's outputs, operation by operation."""
        labels = {id(t): given for t, given in zip(model.inputs, inputs, strict=True)}
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                taken = [labels[id(tensor)] for tensor in node.input_tensors]
                made = self._through(node, taken)
                # An operation that is used several times has the same variables and sizes in each.
                ends = self.ends.setdefault(id(node.operation), (taken, made))
                for before, now in zip([*ends[0], *ends[1]], [*taken, *made], strict=False):
                    if before.size == now.size:
                        self._tie(before, now)
                    else:
                        self._fix(before)
                        self._fix(now)
                labels |= {id(t): out for t, out in zip(node.outputs, made, strict=True)}
        return [labels[id(tensor)] for tensor in model.outputs]

    def _through(self, node: Any, inputs: list[Labels]) -> list[Labels]:
        operation = node.operation
        is_output = all(id(tensor) in self._outputs for tensor in node.outputs)
        if type(operation) in GRAPHS:
            inner = functional(operation)
            if is_output:
                self._outputs |= {id(tensor) for tensor in inner.outputs}
            return self._run(inner, inputs)
        try:
            rule = _RULES.get(type(operation))
            if rule is None:
                msg = "no rule for it"
                raise _NoRuleError(msg)
            made = rule(self, node, inputs)
        except _NoRuleError as reason:
            touches = any(self.groups(labels).any() for labels in inputs)
            if not is_output and (touches or getattr(operation, "trainable_weights", None)):
                self.left_whole.append(f"{operation.name} ({type(operation).__name__}: {reason})")
            for labels in inputs:
                self._fix(labels)
            return [self._fixed_like(tensor) for tensor in node.outputs]
        return [made]

    def _activate(self, node: Any, made: Labels, activation: Callable[..., Any]) -> None:
        """Fixes what an activation makes unless zero stays zero."""
        if activation in _KEEP_ZERO:
            return
        self._fix(made)
        if not all(id(tensor) in self._outputs for tensor in node.outputs):
            name = getattr(activation, "__name__", str(activation))
            self.left_whole.append(
                f"{node.operation.name} (activation {name}: not known as 0 at 0)"
            )


def functional(model: keras.Model) -> Functional:
    """The graph of a functional or Sequential model.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: It is subclassed, or not built.
    """
    if not isinstance(model, keras.Model):
        msg = f"model must be a keras.Model, not {type(model).__name__}"
        raise TypeError(msg)
    if type(model) is Functional:
        return model
    if type(model) is not keras.Sequential:
        msg = (
            f"channels can be found in functional and Sequential models only; {model.name!r} is a "
            f"{type(model).__name__}, whose layers are called by Python code"
        )
        raise ValueError(msg)
    if model._functional is None:
        msg = (
            f"model {model.name!r} is not built: give it a keras.Input, or call model.build(shape)"
        )
        raise ValueError(msg)
    return model._functional


# --- the rules ------------------------------------------------------------------------------------

_Rule: TypeAlias = Callable[[ChannelGraph, Any, list[Labels]], Labels]


def _check_last(layer: keras.layers.Layer) -> None:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        msg = "its channels come first"
        raise _NoRuleError(msg)


def _check_variables(layer: keras.layers.Layer, known: Iterable[str]) -> None:
    """Refuses layers with variables of their own kind, such as adapters or quantised kernels."""
    expected = {id(getattr(layer, name)) for name in known if getattr(layer, name) is not None}
    if {id(variable) for variable in layer.weights} - expected:
        msg = "it has variables that a plain one has not"
        raise _NoRuleError(msg)


def _projection(graph: ChannelGraph, node: Any, inputs: list[Labels]) -> Labels:
    """Dense and convolution: every output is made of all inputs."""
    layer = node.operation
    _check_last(layer)
    _check_variables(layer, ("kernel", "bias"))
    if getattr(layer, "groups", 1) != 1:
        msg = "its groups cannot differ in size"
        raise _NoRuleError(msg)
    read, own = (-1, -2) if isinstance(layer, _TRANSPOSED) else (-2, -1)
    made = graph._new(layer.kernel.shape[own])
    graph._slice(layer.kernel, {read: inputs[0], own: made}, own)
    graph._slice(layer.bias, {0: made}, 0)
    graph._activate(node, made, layer.activation)
    return made


def _depthwise(graph: ChannelGraph, node: Any, inputs: list[Labels]) -> Labels:
    """An output is made of one input, and goes with it."""
    layer = node.operation
    _check_last(layer)
    _check_variables(layer, ("kernel", "bias"))
    made = np.repeat(inputs[0], layer.depth_multiplier)
    graph._slice(layer.kernel, {-2: inputs[0]}, -2)
    graph._slice(layer.bias, {0: made}, 0)
    graph._activate(node, made, layer.activation)
    return made


def _separable(graph: ChannelGraph, node: Any, inputs: list[Labels]) -> Labels:
    layer = node.operation
    _check_last(layer)
    _check_variables(layer, ("depthwise_kernel", "pointwise_kernel", "bias"))
    made = graph._new(layer.filters)
    between = np.repeat(inputs[0], layer.depth_multiplier)
    graph._slice(layer.depthwise_kernel, {-2: inputs[0]})
    graph._slice(layer.pointwise_kernel, {-2: between, -1: made}, -1)
    graph._slice(layer.bias, {0: made}, 0)
    graph._activate(node, made, layer.activation)
    return made


def _batch_normalization(graph: ChannelGraph, node: Any, inputs: list[Labels]) -> Labels:
    layer = node.operation
    if layer.axis not in (-1, len(node.input_tensors[0].shape) - 1):
        msg = "its axis is not the last"
        raise _NoRuleError(msg)
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    _check_variables(layer, names)
    for name in names:
        # (x − mean) γ/σ + β: with γ, the mean does not matter.
        own = name in ("gamma", "beta") or (name == "moving_mean" and not layer.scale)
        graph._slice(getattr(layer, name), {0: inputs[0]}, 0 if own else None)
    return inputs[0]


def _prelu(graph: ChannelGraph, node: Any, inputs: list[Labels]) -> Labels:
    layer = node.operation
    if layer.alpha.shape[-1] == inputs[0].size:
        graph._slice(layer.alpha, {-1: inputs[0]})
    return inputs[0]


def _activation(graph: ChannelGraph, node: Any, inputs: list[Labels]) -> Labels:
    graph._activate(node, inputs[0], node.operation.activation)
    return inputs[0]


def _relu(graph: ChannelGraph, node: Any, inputs: list[Labels]) -> Labels:
    del graph
    if node.operation.threshold and node.operation.negative_slope:
        msg = "it is not 0 at 0"
        raise _NoRuleError(msg)
    return inputs[0]


def _unchanged(graph: ChannelGraph, node: Any, inputs: list[Labels]) -> Labels:
    """Layers that treat every channel alike, and keep a zero one zero."""
    del graph
    _check_last(node.operation)
    return inputs[0]


def _merge(graph: ChannelGraph, node: Any, inputs: list[Labels]) -> Labels:
    """Elementwise functions of several tensors, zero where all of them are."""
    arguments = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    if not all(isinstance(argument, keras.KerasTensor) for argument in arguments):
        msg = "one side of it is a constant"
        raise _NoRuleError(msg)
    if len({labels.size for labels in inputs}) > 1:
        msg = "its inputs are broadcast along channels"
        raise _NoRuleError(msg)
    for labels in inputs[1:]:
        graph._tie(inputs[0], labels)
    return inputs[0]


def _concatenate(graph: ChannelGraph, node: Any, inputs: list[Labels]) -> Labels:
    if node.operation.axis in (-1, len(node.outputs[0].shape) - 1):
        return np.concatenate(inputs)
    return _merge(graph, node, inputs)


def _reshape(graph: ChannelGraph, node: Any, inputs: list[Labels]) -> Labels:
    """In C order, the last axis goes through the channels once or several times."""
    del graph
    _check_last(node.operation)
    repeats, rest = divmod(node.outputs[0].shape[-1] or 0, inputs[0].size)
    if not repeats or rest:
        msg = "it splits up the channels, or its shape is not known"
        raise _NoRuleError(msg)
    return np.tile(inputs[0], repeats)


def _pad(graph: ChannelGraph, node: Any, inputs: list[Labels]) -> Labels:
    """Padded channels are channels that no weight makes."""
    operation = node.operation
    constants = [*node.arguments.args[1:], *node.arguments.kwargs.values()]
    widths = operation.pad_width
    if operation.mode != "constant" or any(constants) or len(widths) == 1:
        msg = "it does not pad certain axes with zeros"
        raise _NoRuleError(msg)
    before, after = widths[-1]
    return np.concatenate([graph._new(before), inputs[0], graph._new(after)])


def _named(names: Sequence[str], dimensions: Sequence[int]) -> list[type]:
    return [getattr(layers, f"{name}{n}D") for name in names for n in dimensions]


_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_POOLING = ("MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling")
_SPATIAL = ("ZeroPadding", "Cropping", "UpSampling", "SpatialDropout")

# By exact type: a subclass may do anything.
_RULES: dict[type, _Rule] = {
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
            *(layers.Maximum, layers.Minimum, Add),
        ],
        _merge,
    ),
    layers.Concatenate: _concatenate,
    **dict.fromkeys([layers.Flatten, layers.Reshape], _reshape),
    Pad: _pad,
}
