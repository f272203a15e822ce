"""Which masked layers of a model go sparse: what the whole graph is expected to cost decides.

A sparse layer needs its input in blocks and leaves its output in blocks, so that its gain depends on
its neighbours: between two of them nothing changes its layout, and batch normalisation is faster on
blocks too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from prospr_ops.network import keras_private
from prospr_ops.pruning.channels.graph import functional, is_graph
from prospr_ops.sparse import costs, rules
from prospr_ops.sparse.layers import filters_of


@dataclass(frozen=True)
class Choice:
    """What becomes of a masked layer.

    Attributes:
        layer: Name of the layer.
        kept: Number of weights that are kept.
        weights: Number of weights.
        sparse: Whether it goes sparse.
        reason: Why it stays dense, or the gain that is expected.
    """

    layer: str
    kept: int
    weights: int
    sparse: bool
    reason: str


def choices(model: keras.Model, wanted: str | set[str], batch_size: int) -> dict[int, Choice]:
    """What becomes of each masked layer that the graph of a model calls, by the layer's id.

    Args:
        model: A functional or Sequential model with masks.
        wanted: "auto", "all", or names of layers.
        batch_size: Samples of a step.

    Returns:
        A choice for each masked layer, of nested models too.
    """
    found: dict[int, Choice] = {}
    for graph in _graphs(functional(model)):
        plan = _Plan(graph, batch_size)
        chosen = plan.fastest() if wanted == "auto" else plan.candidates
        for key, layer in plan.masked.items():
            if key in found:
                continue
            constraint = rules.mask_of(layer)
            assert constraint is not None
            mask = constraint.mask.numpy()
            reason = rules.reason_against(layer)
            sparse = key in chosen and (wanted in ("auto", "all") or layer.name in wanted)
            found[key] = Choice(
                layer.name,
                int(np.count_nonzero(mask)),
                mask.size,
                sparse and not reason,
                reason or f"{plan.gain(key):.1f} × expected",
            )
    return found


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and those nested in it."""
    yield graph
    for node in keras_private.nodes(graph):
        if is_graph(node.operation):
            yield from _graphs(functional(node.operation))


class _Plan:
    """The masked layers of one graph, and what it costs if some of them are sparse."""

    def __init__(self, graph: Any, batch_size: int) -> None:
        self._graph = graph
        self._samples = batch_size
        self._nodes = list(keras_private.nodes(graph))
        self.masked: dict[int, Any] = {}
        self._dense: dict[int, float] = {}
        self._sparse: dict[int, float] = {}
        for node in self._nodes:
            layer = node.operation
            if rules.mask_of(layer) is None or id(layer) in self.masked:
                continue
            self.masked[id(layer)] = layer
            if not rules.reason_against(layer):
                work = _work(layer, keras_private.inputs_of(node)[0], batch_size)
                self._dense[id(layer)] = costs.dense_seconds(work)
                self._sparse[id(layer)] = costs.sparse_seconds(work)

    @property
    def candidates(self) -> set[int]:
        """Layers that can go sparse."""
        return set(self._dense)

    def gain(self, key: int) -> float:
        """The time of a dense layer by that of the sparse one."""
        return self._dense[key] / self._sparse[key]

    def fastest(self) -> set[int]:
        """The best set of sparse layers that single changes lead to, from those with a gain."""
        chosen = {key for key in self._dense if self.gain(key) > costs.MARGIN}
        seconds = self._seconds(chosen)
        changed = True
        while changed:
            changed = False
            for key in self._dense:
                other = chosen ^ {key}
                if self._seconds(other) < seconds:
                    chosen, seconds, changed = other, self._seconds(other), True
        return chosen

    def _seconds(self, chosen: set[int]) -> float:
        """What depends on the choice, of one step."""
        blocked: set[int] = set()
        moved: set[int] = set()
        total = 0.0

        def move(tensors: list[Any], wanted: bool) -> None:
            nonlocal total
            for tensor in tensors:
                if (id(tensor) in blocked) is not wanted and id(tensor) not in moved:
                    moved.add(id(tensor))
                    total += costs.MARGIN * costs.border_seconds(self._elements(tensor))

        for node in self._nodes:
            operation, inputs = node.operation, keras_private.inputs_of(node)
            on_blocks = id(operation) in chosen
            if not on_blocks and any(id(tensor) in blocked for tensor in inputs):
                on_blocks = rules.works_on_blocks(operation, len(inputs[0].shape))
            move(inputs, on_blocks)
            if on_blocks:
                blocked.update(id(tensor) for tensor in keras_private.outputs_of(node))
            if id(operation) in chosen:
                total += costs.MARGIN * self._sparse[id(operation)]
            elif id(operation) in self._dense:
                total += self._dense[id(operation)]
            elif inputs and rules.is_normalisation(operation, len(inputs[0].shape)):
                total += costs.normalisation_seconds(self._elements(inputs[0]), blocks=on_blocks)
        move(self._graph.outputs, wanted=False)
        return total

    def _elements(self, tensor: Any) -> int:
        return self._samples * math.prod(size or 1 for size in tensor.shape[1:])


def _work(layer: Any, source: Any, batch_size: int) -> costs.Work:
    constraint = rules.mask_of(layer)
    assert constraint is not None
    mask = constraint.mask.numpy()
    shape = tuple(size or 1 for size in source.shape[1:])
    output = tuple(size or 1 for size in layer.compute_output_shape((1, *shape))[1:])
    wide = math.prod(filters_of(layer, mask).mask.shape[:2]) > 1
    return costs.Work(
        samples=batch_size,
        weights=mask.size,
        kept=int(np.count_nonzero(mask)),
        elements=math.prod(shape) + math.prod(output),
        positions=math.prod(output[:-1]),
        columns=output[-2] if wide else 0,
    )
