"""Layers whose inner layers are sparse: attention, blocks of Transformers, layers of one's own.

Python code calls what is within such a layer, so that nothing is known of what lies between two of its
inner layers: each takes and gives plain tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from prospr_ops.network import keras_private
from prospr_ops.pruning import masks
from prospr_ops.pruning.channels.graph import is_graph
from prospr_ops.sparse import blocks, rules
from prospr_ops.sparse.layers import BlockLayer, SparseLayer


class SparsePart(SparseLayer):
    """A sparse layer on plain tensors; for a dense layer each row is a sample of a block.

    Args:
        layer: The layer in whose place it is.
        mask: The mask of its kernel.
    """

    def __init__(self, layer: Any, mask: masks.MaskConstraint) -> None:
        BlockLayer.__init__(self, name=layer.name, trainable=layer.trainable)
        self._take(layer, mask)

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        super().build((*input_shape, blocks.BLOCK))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The layer's outputs."""
        samples = inputs
        if not self.axes:
            samples = tf.reshape(inputs, [-1, *self.read])
        relu = self.activation is keras.activations.relu
        outputs = self.convolved(blocks.to_blocks(samples), self.offset(), relu=relu)
        outputs = blocks.from_blocks(outputs, tf.shape(samples)[0])
        if not self.axes:
            outer = self.outer(tf.shape(inputs))
            outputs = tf.reshape(outputs, tf.concat([outer, self.made], 0))
        outputs.set_shape(self.compute_output_shape(inputs.shape))
        return outputs if relu else self.activation(outputs)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the layer's outputs."""
        return self.shape_of_blocks((*input_shape, blocks.BLOCK))[:-1]


@keras.saving.register_keras_serializable(package="prospr_ops")
class WithSparseParts(layers.Wrapper):
    """A layer some of whose inner layers compute by their kept weights alone.

    Args:
        layer: The layer, not built.
        parts: Masks of the inner layers that go sparse, by their number among all inner layers, or the
            configurations of the masks.
        called_on: Symbolic tensors and all else that the layer is called on: a list of arguments, and a
            dictionary.
        **kwargs: As of every Keras layer.
    """

    def __init__(self, layer: Any, parts: Mapping[str, Any], called_on: Any, **kwargs: Any) -> None:
        alike = {"name": layer.name, "trainable": layer.trainable, "dtype": layer.dtype_policy}
        super().__init__(layer, **{**alike, **kwargs})
        self.supports_masking = layer.supports_masking
        self.parts = keras.saving.serialize_keras_object(dict(parts))
        self.called_on = keras.saving.serialize_keras_object(called_on)
        arguments, named = keras.tree.map_structure(_input, called_on)
        outputs = layer(*arguments, **named)  # makes its inner layers and their variables
        inner = inner_layers(layer)
        for number, mask in keras.saving.deserialize_keras_object(self.parts).items():
            _replace(layer, inner[int(number)], mask)
        # Its code may do more with an inner layer than call it.
        found = keras_private.compute_output_spec(layer, *arguments, **named)
        shapes = [keras.tree.map_structure(lambda x: x.shape, each) for each in (outputs, found)]
        if shapes[0] != shapes[1]:
            msg = f"it gives a tensor of shape {shapes[1]} instead of {shapes[0]}"
            raise ValueError(msg)
        self.built = True

    @classmethod
    def of(cls, layer: Any, chosen: set[int], arguments: Any, named: Any) -> WithSparseParts:
        """A copy of a layer, without its weights, some of whose inner layers are sparse.

        Args:
            layer: The layer.
            chosen: The inner layers that are sparse, by their ids.
            arguments: What it is called on.
            named: And by which names.
        """
        parts = {
            str(number): rules.mask_of(inner)
            for number, inner in enumerate(inner_layers(layer))
            if id(inner) in chosen
        }
        copy = type(layer).from_config(layer.get_config())
        copy.trainable = layer.trainable
        return cls(copy, parts, (list(arguments), dict(named)))

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer gives."""
        return self.layer(*args, **kwargs)

    def compute_mask(self, *_: Any, **__: Any) -> None:
        """None: the layer puts masks on its outputs itself."""

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration, which holds those of the layer and of its masked parts."""
        config = super().get_config()
        config["layer"].pop("build_config", None)  # it is built by being called
        return {**config, "parts": self.parts, "called_on": self.called_on}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> WithSparseParts:
        """Makes the layer that `get_config` described."""
        config = dict(config)
        called_on = keras.saving.deserialize_keras_object(config.pop("called_on"))
        return super().from_config({**config, "called_on": called_on}, custom_objects)

    def dense(self) -> layers.Layer:
        """Makes the stock layer again, without its weights."""
        return type(self.layer).from_config(self.layer.get_config())


def _input(value: Any) -> Any:
    """A symbolic input like a symbolic tensor; else the value."""
    if isinstance(value, keras.KerasTensor):
        return keras.Input(batch_shape=value.shape, dtype=value.dtype)
    return value


def inner_layers(layer: layers.Layer) -> list[layers.Layer]:
    """The layers within a layer, in their order."""
    return [inner for inner in keras_private.all_layers(layer) if inner is not layer]


def masked_parts(operation: Any) -> list[layers.Layer]:
    """The masked layers within a layer, which is no model, in the order of their kernels; else none."""
    if not isinstance(operation, layers.Layer) or is_graph(operation):
        return []
    masked = {
        id(inner.kernel): inner
        for inner in inner_layers(operation)
        if rules.mask_of(inner) is not None
    }
    return [masked[id(variable)] for variable in operation.weights if id(variable) in masked]


def reason_against_part(outer: Any, inner: Any) -> str:
    """Why a masked layer within another must stay dense; empty if it can go sparse."""
    graphs = [one for one in inner_layers(outer) if is_graph(one)]
    if any(inner in inner_layers(graph) for graph in graphs):
        return "it belongs to a model within a layer"
    if isinstance(outer, layers.Wrapper):
        return f"{type(outer).__name__} calls it in its own way"
    return rules.reason_against(inner, within=True)


def _replace(outer: layers.Layer, inner: layers.Layer, mask: masks.MaskConstraint) -> None:
    """Puts a sparse layer in the place of an inner one."""
    part = SparsePart(inner, mask)
    with ExitStack() as scopes:
        for name in inner.path.split("/")[:-1]:
            scopes.enter_context(keras.name_scope(name))
        part.build((None, *part.read))
    keras_private.replace_layer(outer, inner, part)
