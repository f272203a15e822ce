"""Activations with short second derivatives, against TensorFlow's own."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import prospr_ops as po
from prospr_ops.methods.engine import passes
from prospr_ops.ops.nn import activations

# TensorFlow rounds the square root of two in gelu to nine digits.
_TOLERANCE = 3e-8
PAIRS = {
    "silu": (activations.silu, tf.nn.silu),
    "gelu": (activations.gelu, tf.nn.gelu),
    "gelu by tanh": tuple(
        functools.partial(f, approximate=True) for f in (activations.gelu, tf.nn.gelu)
    ),
}


def _derivatives(function, x):
    """The value, and three derivatives, each along another direction."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as middle:
            middle.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = function(x)
            first = inner.gradient(y, x, tf.cos(x))
        second = middle.gradient(first, x, tf.sin(x))
    return y, first, second, outer.gradient(second, x)


@pytest.mark.parametrize("run", [lambda f: f, functools.partial(tf.function, autograph=False)])
@pytest.mark.parametrize("name", PAIRS)
def test_three_derivatives_are_those_of_tensorflow(name, run):
    x = tf.constant([-700.0, -30.0, -6.0, -1.5, -1e-9, 0.0, 0.3, 1.0, 5.0, 40.0, 700.0], tf.float64)
    own, stock = PAIRS[name]
    found = run(lambda: _derivatives(own, x))()
    for order, (values, expected) in enumerate(zip(found, _derivatives(stock, x), strict=True)):
        assert np.isfinite(values).all(), order
        np.testing.assert_allclose(values, expected, rtol=_TOLERANCE, atol=_TOLERANCE)
    np.testing.assert_array_equal(found[0], stock(x))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", PAIRS)
def test_far_away_they_are_straight(name, dtype):
    x = tf.cast([-6e4, -300.0, -30.0, 30.0, 300.0, 6e4], dtype)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = PAIRS[name][0](x)
        first = inner.gradient(y, x)
    np.testing.assert_allclose(tf.cast(first, tf.float64), [0, 0, 0, 1, 1, 1], atol=1e-6)
    np.testing.assert_allclose(tf.cast(outer.gradient(first, x), tf.float64), 0.0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", PAIRS)
def test_dtypes_are_kept(name, dtype):
    own, stock = PAIRS[name]
    x = tf.cast(tf.linspace(-4.0, 4.0, 17), dtype)
    found, expected = _derivatives(own, x)[:2], _derivatives(stock, x)[:2]
    step = {"float16": 1e-2, "bfloat16": 6e-2, "float32": 1e-5}[dtype]
    for values, others in zip(found, expected, strict=True):
        assert values.dtype == x.dtype
        np.testing.assert_allclose(
            tf.cast(values, tf.float64), tf.cast(others, tf.float64), atol=step
        )


def test_silu_with_another_slope_is_tensorflows():
    x = tf.linspace(-3.0, 3.0, 7)
    np.testing.assert_array_equal(activations.silu(x, 1.702), tf.nn.silu(x, 1.702))
    np.testing.assert_array_equal(activations.silu([1.0, 2.0]), tf.nn.silu([1.0, 2.0]))


@pytest.mark.parametrize("activation", ["swish", "gelu", "silu"])
@pytest.mark.parametrize("method", ["exact", "grasp"])
@pytest.mark.usefixtures("float64", "execution")
def test_scores_are_those_of_the_plain_path(activation, method, monkeypatch):
    model = keras.Sequential(
        [keras.Input([4]), layers.Dense(6, activation=activation), layers.Dense(2)]
    )
    random = np.random.default_rng(0)
    data = random.standard_normal([16, 4]), random.standard_normal([16, 2])

    def scores():
        return po.score(model, data, method=method, loss="mse", batch_size=4, seed=0, verbose=0)

    found = scores()
    monkeypatch.setattr(passes, "fast_calls", dict)
    for path, expected in scores().items():
        np.testing.assert_allclose(found[path], expected, rtol=1e-6, atol=1e-9)
