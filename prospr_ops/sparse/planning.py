"""Which masked layers of a model go sparse: what the whole graph is expected to cost decides.

A sparse layer needs its input in blocks and leaves its output in blocks, so that its gain depends on
its neighbours: between two of them nothing changes its layout, and batch normalisation is faster on
blocks too, and free in inference behind a sparse layer. One choice serves training and inference: the
one with the least product of the two times. It must gain in one and not lose in the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import keras
import numpy as np

from prospr_ops.network import keras_private
from prospr_ops.pruning.channels.graph import functional, is_graph
from prospr_ops.pruning.flops import weight_uses
from prospr_ops.sparse import costs, rules
from prospr_ops.sparse.filters import contracted_axes, is_depthwise, read_and_made
from prospr_ops.sparse.parts import masked_parts, reason_against_part


@dataclass(frozen=True)
class Choice:
    """What becomes of a masked layer.

    Attributes:
        layer: Name of the layer, or, within another one, its path.
        kept: Number of weights that are kept.
        weights: Number of weights.
        sparse: Whether it goes sparse.
        reason: Why it stays dense, or the gain that is expected.
        names: By what it can be asked for: also the name of the layer that it is within.
    """

    layer: str
    kept: int
    weights: int
    sparse: bool
    reason: str
    names: frozenset[str]


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
    graphs = list(_graphs(functional(model)))
    uses: dict[str, int] = {}
    if any(masked_parts(node.operation) for g in graphs for node in keras_private.nodes(g)):
        uses = weight_uses(model)
    for graph in graphs:
        plan = _Plan(graph, batch_size, uses)
        chosen, whole = plan.fastest() if wanted == "auto" else (plan.candidates, "")
        for key, layer in plan.masked.items():
            if key in found:
                continue
            constraint = rules.mask_of(layer)
            assert constraint is not None
            mask = constraint.mask.numpy()
            reason = plan.reasons[key]
            outer = plan.outer.get(key)
            names = {layer.name} if outer is None else {layer.path, outer.name}
            sparse = key in chosen and (wanted in ("auto", "all") or bool(names & set(wanted)))
            found[key] = Choice(
                layer.name if outer is None else layer.path,
                int(np.count_nonzero(mask)),
                mask.size,
                sparse and not reason,
                reason or plan.expectation(key, best=sparse and wanted == "auto") + whole,
                frozenset(names),
            )
    return found


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and those nested in it."""
    yield graph
    for node in keras_private.nodes(graph):
        if is_graph(node.operation):
            yield from _graphs(functional(node.operation))


# What a whole model must gain in a step of training; in inference it may not lose.
_LEAST_GAIN = 1.03


@dataclass(frozen=True)
class _Call:
    """What the plan needs to know of one call in a graph.

    Attributes:
        key: The operation's id.
        inputs: Id and number of elements of each input.
        outputs: Ids of the outputs.
        follows: Whether it works on blocks, if they are given to it.
        normalises: Whether it is a batch normalisation.
    """

    key: int
    inputs: list[tuple[int, int]]
    outputs: list[int]
    follows: bool
    normalises: bool


