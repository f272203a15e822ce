"""What of a model can go sparse, and what can work on blocks of samples."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import layers

from prospr_ops.network import keras_private
from prospr_ops.pruning import masks
from prospr_ops.sparse.filters import contracted_axes, of_kernel

# Of one element each: along which axis the samples lie is nothing to them.
_ELEMENTWISE = [
    keras.activations.get(name)
    for name in (
        *("linear", "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish"),
        *("tanh", "sigmoid", "softplus", "softsign", "hard_sigmoid", "hard_silu", "hard_tanh"),
    )
]
_ELEMENTWISE_LAYERS = (
    *(layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Dropout, layers.GaussianNoise),
    *(layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum),
    layers.Identity,
)
# Layers that treat all channels alike.
_PER_CHANNEL = (
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.AveragePooling1D, layers.AveragePooling2D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling1D),
    *(layers.GlobalMaxPooling2D, layers.ZeroPadding1D, layers.ZeroPadding2D, layers.Cropping1D),
    *(layers.Cropping2D, layers.UpSampling2D, layers.Flatten),
)
_SPARSE = (
    *(layers.Dense, layers.EinsumDense, layers.Conv1D, layers.Conv2D),
    *(layers.DepthwiseConv1D, layers.DepthwiseConv2D),
)
_REGULARIZERS = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


def _is_plain(operation: Any) -> bool:
    """Whether an operation is none of a layer, or of a layer of float32 whose outputs add no loss.

    Blocks are of float32; a loss would be divided by their number in the place of the samples', and of a
    layer whose work another one does there would be none.
    """
    return not isinstance(operation, layers.Layer) or (
        operation.dtype_policy.name == "float32" and operation.activity_regularizer is None
    )


def _is_elementwise_function(activation: Any) -> bool:
    """Whether an activation function, which may be an object without a hash, is elementwise."""
    return any(activation is known for known in _ELEMENTWISE)


def is_elementwise(operation: Any) -> bool:
    """Whether an operation treats all elements of its inputs, of one shape, alike."""
    if not _is_plain(operation):
        return False
    if isinstance(operation, layers.Activation):
        return _is_elementwise_function(operation.activation)
    if isinstance(operation, layers.Dropout) and operation.noise_shape is not None:
        return False
    return type(operation) in _ELEMENTWISE_LAYERS or type(operation) in (
        keras_private.Add,
        keras_private.Relu,
    )


def ceiling_of(operation: Any) -> float | None:
    """The largest output of a layer that is a ReLU, infinite if it has none; None for others."""
    if not _is_plain(operation):
        return None
    if type(operation) is layers.Activation:
        known = {keras.activations.relu: math.inf, keras.activations.relu6: 6.0}
        return next((most for one, most in known.items() if operation.activation is one), None)
    if type(operation) is not layers.ReLU or operation.negative_slope or operation.threshold:
        return None
    most = math.inf if operation.max_value is None else float(operation.max_value)
    return most if most > 0 else None


def is_sum_of_two(operation: Any, tensors: list[Any]) -> bool:
    """Whether a layer adds two tensors of one shape."""
    return (
        type(operation) is layers.Add
        and len(tensors) == 2
        and tensors[0] is not tensors[1]
        and tensors[0].shape == tensors[1].shape
        and _is_plain(operation)
    )


def is_per_channel(operation: Any) -> bool:
    """Whether a layer treats all channels, along the last axis, alike."""
    return type(operation) in _PER_CHANNEL and _channels_last(operation) and _is_plain(operation)


def is_padding(operation: Any) -> bool:
    """Whether an operation puts zeros around a tensor, along any axes."""
    return (
        type(operation) is keras_private.Pad
        and operation.mode == "constant"
        and np.ndim(operation.pad_width) == 2
    )


def is_concatenation(operation: Any, rank: int) -> bool:
    """Whether a layer concatenates along an axis that is not the samples'."""
    return (
        type(operation) is layers.Concatenate
        and operation.axis % rank != 0
        and _is_plain(operation)
    )


def is_normalisation(operation: Any, rank: int) -> bool:
    """Whether a layer normalises each channel, along the last axis, over the batch."""
    return (
        type(operation) is layers.BatchNormalization
        and operation.axis % rank == rank - 1
        and not operation.synchronized
        and not getattr(operation, "renorm", False)
        and _is_plain(operation)
    )


def works_on_blocks(operation: Any, rank: int) -> bool:
    """Whether an operation on tensors of a rank can work on blocks, if they are given to it."""
    return (
        is_elementwise(operation)
        or is_per_channel(operation)
        or is_padding(operation)
        or is_concatenation(operation, rank)
        or is_normalisation(operation, rank)
    )


def _channels_last(layer: layers.Layer) -> bool:
    return getattr(layer, "data_format", "channels_last") == "channels_last"


def mask_of(layer: Any) -> masks.MaskConstraint | None:
    """The mask of a layer's kernel, or None."""
    constraint = getattr(getattr(layer, "kernel", None), "constraint", None)
    return constraint if isinstance(constraint, masks.MaskConstraint) else None


def reason_against(layer: Any, *, within: bool = False) -> str:
    """Why a masked layer must stay dense; empty if it can go sparse.

    Args:
        layer: The layer.
        within: Whether it is within another layer, so that its activation gets no blocks, and its mask is
            in that layer's configuration.
    """
    if type(layer) not in _SPARSE:
        return f"{type(layer).__name__} has no sparse form"
    mask = mask_of(layer)
    assert mask is not None
    regularizer = of_kernel(layer, "regularizer")
    rules = {
        "it is no product with a matrix": (
            isinstance(layer, layers.EinsumDense) and contracted_axes(layer) is None
        ),
        f"computes in {layer.dtype_policy.name}": layer.dtype_policy.name != "float32",
        "its channels come first": not _channels_last(layer),
        "its convolution is grouped": getattr(layer, "groups", 1) != 1,
        f"its padding is {getattr(layer, 'padding', '')}": (
            getattr(layer, "padding", "valid") not in ("valid", "same")
        ),
        "its activation is not elementwise": not (
            within or _is_elementwise_function(layer.activation)
        ),
        "another constraint holds its kernel": mask.inner is not None,
        "its regularizer is not a sum over weights": not (
            regularizer is None or type(regularizer) in _REGULARIZERS
        ),
        "it has low-rank adapters": bool(getattr(layer, "lora_enabled", False)),
        "it has an activity regularizer": layer.activity_regularizer is not None,
        "its mask is not in its configuration": not (
            within or of_kernel(layer, "constraint") is mask
        ),
    }
    return next((reason for reason, holds in rules.items() if holds), "")
