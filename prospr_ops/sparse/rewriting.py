"""A functional model with its masked layers made sparse, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import layers

from prospr_ops.network import keras_private
from prospr_ops.network.weights import owned_weights
from prospr_ops.pruning import masks
from prospr_ops.pruning.channels.graph import functional, is_graph
from prospr_ops.sparse import rules
from prospr_ops.sparse.folding import folds
from prospr_ops.sparse.layers import (
    BlockedBatchNormalization,
    BlockLayer,
    FromBlocks,
    PerChannel,
    SparseLayer,
    ToBlocks,
)
from prospr_ops.sparse.parts import WithSparseParts, inner_layers, masked_parts
from prospr_ops.sparse.small import small_or


@keras.saving.register_keras_serializable(package="prospr_ops")
class SparseModel(keras.Model):
    """A functional model some of whose layers compute with their kept weights alone."""

    calls_its_graph = True  # though `call` is its own
    was_sequential = False

    def call(self, inputs: Any, training: Any = None, mask: Any = None, **named: Any) -> Any:
        """Runs the graph; in inference sparse layers do the normalisations behind them, and few samples need no blocks."""
        masked = any(one is not None for one in keras.tree.flatten(mask))
        if training or masked or named or (training is None and keras_private.says_training(self)):
            return super().call(inputs, training=training, mask=mask, **named)

        def on_blocks() -> Any:
            folded = folds(self)
            return keras_private.call_graph(
                self,
                inputs,
                lambda operation: (
                    folded.get(id(operation)) or keras_private.in_inference(operation)
                ),
            )

        return small_or(self, inputs, on_blocks)

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration of a functional model."""
        return {**super().get_config(), "was_sequential": self.was_sequential}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> SparseModel:
        """Makes the model that `get_config` described."""
        config = dict(config)
        was_sequential = config.pop("was_sequential", False)
        model = super().from_config(config, custom_objects)
        model.was_sequential = was_sequential
        return model


class _Copy:
    """A copy of a functional model, operation by operation."""

    def __init__(self) -> None:
        self._copies: dict[Any, Any] = {}
        self._weights: list[Callable[[], dict[int, Any]]] = []

    def finish(self, model: keras.Model) -> None:
        """Gives all layers of a copy their weights, and the masks that no configuration carried."""
        lost: dict[int, Any] = {}
        for assign in self._weights:
            lost |= assign()
        if lost:
            weights = owned_weights(model, frozen=True)  # whose paths differ, as names may not
            held = {path: lost[id(v)] for path, (_, v) in weights.items() if id(v) in lost}
            masks.hold_masks(model, held)

    def inputs(self, model: keras.Model) -> Any:
        return keras.tree.map_structure(
            lambda tensor: keras.Input(
                batch_shape=tensor.shape,
                dtype=tensor.dtype,
                name=keras_private.operation_of(tensor).name,
            ),
            keras_private.input_structure(functional(model)),
        )

    def same(self, operation: Any) -> Any:
        """The copy of an operation that stays what it is, one for all its uses."""
        return self.made(
            operation, "same", lambda: type(operation).from_config(operation.get_config())
        )

    def made(self, operation: Any, kind: str, make: Callable[[], Any]) -> Any:
        key = (id(operation), kind)
        if key not in self._copies:
            self._copies[key] = copy = make()
            if isinstance(operation, layers.Layer) and isinstance(copy, layers.Layer):
                copy.trainable = operation.trainable
                self._weights.append(lambda: _copy_weights(operation, copy))
        return self._copies[key]


def _copy_weights(layer: Any, copy: Any) -> dict[int, Any]:
    """Gives a copy the weights of a layer; returns the masks that it has lost, by its variable's id."""
    if isinstance(copy, SparseLayer) or isinstance(layer, SparseLayer):
        return _copy_kept(layer, copy)
    wrappers = (WithSparseParts, PerChannel)
    one, other = (x.layer if isinstance(x, wrappers) else x for x in (layer, copy))
    lost: dict[int, Any] = {}
    done: set[int] = set()
    within = (inner_layers(one), inner_layers(other))
    if len(within[0]) != len(within[1]):
        msg = (
            f"layer {layer.name!r} made again by its configuration holds {len(within[1])} layers "
            f"instead of {len(within[0])}"
        )
        raise ValueError(msg)
    for inner, target in zip(*within, strict=True):
        keras_private.freeze_like(target, inner)
        if isinstance(inner, SparseLayer) or isinstance(target, SparseLayer):
            lost |= _copy_kept(inner, target)
            done |= {id(variable) for variable in (*inner.variables, *target.variables)}
    rest = ([v for v in x.variables if id(v) not in done] for x in (one, other))
    for variable, target in zip(*rest, strict=True):
        target.assign(variable)
        target.trainable = variable.trainable
        _note_mask(masks.mask_of(variable), target, lost)
    if isinstance(layer, layers.Normalization):
        copy.finalize_state()
    return lost


