"""Inference: batch normalisation is done by the sparse layer before it.

By moving averages it is a scale and an offset per channel. The convolution takes them along, with the
sum and the ReLU behind it, while its results are in registers: no passes over memory are left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from prospr_ops.network import keras_private
from prospr_ops.sparse.layers import BlockedBatchNormalization, SparseLayer


def folds(graph: Any) -> dict[int, Callable[..., Any]]:
    """How some operations of a sparse graph are called in inference, instead of themselves.

    Args:
        graph: A functional model of sparse layers.

    Returns:
        Functions by the operations' ids. A sparse layer before a normalisation gives what it was given,
        and the normalisation computes both from that.
    """
    nodes = list(keras_private.nodes(graph))
    calls = Counter(id(node.operation) for node in nodes)
    reads = Counter(id(tensor) for node in nodes for tensor in keras_private.inputs_of(node))
    reads.update(id(tensor) for tensor in keras.tree.flatten(graph.outputs))
    makers = {
        id(tensor): node.operation for node in nodes for tensor in keras_private.outputs_of(node)
    }
    found: dict[int, Callable[..., Any]] = {}
    for node in nodes:
        norm = node.operation
        if not isinstance(norm, BlockedBatchNormalization):
            continue
        values = keras_private.inputs_of(node)[0]
        layer = makers.get(id(values))
        if (
            isinstance(layer, SparseLayer)
            and layer.activation is keras.activations.linear
            and calls[id(layer)] == calls[id(norm)] == reads[id(values)] == 1
        ):
            found[id(layer)] = _postponed
            found[id(norm)] = _folded(layer, norm)
    return found


def _postponed(inputs: tf.Tensor) -> tf.Tensor:
    """Leaves a layer's work to the normalisation behind it."""
    return inputs


def _folded(layer: SparseLayer, norm: BlockedBatchNormalization) -> Callable[..., tf.Tensor]:
    def call(inputs: list[tf.Tensor], **_: Any) -> tf.Tensor:
        images, _, *residual = inputs
        scale, offset = norm.affine()
        if layer.use_bias:
            offset += layer.bias.value * scale
        return layer.convolved(
            images,
            offset,
            scale=scale,
            residual=next(iter(residual), None),
            relu=bool(norm.behind),
        )

    return call
