"""Max-pooling that is differentiated faster, against TensorFlow's."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from prospr_ops.pooling import max_pool

# Whole numbers: ties in most windows.
RANDOM = np.random.default_rng(0)
IMAGES = {
    "ties": RANDOM.integers(-1, 2, (3, 6, 6, 5)).astype(float),
    "no ties": RANDOM.normal(size=(3, 6, 6, 5)),
    "odd size": RANDOM.integers(-1, 2, (2, 7, 5, 3)).astype(float),
}


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64, tf.float16, tf.bfloat16])
@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((2, 2), (2, 2), "VALID"),
        ((3, 2), (3, 2), "VALID"),
        ((3, 3), (3, 3), "VALID"),
        ((2, 2), (2, 2), "SAME"),
        ((3, 3), (2, 2), "VALID"),
    ],
)
@pytest.mark.parametrize("name", IMAGES)
def test_two_derivatives_are_those_of_tensorflow(name, window, strides, padding, dtype):
    x = tf.cast(IMAGES[name], dtype)

    @tf.function
    def derivatives(pool):
        with tf.GradientTape() as outer:
            outer.watch(x)
            y = pool(x, window, strides, padding, "NHWC")
            by_y = tf.cast(tf.reshape(tf.range(tf.size(y)) % 7 - 3, tf.shape(y)), dtype)
            outer.watch(by_y)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = pool(x, window, strides, padding, "NHWC")
            by_x = inner.gradient(y, x, by_y)
        v = tf.cast(tf.reshape(tf.range(tf.size(x)) % 13 - 6, tf.shape(x)), dtype)
        return y, by_x, *outer.gradient(by_x, [by_y, x], v, tf.UnconnectedGradients.ZERO)

    found = derivatives(max_pool)
    for values, expected in zip(found, derivatives(tf.nn.max_pool), strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_the_third_derivative_is_that_of_tensorflow():
    x = tf.constant(IMAGES["no ties"])

    def derivative(pool, order):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = derivative(pool, order - 1) if order else pool(x, [2, 2], [2, 2], "VALID")
            total = tf.reduce_sum(tf.sin(3.0 * value))
        return tape.gradient(total, x)

    np.testing.assert_allclose(derivative(max_pool, 2), derivative(tf.nn.max_pool, 2), rtol=1e-9)


def test_other_pooling_is_left_alone():
    x = tf.ones([1, 4, 4, 4, 2])
    assert max_pool(x, [2, 2, 2], [2, 2, 2], "VALID", "NDHWC").shape == [1, 2, 2, 2, 2]
    assert max_pool(x[0], 2, 2, "VALID").shape == [4, 2, 2, 2]