def _copy_kept(layer: Any, copy: Any) -> dict[int, Any]:
    """Gives a sparse layer the weights of a masked one, or the other way round."""
    lost: dict[int, Any] = {}
    if isinstance(copy, SparseLayer):
        copy.set_kept(layer.kernel.numpy())
        copy.kept.trainable = layer.kernel.trainable
    else:
        copy.kernel.trainable = layer.kept.trainable
        copy.kernel.assign(layer.dense_kernel(copy.kernel.shape))
        mask = layer.filters.mask.reshape(copy.kernel.shape)
        _note_mask(mask, copy.kernel, lost)
    if layer.bias is not None:
        copy.bias.assign(layer.bias)
        copy.bias.trainable = layer.bias.trainable
    return lost


def _note_mask(mask: Any, target: Any, lost: dict[int, Any]) -> None:
    """Notes a mask that a copy of its variable lacks."""
    if mask is not None and masks.mask_of(target) is None:
        lost[id(target)] = mask


@dataclass(frozen=True)
class Postponed:
    """A batch normalisation that waits for what it takes along: the ReLU, or the sum and the ReLU.

    Attributes:
        tensor: What stands for its output, and then for the sum.
        operation: The layer.
        inputs: What it is called on, and how.
        place: Which input of the sum it is.
        residual: The sum's other input, once the sum was met; else None.
    """

    tensor: keras.KerasTensor
    operation: Any
    inputs: tuple[Any, dict[str, Any]]
    place: int = 0
    residual: Any = None


def behind_normalisations(graph: Any, uses: Mapping[int, int]) -> dict[int, list[Any]]:
    """The layers behind each batch normalisation that it can take along, by its id.

    Args:
        graph: A functional model.
        uses: How often each operation is called, by its id.

    Returns:
        Of some normalisations, a ReLU, or a sum and a ReLU, of which nothing else sees the inputs.
    """
    calls: dict[int, list[Any]] = {}
    for node in keras_private.nodes(graph):
        for tensor in keras_private.inputs_of(node):
            calls.setdefault(id(tensor), []).append(node)
    seen = {id(tensor) for tensor in keras.tree.flatten(graph.outputs)}

    def only_call_on(node: Any) -> Any:
        """The only call on what a call gives, of a layer that is called once; or None."""
        (output,) = keras_private.outputs_of(node)
        found = calls.get(id(output), [])
        alone = len(found) == 1 and id(output) not in seen and uses[id(found[0].operation)] == 1
        return found[0] if alone else None

    behind: dict[int, list[Any]] = {}
    taken: set[int] = set()
    for node in keras_private.nodes(graph):
        if type(node.operation) is not layers.BatchNormalization or uses[id(node.operation)] != 1:
            continue
        follower, chain = only_call_on(node), []
        if follower and rules.is_sum_of_two(follower.operation, keras_private.inputs_of(follower)):
            chain, follower = [follower.operation], only_call_on(follower)
        if follower and rules.ceiling_of(follower.operation) is not None:
            chain.append(follower.operation)
            if not taken & {id(one) for one in chain}:  # a sum of two normalisations is of one
                behind[id(node.operation)] = chain
                taken |= {id(one) for one in chain}
    return behind


