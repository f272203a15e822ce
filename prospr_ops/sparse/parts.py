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

    @property
    def kernel(self) -> Any:
        """Raises an error: code of the layer around it that does more than call it must not go on."""
        msg = f"layer {self.name!r} is sparse, so that it has no kernel to be read"
        raise AttributeError(msg)

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        super().build((*input_shape, blocks.BLOCK))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The layer's outputs."""
        samples = inputs = tf.cast(inputs, self.compute_dtype)  # integers, too
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
        own = {"name": layer.name, "trainable": layer.trainable, "dtype": layer.dtype_policy}
        own["autocast"] = False
        super().__init__(layer, **{**own, **kwargs})
        self.supports_masking = layer.supports_masking
        keras_private.call_like(self, layer)
        self.parts = keras.saving.serialize_keras_object(dict(parts))
        # Of the layer as it is now: its configuration may hold those of its inner layers.
        self.dense_config = keras.saving.serialize_keras_object(layer)
        self.dense_config.pop("build_config", None)  # it is built by being called
        self.called_on = keras.saving.serialize_keras_object(called_on)
        arguments, named = keras.tree.map_structure(_input, called_on)
        layer(*arguments, **named)  # makes its inner layers and their variables
        before = _shapes(layer, arguments, named)
        inner = inner_layers(layer)
        for number, mask in keras.saving.deserialize_keras_object(self.parts).items():
            _replace(layer, inner[int(number)], mask)
        # Its code may do more with an inner layer than call it, perhaps in training alone.
        for training in (False, True):
            found = _shapes(layer, arguments, {**named, "training": training})
            if before != found:
                msg = f"it gives a tensor of shape {found} instead of {before}"
                raise ValueError(msg)
        if not layer.trainable:  # from a configuration, which froze nothing within it
            for one in inner_layers(layer):
                keras_private.freeze_like(one, layer)
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
        made = type(layer).from_config(layer.get_config())
        made.trainable = layer.trainable
        return cls(made, parts, (list(arguments), dict(named)))

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer gives."""
        return self.layer(*args, **kwargs)

    def compute_mask(self, *_: Any, **__: Any) -> None:
        """None: the layer puts masks on its outputs itself."""

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration, which holds those of the layer and of its masked parts."""
        own = {"parts": self.parts, "called_on": self.called_on}
        return {**layers.Layer.get_config(self), "layer": self._config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> WithSparseParts:
        """Makes the layer that `get_config` described."""
        config = dict(config)
        called_on = keras.saving.deserialize_keras_object(config.pop("called_on"))
        return super().from_config({**config, "called_on": called_on}, custom_objects)

    def dense(self) -> layers.Layer:
        """Makes the stock layer again, without its weights."""
        return type(self.layer).from_config(self._config()["config"])

    def _config(self) -> dict[str, Any]:
        """The configuration of the layer, none of whose inner layers is sparse."""
        config: dict[str, Any] = _plain(self.dense_config)
        if "trainable" in config["config"]:
            config["config"]["trainable"] = self.layer.trainable
        return config


def _plain(value: Any) -> Any:
    """A copy of a configuration, of dictionaries and lists of Python's own."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _shapes(layer: Any, arguments: Any, named: Any) -> Any:
    """The shapes of what a layer's code gives, whatever the layer says that it gives."""
    outputs = keras_private.compute_output_spec(layer, *arguments, **named)
    return keras.tree.map_structure(lambda x: getattr(x, "shape", x), outputs)


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
    for holder in (outer, *inner_layers(outer)):
        if not any(inner is one for one in inner_layers(holder)):
            continue
        if is_graph(holder):
            return "it belongs to a model within a layer"
        if isinstance(holder, layers.Wrapper):
            return f"{type(holder).__name__} calls it in its own way"
    return rules.reason_against(inner, within=True)


def _replace(outer: layers.Layer, inner: layers.Layer, mask: masks.MaskConstraint) -> None:
    """Puts a sparse layer in the place of an inner one."""
    part = SparsePart(inner, mask)
    with ExitStack() as scopes:
        for name in inner.path.split("/")[:-1]:
            scopes.enter_context(keras.name_scope(name))
        part.build((None, *part.read))
    keras_private.replace_layer(outer, inner, part)
    inner.call = _gone  # code may hold it where nobody looks, as in a function


def _gone(*_: Any, **__: Any) -> None:
    """In the place of the call of a layer that another one has replaced."""
    msg = "its code holds an inner layer other than in an attribute, list, tuple or dictionary"
    raise ValueError(msg)
