"""Which channels of a model must be pruned together (dependency groups).

A channel is an index of the last axis of an activation. Every channel of every tensor of a
functional model gets a *label*, and rules say how labels pass through a layer: a convolution takes
labels in and makes new ones, BatchNormalization passes its labels on, Concatenate concatenates
them, Flatten repeats them, and an addition ties its inputs, so that two labels become one. Channels
with the same final label form one *group*: they can only be removed together, and if they are, all
shapes in the model still fit.

Label 0 marks channels that must stay: the model's inputs and outputs, and everything that enters or
leaves an operation without a rule here, such as a group convolution, or LayerNormalization, whose
mean would be over fewer channels.

The same labels name the slices of the layers' variables. A variable is sliced along its input
channels (the rows of a Dense kernel) and along its output channels. The slices along output
channels are the group's *own*: kernel columns, biases, and the gamma and beta of every
BatchNormalization that the channel passes. **A group whose own slices are all zero is exactly zero
wherever it goes.** Everything else rests on this: a layer has a rule only if it keeps zero channels
zero (so ReLU has a rule and the sigmoid has none), zero-padding and pooling keep them zero too, and
nothing has to be folded into later biases. For BatchNormalization without gamma the moving mean
must be zero as well.

Two modules use this analysis: `prospr_ops.pruning.channels.groups` chooses the groups to prune, and
`prospr_ops.delivery.shrinking` removes the zero ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from prospr_ops.network import keras_private
from prospr_ops.network.keras_private import Functional
from prospr_ops.pruning.channels.rules import RULES, Labels, NoRuleError

FIXED = 0

# Kinds of models whose layers and calls are known.
_GRAPHS = (Functional, keras.Sequential)


def is_graph(operation: Any) -> bool:
    """Whether an operation is a model that calls its layers as its graph says.

    A subclass with a training step of its own is; one that is called by Python code is not.
    """
    return any(
        isinstance(operation, kind) and type(operation).call is kind.call for kind in _GRAPHS
    )


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
    """A variable with axes that run over channels.

    Attributes:
        variable: The variable.
        axes: Labels of the slices along each axis.
        own: Axis whose slices make the channel: if they are zero, the channel is zero. None for a
            variable that only reads channels, or scales channels that others make.
    """

    def __init__(self, variable: keras.Variable, axes: dict[int, Labels], own: int | None) -> None:
        self.variable = variable
        self.axes = {axis % len(variable.shape): labels for axis, labels in axes.items()}
        self.own = None if own is None else own % len(variable.shape)


class ChannelGraph:
    """Labels of all channels of a model.

    Attributes:
        sliced: Variables with channels, in the model's order, by id.
        ends: Labels of the inputs and outputs of each operation of the model, by its id.
        left_whole: Operations inside the model that fix the channels they touch, with the reason.
    """

    def __init__(self, model: keras.Model) -> None:
        """Analyses a model.

        Raises:
            TypeError: `model` is not a Keras model.
            ValueError: The model is neither functional nor Sequential, or it is not built.
        """
        self.sliced: dict[int, Sliced] = {}
        self.ends: dict[int, tuple[list[Labels], list[Labels]]] = {}
        self.left_whole: list[str] = []
        self._parents = [FIXED]
        graph = functional(model)
        self._outputs = {id(tensor) for tensor in graph.outputs}
        fixed = [self._fixed_like(tensor) for tensor in graph.inputs]
        for labels in self._run(graph, fixed):
            self.fix(labels)

    def groups(self, labels: Labels) -> Labels:
        """The group of each label: the smallest label to which it is tied."""
        return np.array([self._root(int(label)) for label in labels], np.intp)

    @property
    def labels(self) -> int:
        """Number of labels; every group is less than this."""
        return len(self._parents)

    def _root(self, label: int) -> int:
        parents = self._parents
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

    def new_labels(self, count: int) -> Labels:
        """Makes labels for the channels that a layer makes."""
        labels = np.arange(len(self._parents), len(self._parents) + count)
        self._parents.extend(labels.tolist())
        return labels

    def tie(self, one: Labels, other: Labels) -> None:
        """Merges the groups of the two labels at each index."""
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            low, high = sorted((self._root(a), self._root(b)))
            self._parents[high] = low

    def fix(self, labels: Labels) -> None:
        """Ties the labels to the channels that must stay."""
        self.tie(labels, np.full_like(labels, FIXED))

    @staticmethod
    def _fixed_like(tensor: keras.KerasTensor) -> Labels:
        channels = tensor.shape[-1] if tensor.shape else None
        return np.full(channels or 1, FIXED, np.intp)

    def slice(
        self, variable: keras.Variable | None, axes: dict[int, Labels], own: int | None = None
    ) -> None:
        """Records which slices of a variable belong to which labels; None for no variable."""
        if variable is None:
            return
        entry = Sliced(variable, axes, own)
        before = self.sliced.setdefault(id(variable), entry)
        for axis, labels in entry.axes.items():
            self.tie(before.axes[axis], labels)

    def _run(self, model: Functional, inputs: list[Labels]) -> list[Labels]:
        """Labels of a functional model's outputs, operation by operation."""
        labels = {id(t): given for t, given in zip(model.inputs, inputs, strict=True)}
        for node in keras_private.nodes(model):
            if node.is_input:
                continue
            taken = [labels[id(tensor)] for tensor in node.input_tensors]
            made = self._through(node, taken)
            # All calls of an operation share its variables, so their channels are tied.
            ends = self.ends.setdefault(id(node.operation), (taken, made))
            for before, now in zip([*ends[0], *ends[1]], [*taken, *made], strict=False):
                if before.size == now.size:
                    self.tie(before, now)
                else:
                    self.fix(before)
                    self.fix(now)
            labels |= {id(t): out for t, out in zip(node.outputs, made, strict=True)}
        return [labels[id(tensor)] for tensor in model.outputs]

    def _through(self, node: Any, inputs: list[Labels]) -> list[Labels]:
        operation = node.operation
        is_output = all(id(tensor) in self._outputs for tensor in node.outputs)
        if is_graph(operation):
            inner = functional(operation)
            if is_output:
                self._outputs |= {id(tensor) for tensor in inner.outputs}
            return self._run(inner, inputs)
        try:
            rule = RULES.get(type(operation))
            if rule is None:
                msg = "no rule for it"
                raise NoRuleError(msg)
            made = rule(self, node, inputs)
        except NoRuleError as reason:
            touches = any(self.groups(labels).any() for labels in inputs)
            if not is_output and (touches or getattr(operation, "trainable_weights", None)):
                self.left_whole.append(f"{operation.name} ({type(operation).__name__}: {reason})")
            for labels in inputs:
                self.fix(labels)
            return [self._fixed_like(tensor) for tensor in node.outputs]
        return [made]

    def activate(self, node: Any, made: Labels, activation: Callable[..., Any]) -> None:
        """Fixes an activation's channels unless the activation maps zero to zero."""
        if activation in _KEEP_ZERO:
            return
        self.fix(made)
        if not all(id(tensor) in self._outputs for tensor in node.outputs):
            name = getattr(activation, "__name__", str(activation))
            self.left_whole.append(
                f"{node.operation.name} (activation {name}: not known as 0 at 0)"
            )


def functional(model: keras.Model) -> Functional:
    """The functional graph of a functional or Sequential model.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: The model is subclassed, or not built.
    """
    if not isinstance(model, keras.Model):
        msg = f"model must be a keras.Model, not {type(model).__name__}"
        raise TypeError(msg)
    if not is_graph(model):
        msg = (
            f"channels can be found in functional and Sequential models only; {model.name!r} is a "
            f"{type(model).__name__}, whose layers are called by Python code"
        )
        raise ValueError(msg)
    if isinstance(model, Functional):
        return model
    graph = keras_private.sequential_graph(model)
    if graph is None:
        msg = (
            f"model {model.name!r} is not built: give it a keras.Input, or call model.build(shape)"
        )
        raise ValueError(msg)
    return graph