class SparseCopy(_Copy):
    """A copy in which some layers are sparse, and what lies between them works on their blocks."""

    def __init__(self, chosen: set[int]) -> None:
        super().__init__()
        self._chosen = chosen
        # Of parts of layers whose code cannot do with sparse ones: what it raised.
        self.refused: dict[int, Exception] = {}
        self._uses: Counter[int] = Counter()
        self._blocked: dict[int, Any] = {}  # tensors of blocks, and with them one of their batch
        self._plain: dict[int, Any] = {}
        self._lanes: dict[int, Any] = {}
        self._batch: Any = None
        self._behind: dict[int, list[Any]] = {}
        self._postponed: dict[int, Postponed] = {}

    def model(self, model: keras.Model) -> SparseModel:
        """The copy of a model."""
        graph = functional(model)
        self._uses.update(id(node.operation) for node in keras_private.nodes(graph))
        self._behind |= behind_normalisations(graph, self._uses)
        outer, inputs = self._batch, self.inputs(model)
        self._batch = keras.tree.flatten(inputs)[0]
        outputs = keras_private.run_graph(
            graph, inputs, lambda operation: lambda *a, **k: self._call(operation, a, k)
        )
        copy = SparseModel(
            inputs, keras.tree.map_structure(self._to_plain, outputs), name=model.name
        )
        copy.was_sequential = isinstance(model, keras.Sequential)
        self._batch = outer
        return copy

    def _call(self, operation: Any, arguments: Any, named: Any) -> Any:
        tensors = [
            value
            for value in keras.tree.flatten((arguments, named))
            if isinstance(value, keras.KerasTensor)
        ]
        if id(operation) in self._chosen:
            layer = self.made(operation, "sparse", lambda: SparseLayer(operation))
            return self._note(layer(self._to_blocks(arguments[0])))
        postponed = [
            self._postponed[id(tensor)] for tensor in tensors if id(tensor) in self._postponed
        ]
        if postponed:
            return self._note(self._taken_along(operation, tensors, postponed[0]))
        call = None
        named = {name: value for name, value in named.items() if value is not None}
        if any(id(tensor) in self._blocked for tensor in tensors):
            call = self._on_blocks(operation, tensors)
        if call is not None:
            return self._note(call(*keras.tree.map_structure(self._to_blocks, arguments), **named))
        arguments, named = keras.tree.map_structure(self._to_plain, (arguments, named))
        return self._copied(operation, arguments, named)(*arguments, **named)

    def _copied(self, operation: Any, arguments: Any, named: Any) -> Any:
        """The copy of an operation that works on plain tensors."""
        if is_graph(operation):
            return self._made_model(operation)
        parts = {id(part) for part in masked_parts(operation)} & self._chosen
        if parts - self.refused.keys():
            try:
                return self.made(
                    operation,
                    "parts",
                    lambda: WithSparseParts.of(operation, parts, arguments, named),
                )
            except Exception as error:  # noqa: BLE001 - whatever a user's layer raises; sparsify tells it, and the layer stays dense
                self.refused |= dict.fromkeys(parts, error)
        return self.same(operation)

    def _made_model(self, model: Any) -> Any:
        key = (id(model), "model")
        if key not in self._copies:
            self._copies[key] = self.model(model)
        return self._copies[key]

    def _on_blocks(self, operation: Any, tensors: list[Any]) -> Callable[..., Any] | None:
        """How an operation is called on blocks; None if it cannot be."""
        shapes = {
            tuple(tensor.shape[1 : -1 if id(tensor) in self._blocked else None])
            for tensor in tensors
        }
        rank = len(next(iter(shapes))) + 1
        if rules.is_elementwise(operation) and len(shapes) == 1:
            # One that is also called on plain tensors is another there; none of them has weights.
            return self.made(operation, "blocks", lambda: _remade(operation))
        if rules.is_concatenation(operation, rank):
            axis = operation.axis % rank
            return self.made(operation, "blocks", lambda: _remade(operation, axis=axis))
        if rules.is_padding(operation) and len(operation.pad_width) == rank:
            width = [*operation.pad_width, (0, 0)]
            return self.made(operation, "blocks", lambda: _remade(operation, pad_width=width))
        if rules.is_per_channel(operation):
            return self.made(
                operation, "blocks", lambda: PerChannel(_remade(operation), name=operation.name)
            )
        if rules.is_normalisation(operation, rank) and self._uses[id(operation)] == 1:
            if id(operation) in self._behind:
                return lambda values, **named: self._postpone(operation, values, named)
            return lambda values, **named: self._normalisation(operation, [values], named)
        return None

    def _normalisation(
        self, operation: Any, inputs: list[Any], named: Any, behind: Any = (), place: int = 0
    ) -> Any:
        values, *residual = inputs
        config = {**operation.get_config(), "axis": len(values.shape) - 2}
        layer = self.made(
            operation,
            "blocks",
            lambda: BlockedBatchNormalization(behind=behind, place=place, **config),
        )
        return layer([values, self._batch, *residual], **named)

    def _postpone(self, operation: Any, values: Any, named: Any) -> Any:
        tensor = keras.KerasTensor(values.shape, values.dtype)
        self._postponed[id(tensor)] = Postponed(tensor, operation, (values, named))
        return tensor

    def _taken_along(self, operation: Any, tensors: list[Any], postponed: Postponed) -> Any:
        """The output of a ReLU, or what stands for that of a sum, behind a normalisation."""
        behind = self._behind[id(postponed.operation)]
        values, named = postponed.inputs
        if operation is behind[-1]:
            residual = [] if postponed.residual is None else [postponed.residual]
            return self._normalisation(
                postponed.operation, [values, *residual], named, behind, postponed.place
            )
        place = next(i for i, tensor in enumerate(tensors) if tensor is postponed.tensor)
        tensor = keras.KerasTensor(values.shape, values.dtype)
        self._postponed[id(tensor)] = replace(
            postponed, tensor=tensor, place=place, residual=self._to_blocks(tensors[1 - place])
        )
        return tensor

    def _note(self, outputs: Any) -> Any:
        for tensor in keras.tree.flatten(outputs):
            self._blocked[id(tensor)] = tensor
        return outputs

    def _to_blocks(self, tensor: Any) -> Any:
        if not isinstance(tensor, keras.KerasTensor) or id(tensor) in self._blocked:
            return tensor
        if id(tensor) not in self._lanes:
            self._lanes[id(tensor)] = (tensor, self._note(ToBlocks()(tensor)))
        return self._lanes[id(tensor)][1]

    def _to_plain(self, tensor: Any) -> Any:
        if id(tensor) not in self._blocked:
            return tensor
        if id(tensor) not in self._plain:
            self._plain[id(tensor)] = FromBlocks()([tensor, self._batch])
        return self._plain[id(tensor)]


