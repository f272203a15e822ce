"""A smaller model from one with channels that are zero."""

from __future__ import annotations

import tempfile
import warnings
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from prospr_ops.delivery.comparing import SMALLER, check_copy
from prospr_ops.delivery.copying import described, own_objects
from prospr_ops.delivery.sparsifying import densified
from prospr_ops.network import keras_private
from prospr_ops.pruning.channels.graph import FIXED, ChannelGraph, functional, is_graph
from prospr_ops.pruning.channels.normalisation import PartLayerNormalization
from prospr_ops.pruning.channels.rules import Labels
from prospr_ops.pruning.masks import masks_lifted


def shrink(model: keras.Model) -> keras.Model:
    """Removes the channels of a model that are zero, whatever its input.

    That is what pruning with structure="channel" leaves behind, before or after training. What
    counts are the values: a channel goes if its kernel column and bias, and the gamma and beta of
    the BatchNormalization that follows, are all zero, and those of all channels tied to it. So a
    masked model loses nothing but zeros and computes the same function, up to the order in which
    sums are taken. Both models are called once on sampled inputs, and compared.

    Known are Dense, Conv, Conv…Transpose, DepthwiseConv, SeparableConv, Batch-, Layer- and
    GroupNormalization, elementwise activations and operations, products with gates, pooling,
    padding, cropping, upsampling, dropout, Flatten, Reshape, Concatenate, the elementwise merges
    (Add and so on) and nested models. What touches any other operation keeps all its channels, and
    a warning names the operation. A layer of which nothing is left keeps one channel.

    Args:
        model: A built functional or Sequential model. It is not changed.

    Returns:
        A new model of the same kind with the same layer names, uncompiled, without masks.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: Python code calls its layers, it is not built, a layer of it cannot be made again, or the smaller
            model would compute something else.

    Examples:
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> result = po.prune(
        ...     model,
        ...     None,
        ...     sparsity=0.5,
        ...     method="magnitude",
        ...     structure="channel",
        ...     scope="layer",
        ...     verbose=0,
        ... )
        >>> small = po.shrink(model)
        >>> [layer.units for layer in model.layers[1:]], [layer.units for layer in small.layers[1:]]
        ([300, 100, 3], [150, 50, 3])
    """
    model = densified(model)
    graph = ChannelGraph(model)
    if graph.left_whole:
        warnings.warn(f"shrink: channels stay whole at {', '.join(graph.left_whole)}", stacklevel=2)
    try:
        with masks_lifted(model), own_objects(model, rename=True):
            small = _Copy(graph).model(model)
    except Exception as error:  # of a layer's own code
        msg = f"shrink cannot make a layer of model {model.name!r} again: {described(error)}"
        raise ValueError(msg) from error
    check_copy(model, small, "shrink", SMALLER)
    return small


def _kept(graph: ChannelGraph) -> npt.NDArray[np.bool_]:
    """Whether each group is kept."""
    kept = np.zeros(graph.labels, bool)
    kept[FIXED] = True
    for sliced in graph.sliced.values():
        if sliced.own is not None:
            values = sliced.variable.numpy()
            others = tuple(axis for axis in range(values.ndim) if axis != sliced.own)
            kept[graph.groups(sliced.axes[sliced.own])[(values != 0).any(axis=others)]] = True
    # No layer can be without channels.
    for taken, made in graph.ends.values():
        for labels in (*taken, *made):
            groups = graph.groups(labels)
            if not kept[groups].any():
                kept[groups[0]] = True
    return kept


class _Copy:
    """Copies models and layers without the channels that are not kept."""

    def __init__(self, graph: ChannelGraph) -> None:
        self._graph = graph
        self._kept = _kept(graph)
        self._copies: dict[int, Any] = {}

    def model(self, model: keras.Model) -> keras.Model:
        inputs = keras.tree.map_structure(
            self._input(model), keras_private.input_structure(functional(model))
        )
        if isinstance(model, keras.Sequential):
            parts = [inputs, *(self._operation(layer) for layer in model.layers)]
            small = keras.Sequential(parts, name=model.name)
        else:
            outputs = keras_private.run_graph(functional(model), inputs, self._operation)
            small = keras.Model(inputs, outputs, name=model.name)
        for layer in model.layers:
            copy = self._copies.get(id(layer))
            if copy is not None and not is_graph(layer):
                self._copy_variables(layer, copy)
        return small

    def _input(self, model: keras.Model) -> Any:
        """A function from the inputs of a model to those of its copy."""
        taken = self._graph.ends.get(id(model))
        sizes = {}
        if taken is not None:  # a nested model
            sizes = {
                id(tensor): self._count(labels)
                for tensor, labels in zip(functional(model).inputs, taken[0], strict=True)
            }

        def copy(tensor: keras.KerasTensor) -> keras.KerasTensor:
            *outer, channels = tensor.shape
            shape = (*outer, sizes.get(id(tensor), channels))
            name = keras_private.operation_of(tensor).name
            return keras.Input(batch_shape=shape, dtype=tensor.dtype, name=name)

        return copy

    def _operation(self, operation: Any) -> Any:
        """The copy of an operation, one for all its uses."""
        if id(operation) not in self._copies:
            self._copies[id(operation)] = (
                self.model(operation) if is_graph(operation) else self._small(operation)
            )
        return self._copies[id(operation)]

    def _small(self, operation: Any) -> Any:
        """The copy of a layer or operation: only sizes differ, and only where channels go."""
        kind, config = type(operation), operation.get_config()
        (made, *_) = self._graph.ends[id(operation)][1]
        kept = self._keep(made)
        if kept.all():
            return kind.from_config(config)
        for size in ("units", "filters", "projection_dim"):
            if size in config:
                config[size] = int(kept.sum())
        if config.get("groups", 1) > 1:  # only whole groups go
            config["groups"] = int(kept.reshape(config["groups"], -1)[:, 0].sum())
        if kind is layers.LayerNormalization:
            kind, config = PartLayerNormalization, {**config, "channels": kept.size}
        for shape in ("target_shape", "newshape"):
            if shape in config and config[shape][-1] != -1:
                config[shape] = (*config[shape][:-1], int(kept.sum()))
        if isinstance(operation, keras_private.Pad):
            before, after = operation.pad_width[-1]
            end = kept.size - after
            width = (int(kept[:before].sum()), int(kept[end:].sum()))
            config["pad_width"] = [*operation.pad_width[:-1], width]
        return kind.from_config(config)

    def _copy_variables(self, layer: keras.layers.Layer, copy: keras.layers.Layer) -> None:
        for variable, target in zip(layer.variables, copy.variables, strict=True):
            value = variable.numpy()
            sliced = self._graph.sliced.get(id(variable))
            if sliced is not None:
                for axis, labels in sliced.axes.items():
                    value = np.compress(self._keep(labels), value, axis)
            target.assign(value)
        parts = zip(keras_private.all_layers(layer), keras_private.all_layers(copy), strict=True)
        for part, other in parts:
            _copy_state(part, other)

    def _keep(self, labels: Labels) -> npt.NDArray[np.bool_]:
        return self._kept[self._graph.groups(labels)]

    def _count(self, labels: Labels) -> int:
        return int(self._keep(labels).sum())


def _copy_state(layer: keras.layers.Layer, copy: keras.layers.Layer) -> None:
    """Copies what a layer's own saving hooks keep beyond its variables' values."""
    if isinstance(layer, layers.Normalization):
        copy.finalize_state()
    if hasattr(layer, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            copy.load_assets(folder)
