"""Batch normalisation by one compiled op, and one more for each of its first two derivatives."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from prospr_ops import ops
from prospr_ops.network.tf_functions import moments

_stock_batch_normalization = tf.nn.batch_normalization


class _Moments(NamedTuple):
    """What the last call of `moments` took and gave."""

    x: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor
    both: tf.Tensor  # as `ops.batch_norm` takes them


class BatchNormalisation:
    """tf.nn.moments and tf.nn.batch_normalization, faster for a tensor and its own moments.

    Recognised by tensor identity: `batch_normalization` must receive the tensors that `moments` took
    and returned. An instance is for one call of a model. All other calls go to tf.nn.
    """

    def __init__(self) -> None:
        self._last: _Moments | None = None

    def moments(
        self,
        x: Any,
        axes: Any,
        shift: Any = None,
        keepdims: bool = False,
        name: str | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """tf.nn.moments, by the compiled op if the axes are all but the last."""
        if keepdims or not _is_by_channel(x, axes):
            return moments(x, axes, shift=shift, keepdims=keepdims, name=name)
        self._last = _Moments(x, *ops.batch_moments(x))
        return self._last.mean, self._last.variance

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
        """tf.nn.batch_normalization, by the compiled op for the moments of x itself."""
        last = self._last
        if (
            last is None
            or x is not last.x
            or mean is not last.mean
            or variance is not last.variance
            or not isinstance(variance_epsilon, int | float)
            or any(
                p is not None and (p.shape != x.shape[-1:] or p.dtype != x.dtype)
                for p in (offset, scale)
            )
        ):
            return _stock_batch_normalization(
                x, mean, variance, offset, scale, variance_epsilon, name
            )
        channels = x.shape[-1]
        scale = tf.ones(channels, x.dtype) if scale is None else scale
        offset = tf.zeros(channels, x.dtype) if offset is None else offset
        return ops.batch_norm(x, scale, offset, last.both, variance_epsilon)


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
