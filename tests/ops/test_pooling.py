"""Max-pooling that is differentiated faster, against TensorFlow's; the kernels: native/."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from prospr_ops import ops, reference
from prospr_ops.network.loss import Batch, Objective
from prospr_ops.ops.nn.max_pooling import max_pool
from prospr_ops.ops.nn.replacements import fast_calls

# Whole numbers: ties in most windows.
RANDOM = np.random.default_rng(0)
IMAGES = {
    "ties": RANDOM.integers(-1, 2, (3, 6, 6, 5)).astype(float),
    "no ties": RANDOM.normal(size=(3, 6, 6, 5)),
    "odd size": RANDOM.integers(-1, 2, (2, 7, 5, 3)).astype(float),
}


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("window", [(2, 2), (3, 2), (1, 1)])
@pytest.mark.parametrize("name", IMAGES)
def test_ops_match_their_twins(name, window, dtype):
    image = tf.cast(IMAGES[name], dtype)
    maxima, positions = ops.max_pool(image, window)
    for values, expected in zip(
        (maxima, positions), reference.max_pool(image, window), strict=True
    ):
        np.testing.assert_array_equal(values, expected, strict=True)
    arguments = (positions, window, image.shape[1:3])
    unpooled = ops.max_unpool(maxima, *arguments)
    np.testing.assert_array_equal(unpooled, reference.max_unpool(maxima, *arguments), strict=True)
    gathered = ops.gather_pooled(image, positions, window)
    twin = reference.gather_pooled(image, positions, window)
    np.testing.assert_array_equal(gathered, twin, strict=True)


@pytest.mark.parametrize(("samples", "channels"), [(0, 3), (2**40, 0)])
def test_what_is_empty_takes_no_time(samples, channels):
    maxima, positions = ops.max_pool(tf.zeros([samples, 4, 4, channels]), [2, 2])
    assert maxima.shape == positions.shape == [samples, 2, 2, channels]
    image = ops.max_unpool(maxima, positions, [2, 2], [4, 4])
    assert image.shape == [samples, 4, 4, channels]
    assert ops.gather_pooled(image, positions, [2, 2]).shape == maxima.shape


POSITIONS = tf.zeros([3, 2, 2, 5], tf.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ops.max_pool(tf.ones([4, 4, 3]), [2, 2]),
            r"image has shape \[4,4,3\]; it must have 4 axes",
        ),
        (
            lambda: ops.max_pool(tf.ones([1, 4, 4, 3]), [2, 2, 2]),
            "window is .* 32-bit whole number",
        ),
        (lambda: ops.max_pool(tf.ones([1, 4, 4, 3]), [0, 2]), "window is .* 32-bit whole number"),
        (lambda: ops.max_pool(tf.ones([1, 4, 4, 3]), [5, 2]), "5 x 2 does not fit"),
        (lambda: ops.max_pool(tf.ones([1, 40, 40, 3]), [16, 17]), "1 to 256 elements"),
        (
            lambda: ops.gather_pooled(tf.ones([3, 6, 4, 5]), POSITIONS, [2, 2]),
            r"positions has shape \[3,2,2,5\]; it must be \[3,3,2,5\]",
        ),
        (lambda: ops.max_unpool(tf.ones([3, 2, 2]), POSITIONS, [2, 2], [4, 4]), "4 axes"),
        (
            lambda: ops.max_unpool(tf.ones([3, 2, 2, 5]), POSITIONS, [2, 2], [4, 6]),
            r"values has shape \[3,2,2,5\]; it must be \[3,2,3,5\]",
        ),
        (
            lambda: ops.max_unpool(tf.ones([3, 2, 2, 5]), POSITIONS[1:], [2, 2], [4, 4]),
            r"positions has shape \[2,2,2,5\]; it must be \[3,2,2,5\]",
        ),
        (
            lambda: ops.max_unpool(tf.ones([3, 2, 2, 5]), POSITIONS, [2, 2], [4, -1]),
            "size is .*; it must be a positive",
        ),
        (
            lambda: ops.max_unpool(
                tf.ones([3, 2, 2, 5]), POSITIONS, [2, 2], [2**31 - 1, 2**31 - 1]
            ),
            r"values has shape .*; it must be \[3,1073741823,1073741823,5\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_shapes_are_inferred():
    @tf.function(input_signature=[tf.TensorSpec([None, None, 7, 5])])
    def shapes(image):
        maxima, positions = ops.max_pool(image, [2, 3])
        assert maxima.shape.as_list() == positions.shape.as_list() == [None, None, 2, 5]
        assert ops.gather_pooled(image, positions, [2, 3]).shape.as_list() == [None, None, 2, 5]
        return ops.max_unpool(maxima, positions, [2, 3], [9, 7])

    assert shapes.get_concrete_function().structured_outputs.shape.as_list() == [None, 9, 7, 5]
    assert shapes(tf.ones([2, 9, 7, 5])).shape == [2, 9, 7, 5]


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


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("name", ["ties", "no ties"])
def test_the_third_derivative_is_that_of_tensorflow(name, traced):
    x = tf.constant(IMAGES[name])

    def derivative(pool, order):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = derivative(pool, order - 1) if order else pool(x, [2, 2], [2, 2], "VALID")
            total = tf.reduce_sum(tf.sin(3.0 * value))
        return tape.gradient(total, x)

    call = tf.function(derivative) if traced else derivative
    np.testing.assert_allclose(call(max_pool, 2), derivative(tf.nn.max_pool, 2), rtol=1e-9)


def _within_a_function(x):
    return tf.function(lambda x: max_pool(x, [2, 2], [2, 2], "VALID"))(x)


def _for_each_image(x):
    return tf.vectorized_map(lambda one: max_pool(one[tf.newaxis], 2 * [2], 2 * [2], "VALID"), x)


def _in_a_loop(x):
    return tf.map_fn(lambda one: max_pool(one[tf.newaxis], [2, 2], [2, 2], "VALID"), x)


@pytest.mark.parametrize("pool", [_within_a_function, _for_each_image, _in_a_loop])
def test_two_derivatives_inside_other_graphs(pool):
    x = tf.constant(IMAGES["no ties"])

    @tf.function
    def derivative(pool):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = tf.reduce_sum(tf.sin(pool(x)))
            squares = tf.reduce_sum(tf.square(inner.gradient(value, x)))
        return outer.gradient(squares, x)

    expected = derivative(lambda x: tf.nn.max_pool(x, 2, 2, "VALID"))
    np.testing.assert_allclose(derivative(pool), expected, rtol=1e-9)


def test_a_model_takes_it():
    model = keras.Sequential([keras.Input([6, 6, 1]), keras.layers.MaxPooling2D()])
    objective = Objective.of(model, "mse")

    @tf.function
    def gradient(x, y):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = objective(Batch(x, y), fast_calls())
        return tape.gradient(loss, x)

    graph = gradient.get_concrete_function(tf.ones([2, 6, 6, 1]), tf.ones([2, 3, 3, 1])).graph
    operations = {operation.type for operation in graph.get_operations()}
    assert operations >= {"Prospr>MaxPool", "Prospr>MaxUnpool"}
    assert not operations & {"MaxPool", "MaxPoolGrad"}


def test_other_pooling_is_left_alone():
    large = tf.reshape(tf.range(17.0 * 17), [1, 17, 17, 1])
    assert max_pool(large, [17, 17], [17, 17], "VALID") == 17 * 17 - 1
    assert max_pool(large, [2, 2], 2, "VALID").shape == [1, 8, 8, 1]
    x = tf.ones([1, 4, 4, 4, 2])
    assert max_pool(x, [2, 2, 2], [2, 2, 2], "VALID", "NDHWC").shape == [1, 2, 2, 2, 2]
    assert max_pool(x[0], 2, 2, "VALID").shape == [4, 2, 2, 2]
