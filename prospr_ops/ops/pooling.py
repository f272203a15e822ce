"""Max-pooling by windows that do not overlap, and the two maps that its derivatives are made of.

All three can be differentiated, to any order, where the height and width of an image are known. A
window's *position* is the number of an element within it, row by row. The windows tile an image from
the upper left; rows and columns that do not fill a window belong to none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from prospr_ops.ops._arguments import per_axis
from prospr_ops.ops._library import library, raises_value_error


@raises_value_error
def max_pool(image: Any, window: int | Sequence[int]) -> tuple[tf.Tensor, tf.Tensor]:
    """The largest element of each window of an image, and where it is.

    Of equal elements the first is taken; a NaN is larger than any number, and of several the last is
    taken. The same bits for every number of threads.

    Args:
        image: ``[N, H, W, C]``, float32 or float64, no smaller than a window.
        window: Its height h and width w, or one number for both; of 1 to 256 elements.

    Returns:
        The maxima, ``[N, H // h, W // w, C]``, and their positions in that shape, uint8.

    Raises:
        ValueError: The image is not of four axes, or the window too large or not of positive
            32-bit whole numbers.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> image = tf.reshape(tf.constant([1.0, 5.0, 2.0, 3.0]), [1, 2, 2, 1])
        >>> maxima, positions = po.ops.max_pool(image, 2)
        >>> maxima.numpy().item(), positions.numpy().item()
        (5.0, 1)
    """
    return tuple(library.prospr_max_pool(image, window=per_axis("window", window, 2)))


@raises_value_error
def max_unpool(
    values: Any, positions: Any, window: int | Sequence[int], size: int | Sequence[int]
) -> tf.Tensor:
    """An image of zeros, but for the value of each window at its position: the gradient of `max_pool`.

    The same bits for every number of threads.

    Args:
        values: ``[N, H // h, W // w, C]``, float32 or float64.
        positions: In the shape of the values, uint8. One that is not in the window is nowhere.
        window: Its height h and width w, or one number for both; of 1 to 256 elements.
        size: H and W, or one number for both; no smaller than the window.

    Returns:
        The image, ``[N, H, W, C]``.

    Raises:
        ValueError: The shapes do not fit together, or the window is too large or not of
            positive 32-bit whole numbers.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> values = tf.fill([1, 1, 1, 1], 7.0)
        >>> positions = tf.fill([1, 1, 1, 1], tf.constant(1, tf.uint8))
        >>> image = po.ops.max_unpool(values, positions, 2, 2)
        >>> image[0, :, :, 0].numpy().tolist()
        [[0.0, 7.0], [0.0, 0.0]]
    """
    return library.prospr_max_unpool(
        values, positions, window=per_axis("window", window, 2), size=per_axis("size", size, 2)
    )


@raises_value_error
def gather_pooled(image: Any, positions: Any, window: int | Sequence[int]) -> tf.Tensor:
    """The element of an image at the position of each window: the gradient of `max_unpool`.

    The same bits for every number of threads.

    Args:
        image: ``[N, H, W, C]``, float32 or float64, no smaller than a window.
        positions: ``[N, H // h, W // w, C]``, uint8. One that is not in the window gives zero.
        window: Its height h and width w, or one number for both; of 1 to 256 elements.

    Returns:
        The values, in the shape of the positions.

    Raises:
        ValueError: The shapes do not fit together, or the window is too large or not of
            positive 32-bit whole numbers.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> image = tf.reshape(tf.constant([1.0, 5.0, 2.0, 3.0]), [1, 2, 2, 1])
        >>> positions = tf.fill([1, 1, 1, 1], tf.constant(2, tf.uint8))
        >>> po.ops.gather_pooled(image, positions, 2).numpy().item()
        2.0
    """
    return library.prospr_gather_pooled(image, positions, window=per_axis("window", window, 2))


@tf.RegisterGradient("Prospr>MaxPool")
def _unpool_gradient(op: tf.Operation, by_maxima: tf.Tensor, _by_positions: Any) -> tf.Tensor:
    return max_unpool(by_maxima, op.outputs[1], op.get_attr("window"), op.inputs[0].shape[1:3])


@tf.RegisterGradient("Prospr>MaxUnpool")
def _gather_gradient(op: tf.Operation, by_image: tf.Tensor) -> tuple[tf.Tensor, None]:
    return gather_pooled(by_image, op.inputs[1], op.get_attr("window")), None


@tf.RegisterGradient("Prospr>GatherPooled")
def _scatter_gradient(op: tf.Operation, by_values: tf.Tensor) -> tuple[tf.Tensor, None]:
    size = op.inputs[0].shape[1:3]
    return max_unpool(by_values, op.inputs[1], op.get_attr("window"), size), None
