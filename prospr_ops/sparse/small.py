"""Inference of a sparse model on few samples: no blocks, and stock layers but for the sparse ones.

A block has 16 samples, however few of them there are. Below that, the layers on blocks hand what they
are called on to `prospr_ops.ops.sparse_conv_small` or to the stock layers that they stand for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from prospr_ops import ops
from prospr_ops.network import keras_private
from prospr_ops.ops.sparse_convolution import BLOCK
from prospr_ops.pruning.channels.graph import functional
from prospr_ops.sparse import blocks
from prospr_ops.sparse.folding import folds
from prospr_ops.sparse.layers import (
    BlockedBatchNormalization,
    FromBlocks,
    PerChannel,
    SparseLayer,
    ToBlocks,
)


def small_or(model: Any, inputs: Any, on_blocks: Callable[[], Any]) -> Any:
    """The outputs of a sparse model in inference.

    Args:
        model: The model.
        inputs: What it is called on.
        on_blocks: Computes the outputs on blocks of samples.

    Returns:
        The outputs, computed without blocks where there are fewer samples than a block has: decided
        here if their number is known, else when the graph runs.
    """
    first = keras.tree.flatten(inputs)[0]
    if blocks.needs_tensorflow():
        return on_blocks()
    samples = first.shape[0]
    if samples is not None:
        return _outputs(model, inputs) if samples < BLOCK else on_blocks()
    return tf.cond(tf.shape(first)[0] < BLOCK, lambda: _outputs(model, inputs), on_blocks)


def _outputs(model: Any, inputs: Any) -> Any:
    """The outputs of a model without blocks."""
    graph = functional(model)
    folded = folds(graph, _convolved)
    return keras_private.call_graph(
        graph, inputs, lambda operation: folded.get(id(operation)) or _without_blocks(operation)
    )


def _without_blocks(operation: Any) -> Callable[..., Any]:
    """What an operation of a sparse model computes, on samples in the place of blocks."""
    if isinstance(operation, ToBlocks):
        return lambda inputs: tf.cast(inputs, operation.compute_dtype)
    if isinstance(operation, FromBlocks):
        return lambda inputs: inputs[0]
    if isinstance(operation, PerChannel):
        return operation.layer.call
    if isinstance(operation, SparseLayer):
        return lambda inputs: operation.activation(
            _convolved(operation, inputs, operation.offset())
        )
    if isinstance(operation, BlockedBatchNormalization):
        return lambda inputs, **_: _normalised(operation, inputs)
    if isinstance(operation, keras_private.Pad):
        return lambda inputs: _padded(operation, inputs)
    return keras_private.in_inference(operation)


def _padded(operation: Any, inputs: tf.Tensor) -> Any:
    """A padded tensor, by an operation that may have been made for blocks, of one axis more."""
    if len(operation.pad_width) == inputs.shape.rank + 1:
        return tf.pad(inputs, operation.pad_width[:-1], constant_values=0)
    return operation(inputs)


def _convolved(
    layer: SparseLayer,
    inputs: tf.Tensor,
    bias: tf.Tensor,
    *,
    scale: tf.Tensor | None = None,
    residual: tf.Tensor | None = None,
    relu: bool = False,
    ceiling: float = math.inf,
) -> tf.Tensor:
    """As `SparseLayer.convolved`, on samples in the place of blocks."""
    filters = layer.filters
    # As images: with one row, or, if all pixels are alike, with one pixel.
    images = inputs
    if layer.axes == 1:
        images = inputs[:, tf.newaxis]
    elif layer.axes == 0:
        images = tf.reshape(inputs, [-1, 1, 1, filters.channels])
    taps, splits, _ = layer.constants()
    outputs = ops.sparse_conv_small(
        images,
        layer.weights_as_they_are(),
        tf.ones_like(bias) if scale is None else scale,
        bias,
        taps,
        splits,
        filters.size,
        filters.strides,
        filters.dilations,
        filters.padding,
    )
    if layer.axes == 1:
        outputs = tf.squeeze(outputs, 1)
    elif layer.axes == 0:
        outputs = tf.reshape(outputs, tf.concat([layer.outer(tf.shape(inputs)), layer.made], 0))
    outputs.set_shape(layer.shape_of_blocks((*inputs.shape, BLOCK))[:-1])
    return _rectified(outputs, residual, relu, ceiling)


def _normalised(layer: BlockedBatchNormalization, inputs: list[tf.Tensor]) -> tf.Tensor:
    """Normalised by the moving averages, with the sum and the ReLU that the layer stands for."""
    values, _, *residual = inputs
    scale, offset = layer.affine()
    return _rectified(
        values * scale + offset, next(iter(residual), None), layer.has_relu, layer.ceiling
    )


def _rectified(
    outputs: tf.Tensor, residual: tf.Tensor | None, relu: bool, ceiling: float
) -> tf.Tensor:
    """The sum with a residual, and its ReLU, if there are such."""
    if residual is not None:
        outputs += residual
    return blocks.rectified(outputs, ceiling) if relu else outputs
