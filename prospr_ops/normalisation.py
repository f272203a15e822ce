"""tf.nn's moments and batch normalisation, with second derivatives that are right, and fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from prospr_ops.channelwise import Combination, channelwise
from prospr_ops.objective import moments
from prospr_ops.pooling import max_pool

_stock_batch_normalization = tf.nn.batch_normalization


def fast_calls() -> dict[str, Callable[..., Any]]:
    """For one call of a model: what to call in place of functions of tf.nn, by name."""
    normalisation = _Normalisation()
    return {
        "moments": normalisation.moments,
        "batch_normalization": normalisation.batch_normalization,
        "max_pool": max_pool,
    }


class _Normalisation:
    """tf.nn.moments and tf.nn.batch_normalization, for a tensor that is normalised by its own moments.

    What goes beyond that, or is on a GPU, is as it was.
    """

    def __init__(self) -> None:
        # (tensor, mean, variance) of the last moments taken.
        self._last: tuple[tf.Tensor, tf.Tensor, tf.Tensor] | None = None

    def moments(
        self,
        x: Any,
        axes: Any,
        shift: Any = None,
        keepdims: bool = False,
        name: str | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`moments`, in one pass over a tensor with channels on its last axis."""
        if keepdims or not _has_kernel(x) or sorted(axes) != list(range(x.shape.rank - 1)):
            return moments(x, axes, shift=shift, keepdims=keepdims, name=name)

        def rule(products: tf.Tensor, _: Any) -> Combination:
            nothing = tf.zeros([0, *products.shape[1:]], products.dtype)
            return Combination(nothing, _mean_and_variance(products))

        mean, variance = (tf.cast(values, x.dtype) for values in channelwise(rule, [x], []))
        self._last = x, mean, variance
        return mean, variance

    def batch_normalization(
        self,
        x: Any,
        mean: Any,
        variance: Any,
        offset: Any,
        scale: Any,
        variance_epsilon: float,
        name: str | None = None,
    ) -> tf.Tensor:
        """tf.nn.batch_normalization; the mean and variance are had from x, if they are its own."""
        given = x, mean, variance
        if self._last is None or any(a is not b for a, b in zip(given, self._last, strict=True)):
            return _stock_batch_normalization(*given, offset, scale, variance_epsilon, name)

        def rule(products: tf.Tensor, parameters: tf.Tensor) -> Combination:
            scale, offset = parameters
            mean, variance = _mean_and_variance(products)
            factor = tf.math.rsqrt(variance + variance_epsilon) * scale
            return Combination(tf.stack([factor, offset - mean * factor])[None], [])

        channels = [x.shape[-1]]
        scale = tf.ones(channels, tf.float64) if scale is None else tf.cast(scale, tf.float64)
        offset = tf.zeros(channels, tf.float64) if offset is None else tf.cast(offset, tf.float64)
        return channelwise(rule, [x], [scale, offset])[0]


def _has_kernel(x: Any) -> bool:
    return (
        isinstance(x, tf.Tensor)
        and x.dtype in (tf.float32, tf.float64)
        and x.shape.is_fully_defined()
        and x.shape.num_elements() > 0
        and not tf.config.list_logical_devices("GPU")
    )


def _mean_and_variance(products: tf.Tensor) -> list[tf.Tensor]:
    """Of the only tensor; the squares, in float64, keep what the difference needs."""
    square, total, rows = products[0, 0], products[0, 1], products[1, 1]
    mean = total / rows
    return [mean, square / rows - tf.square(mean)]
