"""Inference: batch normalisation is done by the sparse layer before it.

By moving averages it is a scale and an offset per channel. The convolution takes them along, with the
sum and the ReLU or ReLU6 behind it, while its results are in registers: no passes over memory are left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from prospr_ops.network import keras_private
from prospr_ops.sparse import rules
from prospr_ops.sparse.layers import BlockedBatchNormalization, SparseLayer

# Sums by the kept weights of a layer and what lies behind them, as `SparseLayer.convolved` does.
Convolve = Callable[..., tf.Tensor]


def folds(graph: Any, convolved: Convolve = SparseLayer.convolved) -> dict[int, Callable[..., Any]]:
    """How some operations of a sparse graph are called in inference, instead of themselves.

    Args:
        graph: A functional model of sparse layers.
        convolved: What computes a sparse layer, with the arguments of `SparseLayer.convolved`.

    Returns:
        Functions by the operations' ids. A sparse layer before a normalisation gives what it was given,
        and the normalisation computes both from that.
    """
    nodes = list(keras_private.nodes(graph))
    calls = Counter(id(node.operation) for node in nodes)
    outputs = {id(tensor) for tensor in keras.tree.flatten(graph.outputs)}
    readers: dict[int, list[Any]] = {}
    for node in nodes:
        for tensor in keras_private.inputs_of(node):
            readers.setdefault(id(tensor), []).append(node)

    def behind(node: Any) -> Any:
        """The one call that reads what a call gives, of an operation called once; else None."""
        (output,) = map(id, keras_private.outputs_of(node))
        only = readers.get(output, []) if output not in outputs else []
        return only[0] if len(only) == 1 and calls[id(only[0].operation)] == 1 else None

    found: dict[int, Callable[..., Any]] = {}
    for node in nodes:
        layer = node.operation
        if (
            not isinstance(layer, SparseLayer)
            or layer.activation is not keras.activations.linear
            or calls[id(layer)] != 1
        ):
            continue
        follower, norm = behind(node), None
        if follower and isinstance(follower.operation, BlockedBatchNormalization):
            # It may be the other input of the sum, which is not normalised.
            if keras_private.inputs_of(follower)[0] is not keras_private.outputs_of(node)[0]:
                continue
            norm = follower.operation
            follower = None if norm.behind else behind(follower)
        ceiling = rules.ceiling_of(follower.operation) if follower else None
        if norm is not None:
            found[id(layer)] = _postponed
            found[id(norm)] = _folded(convolved, layer, norm, ceiling)
        elif ceiling is not None:
            found[id(layer)] = _rectified(convolved, layer, ceiling)
        if ceiling is not None:
            found[id(follower.operation)] = _postponed
    return found


def _postponed(inputs: tf.Tensor, **_: Any) -> tf.Tensor:
    """Stands for a layer whose work is done by another."""
    return inputs


def _rectified(convolved: Convolve, layer: SparseLayer, ceiling: float) -> Callable[..., tf.Tensor]:
    return lambda inputs: convolved(layer, inputs, layer.offset(), relu=True, ceiling=ceiling)


def _folded(
    convolved: Convolve,
    layer: SparseLayer,
    norm: BlockedBatchNormalization,
    ceiling: float | None,
) -> Callable[..., tf.Tensor]:
    def call(inputs: list[tf.Tensor], **_: Any) -> tf.Tensor:
        images, _, *residual = inputs
        scale, offset = norm.affine()
        return convolved(
            layer,
            images,
            offset + layer.offset() * scale,
            scale=scale,
            residual=next(iter(residual), None),
            relu=norm.has_relu or ceiling is not None,
            ceiling=norm.ceiling if ceiling is None else ceiling,
        )

    return call
