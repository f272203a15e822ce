"""Keras layers on blocks of samples, for models that `prospr_ops.sparsify` makes.

What lies between a `ToBlocks` and a `FromBlocks` is `[blocks, ..., channels, 16]`. Elementwise layers
and operations of Keras work on that as they are; the rest is here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from prospr_ops.network import keras_private
from prospr_ops.ops.sparse_convolution import BLOCK
from prospr_ops.pruning import masks
from prospr_ops.sparse import blocks, rules
from prospr_ops.sparse.filters import filters_of, of_kernel, read_and_made, uses_bias


def _as_they_are() -> Any:
    """Variables are not cast here, whatever the policy of a model whose layers are not called."""
    return keras_private.AutocastScope(None)


_register = keras.saving.register_keras_serializable(package="prospr_ops")


class BlockLayer(layers.Layer):
    """A layer that calls our ops, which XLA cannot compile, in float32, whatever Keras's own policy."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.supports_jit = False


@_register
class ToBlocks(BlockLayer):
    """Lays the samples of a batch side by side."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The blocks of a batch."""
        return blocks.to_blocks(tf.cast(inputs, self.compute_dtype))  # integers, too

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the blocks."""
        return (None, *input_shape[1:], BLOCK)


@_register
class FromBlocks(BlockLayer):
    """The batch of blocks, as many samples as a second tensor has."""

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """The samples of blocks; the second tensor only tells their number."""
        values, like = inputs
        result = blocks.from_blocks(values, tf.shape(like)[0])
        return tf.ensure_shape(result, (None, *values.shape[1:-1]))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the batch."""
        return (None, *input_shape[0][1:-1])


