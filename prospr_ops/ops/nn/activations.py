"""Activations whose second derivative takes a few operations, not one per operation of the first."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

_stock_gelu, _stock_silu = tf.nn.gelu, tf.nn.silu

Function = Callable[[tf.Tensor], tf.Tensor]


# Where a tanh or a normal density is constant in any dtype, and no square overflows.
_FAR = 100.0


class _Activation(NamedTuple):
    """A function of each element, and its first two derivatives, which take float32 or float64."""

    value: Function
    first: Function
    second: Function

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        @tf.custom_gradient
        def times_slope(g: tf.Tensor, x: tf.Tensor) -> Any:
            def gradient(v: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                return times_slope(v, x), v * g * _in_full(self.second, x)

            return g * _in_full(self.first, x), gradient

        @tf.custom_gradient
        def activation(x: tf.Tensor) -> Any:
            return self.value(x), lambda g: times_slope(g, x)

        return activation(x)


def _in_full(function: Function, x: tf.Tensor) -> tf.Tensor:
    """A function of x, computed in float32 where x is in half precision."""
    wide = tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
    return tf.cast(function(wide), x.dtype)


def _silu_slope(x: tf.Tensor) -> tf.Tensor:
    s = tf.sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


def _silu_bend(x: tf.Tensor) -> tf.Tensor:
    s = tf.sigmoid(x)
    return s * (1.0 - s) * (2.0 + x * (1.0 - 2.0 * s))


def _normal_density(x: tf.Tensor) -> tf.Tensor:
    return tf.exp(-0.5 * tf.square(x)) / math.sqrt(2.0 * math.pi)


def _gelu_slope(x: tf.Tensor) -> tf.Tensor:
    return 0.5 * tf.math.erfc(-x / math.sqrt(2.0)) + x * _normal_density(x)


def _gelu_bend(x: tf.Tensor) -> tf.Tensor:
    x = tf.clip_by_value(x, -_FAR, _FAR)
    return _normal_density(x) * (2.0 - tf.square(x))


# gelu's approximation: x (1 + tanh u) / 2, with u = √(2/π) (x + c x³).
_ROOT, _CUBIC = math.sqrt(2.0 / math.pi), 0.044715


def _tanh_of_cubic(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of gelu's approximation: tanh u and u'."""
    square = tf.square(x)
    u = _ROOT * x * (1.0 + _CUBIC * square)
    return tf.tanh(u), _ROOT * (1.0 + 3.0 * _CUBIC * square)


def _tanh_gelu_slope(x: tf.Tensor) -> tf.Tensor:
    x = tf.clip_by_value(x, -_FAR, _FAR)
    t, slope = _tanh_of_cubic(x)
    return 0.5 * (1.0 + t + x * (1.0 - tf.square(t)) * slope)


def _tanh_gelu_bend(x: tf.Tensor) -> tf.Tensor:
    x = tf.clip_by_value(x, -_FAR, _FAR)
    t, slope = _tanh_of_cubic(x)
    bend = 3.0 * _ROOT * _CUBIC * x  # u'' / 2
    return (1.0 - tf.square(t)) * (slope + x * (bend - t * tf.square(slope)))


_SILU = _Activation(lambda x: x * tf.sigmoid(x), _silu_slope, _silu_bend)
_GELU = _Activation(lambda x: _stock_gelu(x, approximate=False), _gelu_slope, _gelu_bend)
_TANH_GELU = _Activation(
    lambda x: _stock_gelu(x, approximate=True), _tanh_gelu_slope, _tanh_gelu_bend
)


def silu(features: Any, beta: Any = 1.0) -> tf.Tensor:
    """tf.nn.silu, for Hessian-vector products."""
    if not isinstance(beta, float) or beta != 1.0:
        return _stock_silu(features, beta)
    return _SILU(tf.convert_to_tensor(features))


def gelu(features: Any, approximate: bool = False, name: str | None = None) -> tf.Tensor:
    """tf.nn.gelu, for Hessian-vector products."""
    del name
    return (_TANH_GELU if approximate else _GELU)(tf.convert_to_tensor(features))
