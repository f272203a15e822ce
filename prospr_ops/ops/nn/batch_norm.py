"""Batch normalisation of which derivatives of every order take two passes over the data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import tensorflow as tf

from prospr_ops.network.tf_functions import moments
from prospr_ops.ops.nn.channel_maps import Combination, Rule, channelwise

_stock_batch_normalization = tf.nn.batch_normalization


class BatchNormalisation:
    """tf.nn.moments and tf.nn.batch_normalization, faster for a tensor that its own moments normalise.

    y = (x − μ) γ / √(σ² + ε) + β knows x, channel by channel, by the sums of 1, x and x² alone: it is
    a map of `prospr_ops.ops.nn.channel_maps`. So says the identity of the tensors that the two functions are
    called with; for one call of a model. Whatever is beyond that is as it was.
    """

    def __init__(self) -> None:
        # A tensor, its mean and its variance, as `moments` last gave them.
        self._last: tuple[tf.Tensor, tf.Tensor, tf.Tensor] | None = None

    def moments(
        self,
        x: Any,
        axes: Any,
        shift: Any = None,
        keepdims: bool = False,
        name: str | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """tf.nn.moments, over all axes but the last in one pass."""
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
        """tf.nn.batch_normalization, which sums anew what mean and variance were made of."""
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
    """Whether the ops take x, and the axes are all but the last."""
    return (
        isinstance(x, tf.Tensor)
        and x.dtype in (tf.float32, tf.float64)
        and x.shape.is_fully_defined()
        and x.shape.num_elements() > 0
        and isinstance(axes, list | tuple)
        and sorted(axis % x.shape.rank for axis in axes) == list(range(x.shape.rank - 1))
    )


def _moments(products: tf.Tensor, _: Any) -> Combination:
    """The rule of mean and variance, which combines nothing."""
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
    """Of the only tensor there is.

    That the variance is a difference costs nothing in float32, as the sums are in float64. A float64
    channel loses (mean² / variance) · 1e-16 of its variance.
    """
    square, total, rows = products[0, 0], products[0, 1], products[1, 1]
    mean = total / rows
    variance = square / rows - tf.square(mean)
    # Of a constant channel the difference is rounding, which may be below zero by more than epsilon is
    # above. It is lifted to zero by what counts as a constant: tf.maximum would take away the second
    # derivative too, which is not zero there.
    return [mean, variance + tf.stop_gradient(tf.nn.relu(-variance))]