class DenseCopy(_Copy):
    """A copy of a sparse model in which all layers are masked again."""

    def model(self, model: Any) -> keras.Model:
        """The copy of a model."""
        inputs = self.inputs(model)
        parts: list[Any] = []

        def call(operation: Any) -> Callable[..., Any]:
            if isinstance(operation, BlockedBatchNormalization):
                chain = self._normalised(operation)
                parts.extend(chain)
                return lambda inputs, **named: _called(chain, operation.place, inputs, named)
            layer = self._operation(operation)
            parts.extend([layer] if isinstance(layer, layers.Layer) else [])
            takes_batch = isinstance(operation, FromBlocks)
            return (lambda both: layer(both[0])) if takes_batch else layer

        outputs = keras_private.run_graph(functional(model), inputs, call)
        if getattr(model, "was_sequential", False):
            return keras.Sequential([inputs, *parts], name=model.name)
        return keras.Model(inputs, outputs, name=model.name)

    def _operation(self, operation: Any) -> Any:
        if isinstance(operation, (ToBlocks, FromBlocks)):
            return lambda tensor: tensor
        if isinstance(operation, (SparseLayer, WithSparseParts)):
            return self.made(operation, "dense", operation.dense)
        if isinstance(operation, PerChannel):
            return self.made(operation, "dense", lambda: _remade(operation.layer))
        if is_graph(operation):
            key = (id(operation), "model")
            if key not in self._copies:
                self._copies[key] = self.model(operation)
            return self._copies[key]
        if isinstance(operation, keras_private.Pad):
            return lambda tensor: _remade(
                operation, pad_width=list(operation.pad_width)[: len(tensor.shape)]
            )(tensor)
        assert not isinstance(operation, BlockLayer)
        return self.same(operation)

    def _normalised(self, operation: BlockedBatchNormalization) -> list[layers.Layer]:
        """A stock batch normalisation, and the layers behind it."""
        stock, *behind = operation.dense()
        return [self.made(operation, "dense", lambda: stock), *behind]


def _called(chain: list[Any], place: int, inputs: list[Any], named: dict[str, Any]) -> Any:
    """The output of a stock batch normalisation and what is behind it."""
    values, _, *residual = inputs
    stock, *behind = chain
    outputs = stock(values, **named)
    for layer in behind:
        if residual:
            both = [outputs, residual.pop()]
            outputs = layer(both if place == 0 else both[::-1])
        else:
            outputs = layer(outputs)
    return outputs


def _remade(operation: Any, **changed: Any) -> Any:
    return type(operation).from_config({**operation.get_config(), **changed})
