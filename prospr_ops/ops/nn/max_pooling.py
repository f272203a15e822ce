"""Max-pooling whose derivatives of every order are as cheap as max-pooling itself."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from prospr_ops import ops

_stock_max_pool = tf.nn.max_pool
_MOST_ELEMENTS = 256  # per window: a position is stored in one byte


def max_pool(
    input: Any,
    ksize: Any,
    strides: Any,
    padding: Any,
    data_format: str | None = None,
    name: str | None = None,
) -> tf.Tensor:
    """tf.nn.max_pool, by the compiled op if the windows tile images of a known size.

    The gradient P g puts the gradient of each window at the position of its maximum. The gradient
    of that is Pᵀ v, which takes one element from each window, and so on. P is stored as the
    positions of the maxima, 1 byte per window; neither the input nor the output is needed again.
    """
    if _is_tiled(input, ksize, strides, padding, data_format):
        return ops.max_pool(input, ksize)[0]
    return _stock_max_pool(input, ksize, strides, padding, data_format, name)


def _is_tiled(x: Any, ksize: Any, strides: Any, padding: Any, data_format: str | None) -> bool:
    return (
        isinstance(x, tf.Tensor)
        and x.dtype in (tf.float32, tf.float64)
        and x.shape.rank == 4
        and data_format in (None, "NHWC")
        and padding == "VALID"
        and isinstance(ksize, list | tuple)
        and isinstance(strides, list | tuple)
        and len(ksize) == 2
        and [*ksize] == [*strides]
        and math.prod(ksize) <= _MOST_ELEMENTS
        and all(n is not None and n >= k for n, k in zip(x.shape[1:3], ksize, strict=True))
    )