@_register
class PerChannel(layers.Wrapper):
    """A stock layer that treats all channels alike, such as pooling, on the samples of blocks."""

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        super().__init__(layer, **{"dtype": "float32", **kwargs})

    def build(self, input_shape: Any = None) -> None:
        """Builds the layer for as many channels as there are samples in a block."""
        self.layer.build(_merged(input_shape))
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The layer's outputs on blocks."""
        shape = tf.shape(inputs)
        *_, channels, lanes = inputs.shape
        merged = tf.reshape(inputs, tf.concat([shape[:-2], [channels * lanes]], 0))
        merged.set_shape(_merged(inputs.shape))
        outputs = self.layer(merged)
        size = outputs.shape[-1] // BLOCK
        split = tf.reshape(outputs, tf.concat([tf.shape(outputs)[:-1], [size, BLOCK]], 0))
        split.set_shape((*outputs.shape[:-1], size, BLOCK))
        return split

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the layer's outputs on blocks."""
        *outer, channels = self.layer.compute_output_shape(_merged(input_shape))
        return (*outer, channels // BLOCK, BLOCK)


def _merged(shape: Any) -> tuple[int | None, ...]:
    """The shape of blocks with every sample of a block as a channel of its own."""
    return (*shape[:-2], shape[-2] * BLOCK)


@_register
class BlockedBatchNormalization(layers.BatchNormalization):
    """Batch normalisation of blocks, and what lies behind it: a ReLU, or a sum and a ReLU.

    It is called on the blocks, on a tensor with as many samples as they hold, and, if there is a sum,
    on the sum's other input.

    Args:
        behind: The layers behind it that it stands for, or their configurations.
        place: Which input of the sum it is.
        **kwargs: As of the stock layer.
    """

    def __init__(self, behind: Sequence[Any] = (), place: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_jit = False
        self.behind = [
            keras.saving.serialize_keras_object(one) if isinstance(one, layers.Layer) else one
            for one in behind
        ]
        self.place = place
        self.has_relu, self.ceiling = bool(self.behind), math.inf
        if self.has_relu:
            relu = keras.saving.deserialize_keras_object(self.behind[-1])
            self.ceiling = rules.ceiling_of(relu) or math.inf

    def build(self, input_shape: Any) -> None:
        """Makes the weights of the stock layer."""
        super().build(input_shape[0][:-1])
        self.input_spec = None

    def call(self, inputs: list[tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Normalises by the batch in training, by the moving averages otherwise."""
        values, like, *residual = inputs
        size = (self.moving_mean.shape[0],)
        gamma = self.gamma.value if self.scale else tf.ones(size, values.dtype)
        beta = self.beta.value if self.center else tf.zeros(size, values.dtype)
        given = (values, gamma, beta, self.epsilon, tf.shape(like)[0])
        behind = (next(iter(residual), None), self.has_relu, self.ceiling)
        if not (training and self.trainable):
            averages = (self.moving_mean.value, self.moving_variance.value)
            return blocks.normalise_by(averages, *given, *behind)
        outputs, mean, variance = blocks.normalise(*given, *behind)
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(average * self.momentum + value * (1 - self.momentum))
        return outputs

    def affine(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Scale and offset of each channel, by the moving averages."""
        with _as_they_are():
            scale = tf.math.rsqrt(self.moving_variance.value + self.epsilon)
            if self.scale:
                scale *= self.gamma.value
            offset = -self.moving_mean.value * scale
            return scale, offset + self.beta.value if self.center else offset

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the blocks."""
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration, which holds those of the layers behind it."""
        return {**super().get_config(), "behind": self.behind, "place": self.place}

    def dense(self) -> list[layers.Layer]:
        """Makes the stock layer again, without its weights, and those behind it."""
        config = self.get_config()
        behind = config.pop("behind")
        del config["place"]
        stock = layers.BatchNormalization.from_config(config)
        return [stock, *map(keras.saving.deserialize_keras_object, behind)]


@_register
class SparseLayer(BlockLayer):
    """What a masked dense layer or convolution computes, by its kept weights alone, on blocks.

    Its variables are the weights that are kept, filter by filter, and the bias.

    Args:
        replaced: The layer with a mask as its kernel's constraint, or its configuration.
        **kwargs: As of every Keras layer.
    """

    def __init__(self, replaced: Any, **kwargs: Any) -> None:
        if isinstance(replaced, layers.Layer):
            replaced = keras.saving.serialize_keras_object(replaced)
        layer = keras.saving.deserialize_keras_object(replaced)
        super().__init__(**{"name": layer.name, "trainable": layer.trainable, **kwargs})
        mask = of_kernel(layer, "constraint")
        if not isinstance(mask, masks.MaskConstraint):
            msg = f"layer {layer.name!r} has no mask to compute sparsely by"
            raise TypeError(msg)
        self.replaced = replaced
        self._take(layer, mask)

    def _take(self, layer: Any, mask: masks.MaskConstraint) -> None:
        """Takes from a layer all that is needed to compute what it does with a mask."""
        kernel = mask.mask.numpy()
        self.read, self.made = read_and_made(layer, kernel.shape)
        self.filters = filters_of(layer, kernel)
        self.use_bias = uses_bias(layer)
        self.activation = layer.activation
        self.axes = getattr(layer, "rank", 0)
        # Attributes that hold functions or small objects, and no layer.
        self._initializers = (of_kernel(layer, "initializer"), layer.bias_initializer)
        self._regularizers = (of_kernel(layer, "regularizer"), layer.bias_regularizer)
        self._bias_constraint = layer.bias_constraint
        self._constants: Any = None
        self._places: Any = None

    @property
    def kernel(self) -> keras.Variable:
        """The weights that are kept."""
        return self.kept

    def build(self, input_shape: Any) -> None:
        """Makes the variables.

        Raises:
            ValueError: The images have another number of channels than the mask.
        """
        given = tuple(input_shape[-1 - len(self.read) : -1])
        if given != self.read:
            sizes = ["×".join(map(str, shape)) for shape in (self.read, given)]
            msg = f"{self.name!r} takes {sizes[0]} channels; the input has {sizes[1]}"
            raise ValueError(msg)
        initial = self._initializers[0]

        def of_kept(shape: Any, dtype: Any = None) -> Any:
            kernel = keras.ops.convert_to_numpy(initial(self.filters.mask.shape, dtype))
            return keras.ops.convert_to_tensor(self.filters.kept(kernel).reshape(shape))

        self.kept = self.add_weight(
            name="kernel",
            shape=(int(np.count_nonzero(self.filters.mask)),),
            initializer=of_kept,
            regularizer=self._regularizers[0],
        )
        self.bias: Any = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=self.made,
                initializer=self._initializers[1],
                regularizer=self._regularizers[1],
                constraint=self._bias_constraint,
            )
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The layer's outputs on blocks."""
        if self.activation is keras.activations.relu:
            return self.convolved(inputs, self.offset(), relu=True)
        return self.activation(self.convolved(inputs, self.offset()))

    def offset(self) -> tf.Tensor:
        """The bias of each filter, which is 0 where there is none."""
        with _as_they_are():
            if self.use_bias:
                return tf.reshape(self.bias.value, [-1])
            return tf.zeros([self.filters.count], self.compute_dtype)

    def weights_as_they_are(self) -> tf.Tensor:
        """The kept weights, in the dtype that they are stored in."""
        with _as_they_are():
            return self.kept.value

    def convolved(
        self,
        inputs: tf.Tensor,
        bias: tf.Tensor,
        *,
        scale: tf.Tensor | None = None,
        residual: tf.Tensor | None = None,
        relu: bool = False,
        ceiling: float = math.inf,
    ) -> tf.Tensor:
        """The sums by the kept weights, and what lies behind them.

        Args:
            inputs: Blocks of samples.
            bias: Bias of each filter.
            scale: Scale of each filter's sums, or None.
            residual: What is added, in the shape of the outputs, or None.
            relu: Whether there is a ReLU.
            ceiling: Largest output of the ReLU.
        """
        outer, images = self._images(inputs)
        added = None if residual is None else self._images(residual)[1]
        given = (images, self.weights_as_they_are(), bias, self.filters)
        behind: dict[str, Any] = {"scale": scale, "residual": added, "relu": relu}
        behind["ceiling"] = ceiling
        if blocks.needs_tensorflow():
            if self._places is None:
                self._places = self.filters.places()
            outputs = blocks.convolve_in_full(*given, self._places, **behind)
        else:
            outputs = blocks.convolve(*given, self.constants(), **behind)
        shape = self.shape_of_blocks(inputs.shape)
        if self.axes == 1:
            outputs = tf.reshape(outputs, tf.concat([outer, tf.shape(outputs)[-3:]], 0))
        elif self.axes == 0:
            outputs = tf.reshape(outputs, tf.concat([outer, [*self.made, BLOCK]], 0))
        outputs.set_shape(shape)
        return outputs

    def constants(self) -> Any:
        """Taps, splits and transposed pattern of the filters."""
        if self._constants is None:
            self._constants = self.filters.constants()
        return self._constants

    def _images(self, inputs: tf.Tensor) -> tuple[Any, tf.Tensor]:
        """The outer axes of the input, and the input as images."""
        shape = tf.shape(inputs)
        if self.axes == 2:
            return None, inputs
        known = inputs.shape
        if self.axes == 1:
            images = tf.reshape(inputs, tf.concat([shape[:1], [1], shape[1:]], 0))
            images.set_shape((known[0], 1, *known[1:]))
            return shape[:1], images
        outer = self.outer(shape[:-1])
        rows = self.outer(known[1:-1])
        pixels = None if None in rows else math.prod(rows)
        size = [outer[:1], [tf.reduce_prod(outer[1:]), 1, self.filters.channels, BLOCK]]
        images = tf.reshape(inputs, tf.concat(size, 0))
        images.set_shape((known[0], pixels, 1, self.filters.channels, BLOCK))
        return outer, images

    def outer(self, shape: Any) -> Any:
        """The part of a shape that ends in the channels which is before them."""
        return shape[: -len(self.read)]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the layer's outputs."""
        return self.shape_of_blocks(input_shape)

    def shape_of_blocks(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the outputs on blocks."""
        blocks_, *sizes = self.outer(input_shape[:-1])
        filters = self.filters
        if self.axes:
            moves = (filters.size, filters.strides, filters.dilations)
            axes = list(zip(*moves, strict=True))[-self.axes :]
            sizes = [
                None if size is None else _positions(size, *axis, filters.padding)
                for size, axis in zip(sizes, axes, strict=True)
            ]
        return (blocks_, *sizes, *self.made, BLOCK)

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration, which holds that of the layer that was replaced."""
        return {**super().get_config(), "replaced": self.replaced}

    def dense(self) -> layers.Layer:
        """Makes the masked layer again, which takes its weights when it is built."""
        return keras.saving.deserialize_keras_object(self.replaced)

    def set_kept(self, kernel: np.ndarray) -> None:
        """Takes the kept weights of a kernel."""
        self.kept.assign(self.filters.kept(kernel.reshape(self.filters.mask.shape)))

    def dense_kernel(self, shape: Any) -> np.ndarray:
        """The kernel of the masked layer."""
        return self.filters.kernel(self.kept.numpy()).reshape(shape)


def _positions(size: int, kernel: int, stride: int, dilation: int, padding: str) -> int:
    if padding == "same":
        return -(-size // stride)
    return max(0, (size - (kernel - 1) * dilation - 1) // stride + 1)
