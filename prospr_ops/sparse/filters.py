"""The filters of a layer: which weights are kept of them, and how they move over images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from keras import layers

from prospr_ops.ops.sparse_convolution import TransposedPattern


@dataclass(frozen=True)
class Filters:
    """The pattern of a kernel `[height, width, channels, filters]` and how it moves.

    Attributes:
        mask: Boolean array in the kernel's shape, True for a weight that is kept.
        strides: By how much the filters move.
        dilations: Distance of neighbouring elements of a filter.
        padding: "valid" or "same".
        depthwise: Whether the kernel is `[height, width, channels, multiplier]` and each of its `channels *
            multiplier` filters reads one channel.
    """

    mask: np.ndarray
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    padding: str = "valid"
    depthwise: bool = False

    def __post_init__(self) -> None:
        """Refuses what indices of 32 bits cannot count."""
        if self.mask.size >= 2**31:
            msg = f"a kernel of shape {self.mask.shape} has more elements than indices of 32 bits count"
            raise ValueError(msg)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a filter."""
        return self.mask.shape[:2]

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return self.mask.shape[2]

    @property
    def count(self) -> int:
        """Number of filters."""
        return self.mask.shape[3] * (self.channels if self.depthwise else 1)

    def kept(self, kernel: np.ndarray) -> np.ndarray:
        """The weights that are kept, filter by filter."""
        return self._by_filter(kernel)[self._by_filter(self.mask)]

    def kernel(self, kept: np.ndarray) -> np.ndarray:
        """The kernel of these weights, zero elsewhere."""
        by_filter = np.zeros(self._by_filter(self.mask).shape, kept.dtype)
        by_filter[self._by_filter(self.mask)] = kept
        return by_filter.T.reshape(self.mask.shape)

    def constants(self) -> tuple[tf.Tensor, tf.Tensor, TransposedPattern]:
        """Taps, splits, and the transposed pattern, as eager tensors."""
        channels, filters = self.channels, self.count
        filter_of, taps = (x.astype(np.int32) for x in np.nonzero(self._by_filter(self.mask)))
        if self.depthwise:
            taps = taps * np.int32(channels) + filter_of // np.int32(self.mask.shape[3])
        counts = np.bincount(filter_of, minlength=filters)
        splits = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        order = np.argsort(taps % channels, kind="stable").astype(np.int32)
        by_channel = np.bincount(taps % channels, minlength=channels)
        with tf.init_scope(), tf.device("CPU"):
            transposed = TransposedPattern(
                tf.constant((taps // channels * filters + filter_of)[order]),
                tf.constant(np.concatenate([[0], np.cumsum(by_channel)]).astype(np.int32)),
                tf.constant(order),
            )
            return tf.constant(taps), tf.constant(splits), transposed

    def places(self) -> tf.Tensor:
        """Where in the flat kernel each kept weight lies."""
        filter_of, element = np.nonzero(self._by_filter(self.mask))
        with tf.init_scope():
            return tf.constant((element * self.count + filter_of)[:, np.newaxis], tf.int32)

    def _by_filter(self, kernel: np.ndarray) -> np.ndarray:
        """Each filter's elements in a row."""
        return kernel.reshape(-1, self.count).T


def of_kernel(layer: layers.Layer, what: str) -> Any:
    """The "constraint", "initializer" or "regularizer" of a layer's kernel."""
    return getattr(layer, f"{'depthwise' if is_depthwise(layer) else 'kernel'}_{what}")


def is_depthwise(layer: Any) -> bool:
    """Whether a layer is a depthwise convolution."""
    return isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D))


def uses_bias(layer: layers.Layer) -> bool:
    """Whether a dense layer or convolution has a bias."""
    if isinstance(layer, layers.EinsumDense):
        return layer.bias_axes is not None
    return layer.use_bias


def contracted_axes(layer: layers.EinsumDense) -> int | None:
    """How many axes of an EinsumDense layer's kernel, its first, are summed over with the input's last.

    Returns:
        None if the layer is not a product of the input's last axes with a matrix, whose result has the
        kernel's other axes, and a bias of these.
    """
    sources, output = layer.equation.replace(" ", "").split("->")
    data, kernel = sources.split(",")
    made = "".join(axis for axis in kernel if axis in output)
    read = kernel.removesuffix(made)
    before = data.removesuffix(read)
    is_product = read and made and before and set(read).isdisjoint(output)
    if not is_product or (read + made, before + read, before + made) != (kernel, data, output):
        return None
    biased = made if layer.bias_axes is None else layer.bias_axes
    return len(read) if set(biased) == set(made) else None


def read_and_made(layer: layers.Layer, kernel: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The sizes of the last axes of a layer's input and output, by the shape of its kernel."""
    if isinstance(layer, layers.EinsumDense):
        count = contracted_axes(layer)
        assert count is not None
        return tuple(kernel[:count]), tuple(kernel[count:])
    *_, channels, filters = kernel
    return (channels,), (filters * (channels if is_depthwise(layer) else 1),)


def filters_of(layer: layers.Layer, mask: np.ndarray) -> Filters:
    """The filters of a dense layer or convolution with a mask of its kernel."""
    axes = getattr(layer, "rank", 0)
    if not axes:
        read, _ = read_and_made(layer, mask.shape)
        return Filters(mask.reshape(1, 1, math.prod(read), -1))
    missing = [1] * (2 - axes)
    return Filters(
        mask.reshape(*missing, *mask.shape),
        (*missing, *layer.strides),
        (*missing, *layer.dilation_rate),
        layer.padding,
        is_depthwise(layer),
    )
