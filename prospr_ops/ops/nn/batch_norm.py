"""Batch normalisation whose derivatives of every order take two passes over the data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import tensorflow as tf

from prospr_ops.network.tf_functions import moments
from prospr_ops.ops.nn.channel_maps import Combination, Rule, channelwise

_stock_batch_normalization = tf.nn.batch_normalization


class BatchNormalisation:
    """tf.nn.moments and tf.nn.batch_normalization, faster for a tensor and its own moments.

    y = (x − μ) γ / √(σ² + ε) + β depends on the other rows of a channel only through the sums of 1,
    x and x², so it is a map of `prospr_ops.ops.nn.channel_maps`. Recognised by tensor identity:
    `batch_normalization` must receive the tensors that `moments` took and returned. An instance is
    for one call of a model. All other calls go to tf.nn.
    """

    def __init__(self) -> None:
        # A tensor, its mean and its variance, from the last call of `moments`.
        self._last: tuple[tf.Tensor, tf.Tensor, tf.Tensor] | None = None

    def moments(
        self,
        x: Any,
        axes: Any,
        shift: Any = None,
        keepdims: bool = False,
        name: str | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """tf.nn.moments, computed in one pass if the axes are all but the last."""
        if keepdims or not _is_by_channel(x, axes):
            return moments(x, axes, shift=shift, keepdims=keepdims, name=name)

        mean, variance = (tf.cast(values, x.dtype) for values in channelwise(_moments, [x], []))
        self._last = x, mean, variance
        return mean, variance

    def batch_normalization(
        self,
        x: Any,
        mean: Any,
        variance: Any,
        offset: Any,
        scale: Any,
        variance_epsilon: Any,
        name: str | None = None,
    ) -> tf.Tensor:
        """tf.nn.batch_normalization, which recomputes the sums behind mean and variance."""
        given = x, mean, variance
        if (
            self._last is None
            or any(a is not b for a, b in zip(given, self._last, strict=True))
            or not isinstance(variance_epsilon, int | float)
            or any(p is not None and p.shape != x.shape[-1:] for p in (offset, scale))
        ):
            return _stock_batch_normalization(*given, offset, scale, variance_epsilon, name)

        scale = tf.ones(x.shape[-1], tf.float64) if scale is None else scale
        offset = tf.zeros(x.shape[-1], tf.float64) if offset is None else offset
        parameters = [tf.cast(parameter, tf.float64) for parameter in (scale, offset)]
        return channelwise(_normalised(variance_epsilon), [x], parameters)[0]


def _is_by_channel(x: Any, axes: Any) -> bool:
    """Whether the ops can take x, and the axes are all but the last."""
    return (
        isinstance(x, tf.Tensor)
        and x.dtype in (tf.float32, tf.float64)
        and x.shape.is_fully_defined()
        and x.shape.num_elements() > 0
        and isinstance(axes, list | tuple)
        and sorted(axis % x.shape.rank for axis in axes) == list(range(x.shape.rank - 1))
    )


def _moments(products: tf.Tensor, _: Any) -> Combination:
    """The rule of mean and variance, which makes no linear combination."""
    return Combination(products[:0], _mean_and_variance(products))


@lru_cache
def _normalised(epsilon: float) -> Rule:
    """The rule of batch normalisation."""

    def rule(products: tf.Tensor, parameters: Sequence[tf.Tensor]) -> Combination:
        scale, offset = parameters
        mean, variance = _mean_and_variance(products)
        factor = tf.math.rsqrt(variance + epsilon) * scale
        return Combination(tf.stack([factor, offset - mean * factor])[None], [])

    return rule


def _mean_and_variance(products: tf.Tensor) -> list[tf.Tensor]:
    """Mean and variance of the only tensor.

    Computing the variance as a difference loses nothing for float32, since the sums are in float64.
    A float64 channel loses a fraction (mean² / variance) · 1e-16 of its variance.
    """
    square, total, rows = products[0, 0], products[0, 1], products[1, 1]
    mean = total / rows
    variance = square / rows - tf.square(mean)
    # For a constant channel the difference is rounding, and may be below −epsilon. It is lifted to
    # zero by a stopped gradient: tf.maximum would also remove the second derivative, which is not
    # zero there.
    return [mean, variance + tf.stop_gradient(tf.nn.relu(-variance))]