class _Plan:
    """The masked layers of one graph, and what it costs if some of them are sparse."""

    def __init__(self, graph: Any, batch_size: int, uses: Mapping[str, int]) -> None:
        self._graph = graph
        self._samples = batch_size
        self.masked: dict[int, Any] = {}
        self.reasons: dict[int, str] = {}
        self.outer: dict[int, Any] = {}  # of a masked layer within another, the other
        self._work: dict[int, costs.Work] = {}
        self._calls: list[_Call] = []
        for node in keras_private.nodes(graph):
            layer, inputs = node.operation, keras_private.inputs_of(node)
            outputs = keras_private.outputs_of(node)
            if rules.mask_of(layer) is not None:
                self.masked[id(layer)] = layer
                self.reasons[id(layer)] = rules.reason_against(layer)
            parts = masked_parts(layer)
            for inner in parts:
                self.masked[id(inner)] = inner
                self.outer[id(inner)] = layer
                self.reasons[id(inner)] = reason_against_part(layer, inner)
                if not self.reasons[id(inner)]:
                    # Once where no trace tells, as of any length.
                    used = uses.get(inner.kernel.path, 1)
                    self._work[id(inner)] = _work_of_part(inner, used, batch_size)
            if inputs and isinstance(layer, keras.layers.Layer) and not (parts or is_graph(layer)):
                self._work[id(layer)] = _work(layer, inputs[0], outputs[0], batch_size)
            rank = len(inputs[0].shape) if inputs else 0
            self._calls.append(
                _Call(
                    id(layer),
                    [(id(tensor), self._elements(tensor)) for tensor in inputs],
                    [id(tensor) for tensor in outputs],
                    bool(inputs) and rules.works_on_blocks(layer, rank),
                    bool(inputs) and rules.is_normalisation(layer, rank),
                )
            )

    @property
    def candidates(self) -> set[int]:
        """Layers that can go sparse."""
        return {key for key in self.masked if not self.reasons[key]}

    def gain(self, key: int) -> float:
        """The time of a dense layer by that of the sparse one, in training."""
        work = self._work[key]
        sparse = costs.TRAINING.sparse_seconds(work)
        if key in self.outer:
            sparse += costs.TRAINING.border_seconds(work.samples * work.elements)
        return costs.TRAINING.dense_seconds(work) / sparse

    def expectation(self, key: int, *, best: bool) -> str:
        """What a layer alone is expected to gain; `best` if it is sparse since the whole is faster so."""
        gain = self.gain(key)
        return f"{gain:.1f} × expected{' alone, its neighbours gain' if best and gain < 1 else ''}"

    def fastest(self) -> tuple[set[int], str]:
        """The best set of sparse layers that changes of one or two neighbours lead to.

        Returns:
            The set, and a remark if it is empty since the whole would gain too little.
        """
        candidates = self.candidates
        keys = [key for key in self.masked if key in candidates]
        moves = [*({key} for key in keys), *map(set, pairwise(keys))]
        chosen = {key for key in keys if self.gain(key) > costs.MARGIN}
        product = self._product(chosen)
        changed = True
        while changed:
            changed = False
            for move in moves:
                other = self._product(chosen ^ move)
                if other < product:
                    chosen, product, changed = chosen ^ move, other, True
        training, inference = (
            self._seconds(set(), kind) / max(self._seconds(chosen, kind), 1e-12)
            for kind in (costs.TRAINING, costs.INFERENCE)
        )
        if not chosen or (training >= _LEAST_GAIN and inference >= 1):
            return chosen, ""
        short = f"{training:.2f} ×" if training < _LEAST_GAIN else f"{inference:.2f} × in inference"
        return set(), f"; too little in all, {short}"

    def _product(self, chosen: set[int]) -> float:
        return self._seconds(chosen, costs.TRAINING) * self._seconds(chosen, costs.INFERENCE)

    def _seconds(self, chosen: set[int], kind: costs.Costs) -> float:
        """What one step costs, as far as layers with weights and their neighbours go."""
        blocked: set[int] = set()
        moved: set[int] = set()
        of_sparse: set[int] = set()
        total = 0.0

        def move(tensors: list[tuple[int, int]], wanted: bool) -> None:
            nonlocal total
            for tensor, elements in tensors:
                if (tensor in blocked) is not wanted and tensor not in moved:
                    moved.add(tensor)
                    total += costs.MARGIN * kind.border_seconds(elements)

        for call in self._calls:
            key, inputs = call.key, call.inputs
            on_blocks = key in chosen or (
                call.follows and any(tensor in blocked for tensor, _ in inputs)
            )
            move(inputs, on_blocks)
            if on_blocks:
                blocked.update(call.outputs)
            if key in chosen:
                total += costs.MARGIN * kind.sparse_seconds(self._work[key])
                of_sparse.update(call.outputs)
            elif call.normalises:
                # In inference the sparse layer before it does it.
                if kind is costs.TRAINING or inputs[0][0] not in of_sparse:
                    total += kind.normalisation_seconds(inputs[0][1], blocks=on_blocks)
            elif key in self._work and self._work[key].weights:
                total += kind.dense_seconds(self._work[key])
        move([(id(tensor), self._elements(tensor)) for tensor in self._graph.outputs], wanted=False)
        for key in self.outer.keys() & self._work.keys():
            work = self._work[key]
            if key in chosen:
                total += costs.MARGIN * kind.sparse_seconds(work)
                total += costs.MARGIN * kind.border_seconds(work.samples * work.elements)
            else:
                total += kind.dense_seconds(work)
        return total

    def _elements(self, tensor: Any) -> int:
        return self._samples * math.prod(size or 1 for size in tensor.shape[1:])


def _work(layer: Any, source: Any, result: Any, batch_size: int) -> costs.Work:
    """What a layer does, dense if it has no mask; of one without matrices there is no work."""
    constraint = rules.mask_of(layer)
    shape, output = (tuple(size or 1 for size in tensor.shape[1:]) for tensor in (source, result))
    matrices = [v for v in layer.weights if len(v.shape) > 1]
    weights = sum(math.prod(v.shape) for v in matrices)
    made, edges = 1, getattr(getattr(layer, "kernel", None), "shape", (1, 1))[:-2]
    if isinstance(layer, keras.layers.EinsumDense):
        made, edges = len(layer.kernel.shape) - (contracted_axes(layer) or 1), ()
    return costs.Work(
        samples=batch_size,
        weights=weights,
        kept=weights if constraint is None else int(np.count_nonzero(constraint.mask.numpy())),
        elements=math.prod(shape) + math.prod(output),
        positions=math.prod(output[:-made]),
        columns=output[-2] if len(output) > 1 and math.prod(edges) > 1 else 0,
        depthwise=is_depthwise(layer),
    )


def _work_of_part(layer: Any, uses: int, batch_size: int) -> costs.Work:
    """What a masked layer within another one does, which applies its kernel so often per sample."""
    mask = rules.mask_of(layer)
    assert mask is not None
    kernel = mask.mask.numpy()
    is_dense = not hasattr(layer, "rank")  # whose rows are samples
    return costs.Work(
        samples=batch_size * (uses if is_dense else 1),
        weights=kernel.size,
        kept=int(np.count_nonzero(kernel)),
        elements=(1 if is_dense else uses)
        * sum(map(math.prod, read_and_made(layer, kernel.shape))),
        positions=1 if is_dense else uses,
        columns=0 if is_dense else math.isqrt(uses),
        depthwise=is_depthwise(layer),
    )
