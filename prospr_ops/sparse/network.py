"""A pruned network that computes with the weights that were kept, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from prospr_ops import ops


class SparseNetwork(keras.Model):
    """What masks leave of a plain feed-forward network, to be trained at the price of what they keep.

    From inputs to logits as the network with `apply_masks`, and trained as that one by SGD, both to
    rounding: its variables are the weights that are kept, filter by filter, and the biases. A norm
    of all gradients (`clip_norm`) is that of these, without those of pruned weights. Within it the
    samples lie along the last axis (see `prospr_ops.ops.sparse_conv`).

    Args:
        model: Sequential, from images, of Dense, Conv2D, MaxPooling2D and Flatten in float32. Not
            changed.
        masks: Boolean array by variable path, one for each kernel.

    Raises:
        ValueError: The model takes no images, or has a layer, or a setting of one, that this does not
            know.
    """

    def __init__(self, model: keras.Sequential, masks: Mapping[str, np.ndarray]) -> None:
        super().__init__(name=model.name)
        if len(model.input_shape) != 4:
            msg = f"a sparse network takes images, not inputs of shape {model.input_shape[1:]}"
            raise ValueError(msg)
        self.stages = [_stage(layer, masks) for layer in model.layers]

    def build(self, input_shape: Any) -> None:
        """Nothing is left to build; Keras would find that out by a call."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Logits `[n, classes]` of inputs `[n, ...]`."""
        values = tf.transpose(inputs, [*range(1, inputs.shape.rank), 0])
        for stage in self.stages:
            values = stage(values)
        return tf.transpose(tf.reshape(values, [-1, tf.shape(values)[-1]]))


def kept_weights(kernel: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The weights of a kernel that its mask keeps, filter by filter, as a sparse network has them."""
    return _filters(kernel)[_filters(mask)]


def _filters(kernel: np.ndarray) -> np.ndarray:
    """Each filter's elements in a row: `[filters, taps]`."""
    return kernel.reshape(-1, kernel.shape[-1]).T


# Of one element each: along which axis the samples lie is nothing to them.
_ACTIVATIONS = (
    keras.activations.linear,
    keras.activations.relu,
    keras.activations.sigmoid,
    keras.activations.tanh,
)


def _stage(layer: layers.Layer, masks: Mapping[str, np.ndarray]) -> layers.Layer:
    channels_last = getattr(layer, "data_format", "channels_last") == "channels_last"
    if channels_last and layer.dtype_policy.name == "float32":
        if isinstance(layer, layers.Flatten):
            return _Flat()
        if isinstance(layer, layers.MaxPooling2D):
            if layer.pool_size == layer.strides and layer.padding == "valid":
                return _Pool(layer.pool_size)
        elif isinstance(layer, layers.Dense) and layer.activation in _ACTIVATIONS:
            return _SparseLayer(layer, masks[layer.kernel.path][np.newaxis, np.newaxis])
        elif isinstance(layer, layers.Conv2D) and (
            layer.strides == layer.dilation_rate == (1, 1)
            and layer.groups == 1
            and layer.activation in _ACTIVATIONS
        ):
            return _SparseLayer(layer, masks[layer.kernel.path])
    msg = f"layer {layer.name!r} has no sparse form: {layer.get_config()}"
    raise ValueError(msg)


class _Flat(layers.Layer):
    """To an image of one element, with every feature a channel of it."""

    def call(self, image: tf.Tensor) -> tf.Tensor:
        features = int(np.prod(image.shape[:-1]))
        return tf.reshape(image, [1, 1, features, tf.shape(image)[-1]])


class _Pool(layers.Layer):
    """Max-pooling by windows that do not overlap: channels and samples are all the same to it."""

    def __init__(self, window: tuple[int, int]) -> None:
        super().__init__()
        self.window = window

    def call(self, image: tf.Tensor) -> tf.Tensor:
        height, width, channels, _ = image.shape
        samples = tf.shape(image)[-1]
        rows, columns = height // self.window[0], width // self.window[1]
        maxima, _ = ops.max_pool(
            tf.reshape(image, [1, height, width, channels * samples]), self.window
        )
        return tf.reshape(maxima, [rows, columns, channels, samples])


class _SparseLayer(layers.Layer):
    """A convolution, or a dense layer as one, of the weights that its mask `[h, w, c, f]` keeps."""

    def __init__(self, layer: Any, mask: np.ndarray) -> None:
        super().__init__()
        rows = _filters(mask)
        self.taps = np.nonzero(rows)[1].astype(np.int32)
        self.splits = np.concatenate([[0], np.cumsum(rows.sum(axis=1))]).astype(np.int32)
        self.kept = keras.Variable(kept_weights(layer.kernel.numpy(), mask), name="kept")
        self.bias = keras.Variable(
            layer.bias if layer.use_bias else np.zeros(len(rows), np.float32),
            trainable=layer.use_bias,
            name="bias",
        )
        self.kernel_size = mask.shape[:2]
        self.padded = getattr(layer, "padding", "valid") == "same"
        self.activation = layer.activation

    def call(self, image: tf.Tensor) -> tf.Tensor:
        if self.padded:
            around = [[(size - 1) // 2, size // 2] for size in self.kernel_size]
            image = tf.pad(image, [*around, [0, 0], [0, 0]])
        output = ops.sparse_conv(
            image, self.kept.value, self.bias.value, self.taps, self.splits, self.kernel_size
        )
        return self.activation(output)
