"""Which channels of a model must be pruned together (dependency groups).

A channel is an index of the last axis of an activation. Every channel of every tensor of a
functional model gets a *label*, and rules say how labels pass through a layer: a convolution takes
labels in and makes new ones, BatchNormalization passes its labels on, Concatenate concatenates
them, Flatten repeats them, and an addition ties its inputs, so that two labels become one. Channels
with the same final label form one *group*: they can only be removed together, and if they are, all
shapes in the model still fit.

Label 0 marks channels that must stay: the model's inputs and outputs, and everything that enters or
leaves an operation without a rule here, such as attention.

The same labels name the slices of the layers' variables. A variable is sliced along its input
channels (the rows of a Dense kernel) and along its output channels. The slices along output
channels are the group's *own*: kernel columns, biases, and the gamma and beta of every
normalisation that the channel passes. **A group is pruned when its own slices are all zero**; for
BatchNormalization without gamma the moving mean too.

Then each of its channels is a constant, wherever it goes, and mostly zero: convolutions, pooling,
zero-padding and ReLU keep zeros. Each channel of a tensor carries, beside its label, whether it is
zero once its group is pruned (`Channels.origins`). The sigmoid of a squeeze-and-excite gate makes
0.5 of a zero, but its product with a channel that is zero is zero, and a gamma of zero makes zero of
anything. Nothing has to be folded into later biases: a kernel that reads channels which are not zero
makes them stay.

Two modules use this analysis: `prospr_ops.pruning.channels.groups` chooses the groups to prune, and
`prospr_ops.delivery.shrinking` removes the zero ones.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from prospr_ops.network import keras_private
from prospr_ops.network.keras_private import Functional
from prospr_ops.pruning.channels.probing import is_elementwise, keeps_zero
from prospr_ops.pruning.channels.rules import RULES, Channels, Labels, NoRuleError

FIXED = 0

# Kinds of models whose layers and calls are known.
_GRAPHS = (Functional, keras.Sequential)


def is_graph(operation: Any) -> bool:
    """Whether an operation is a model that calls its layers as its graph says.

    A subclass with a training step of its own is; one that is called by Python code is not, unless it
    says so by an attribute `calls_its_graph`.
    """
    return getattr(operation, "calls_its_graph", False) or any(
        isinstance(operation, kind) and type(operation).call is kind.call for kind in _GRAPHS
    )


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
        self._origins = [""]
        graph = functional(model)
        self._outputs = {id(tensor) for tensor in graph.outputs}
        fixed = [self._fixed_like(tensor) for tensor in graph.inputs]
        for channels in self._run(graph, fixed):
            self.fix(channels.labels)

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

    def origin(self, node: Any, why: str) -> int:
        """Number of an operation whose output is not zero where its inputs are."""
        self._origins.append(f"{node.operation.name} ({type(node.operation).__name__}: {why})")
        return len(self._origins) - 1

    def read(self, channels: Channels) -> Labels:
        """Labels of channels that an operation can do without where they are zero; fixes others."""
        for origin in np.unique(channels.origins[channels.origins > 0]):
            labels = channels.labels[channels.origins == origin]
            if self.groups(labels).any():
                self._leave_whole(self._origins[origin])
                self.fix(labels)
        return channels.labels

    def _leave_whole(self, what: str) -> None:
        if what not in self.left_whole:
            self.left_whole.append(what)

    @staticmethod
    def _fixed_like(tensor: keras.KerasTensor) -> Channels:
        channels = tensor.shape[-1] if tensor.shape else None
        return Channels.zero(np.full(channels or 1, FIXED, np.intp))

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

    def _run(self, model: Functional, inputs: list[Channels]) -> list[Channels]:
        """Channels of a functional model's outputs, operation by operation."""
        channels = {id(t): given for t, given in zip(model.inputs, inputs, strict=True)}
        for node in keras_private.nodes(model):
            if node.is_input:
                continue
            taken = [channels[id(tensor)] for tensor in node.input_tensors]
            made = self._through(node, taken)
            # All calls of an operation share its variables, so their channels are tied.
            now = [each.labels for each in taken], [each.labels for each in made]
            ends = self.ends.setdefault(id(node.operation), now)
            for before, after in zip([*ends[0], *ends[1]], [*now[0], *now[1]], strict=False):
                if before.size == after.size:
                    self.tie(before, after)
                else:
                    self.fix(before)
                    self.fix(after)
            channels |= {id(t): out for t, out in zip(node.outputs, made, strict=True)}
        return [channels[id(tensor)] for tensor in model.outputs]

    def _through(self, node: Any, inputs: list[Channels]) -> list[Channels]:
        operation = node.operation
        if is_graph(operation):
            inner = functional(operation)
            if self._is_output(node):
                self._outputs |= {id(tensor) for tensor in inner.outputs}
            return self._run(inner, inputs)
        try:
            rule = RULES.get(type(operation))
            if rule is None:
                msg = "no rule for it"
                raise NoRuleError(msg)
            made = rule(self, node, inputs)
        except NoRuleError as reason:
            touches = any(self.groups(channels.labels).any() for channels in inputs)
            weights = getattr(operation, "trainable_weights", None)
            if not self._is_output(node) and (touches or weights):
                self._leave_whole(f"{operation.name} ({type(operation).__name__}: {reason})")
            for channels in inputs:
                self.fix(channels.labels)
            return [self._fixed_like(tensor) for tensor in node.outputs]
        return [made]

    def _is_output(self, node: Any) -> bool:
        return all(id(tensor) in self._outputs for tensor in node.outputs)

    def activate(self, node: Any, made: Channels) -> Channels:
        """What the activation of a layer makes of its channels."""
        activation = node.operation.activation
        name = f"activation {getattr(activation, '__name__', activation)}"
        if not is_elementwise(activation):
            if not self._is_output(node):
                self._leave_whole(f"{node.operation.name} ({name}: not known as elementwise)")
            self.fix(made.labels)
        elif not keeps_zero(activation):
            origin = self.origin(node, f"{name} is not 0 at 0")
            return made._replace(origins=np.where(made.origins == 0, origin, made.origins))
        return made


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
