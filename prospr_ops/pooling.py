"""Max-pooling whose second derivative costs little more than its first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

_stock_max_pool = tf.nn.max_pool


def max_pool(
    input: Any,
    ksize: Any,
    strides: Any,
    padding: Any,
    data_format: str | None = None,
    name: str | None = None,
) -> tf.Tensor:
    """tf.nn.max_pool; what its windows do not tile, or is not on images, is as it was.

    The gradient G g puts each window's gradient where the maximum is, so that the gradient of G is
    Gᵀ. For windows that do not overlap, Gᵀ v is the sum over each window of v ⊙ G 1: TensorFlow's
    own kernel for it took 3 times as long.
    """
    if not _is_tiled(input, ksize, strides, padding, data_format):
        return _stock_max_pool(input, ksize, strides, padding, data_format, name)
    height, width = ksize
    windows = {"ksize": [1, height, width, 1], "strides": [1, height, width, 1], "padding": padding}

    @tf.custom_gradient
    def pooled(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        y = _stock_max_pool(x, ksize, strides, padding, data_format, name)

        def spread(values: tf.Tensor) -> tf.Tensor:
            return tf.raw_ops.MaxPoolGrad(orig_input=x, orig_output=y, grad=values, **windows)

        @tf.custom_gradient
        def gradient(by_y: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            def gathered(v: tf.Tensor) -> tf.Tensor:
                at_maxima = v * tf.stop_gradient(spread(tf.ones_like(y)))
                return height * width * tf.nn.avg_pool2d(at_maxima, ksize, strides, padding)

            return spread(by_y), gathered

        return y, gradient

    return pooled(input)


def _is_tiled(x: Any, ksize: Any, strides: Any, padding: Any, data_format: str | None) -> bool:
    return (
        isinstance(x, tf.Tensor)
        and x.dtype in (tf.float32, tf.float64)
        and x.shape.rank == 4
        and data_format in (None, "NHWC")
        and padding == "VALID"
        and isinstance(ksize, list | tuple)
        and len(ksize) == 2
        and [*ksize] == [*strides]
    )
