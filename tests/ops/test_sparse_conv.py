"""The ops of sparse convolution against their twins; the kernels: native/."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from prospr_ops import ops, reference

RANDOM = np.random.default_rng(0)
TAPS, SPLITS = [3, 0, 11, 5, 5, 7], [0, 3, 3, 6]
PATTERN = (tf.constant(TAPS), tf.constant(SPLITS), (2, 3))


def _arguments(dtype, samples=21):
    """An image, weights, a bias, and a gradient at the output."""
    shapes = ([4, 7, 2, samples], [6], [3], [3, 5, 3, samples])
    return [tf.constant(RANDOM.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_ops_match_their_twins(dtype):
    image, weights, bias, by_output = _arguments(dtype)
    for ours, twin, arguments in (
        (ops.sparse_conv, reference.sparse_conv, (image, weights, bias, *PATTERN)),
        (
            ops.sparse_conv_input_gradient,
            reference.sparse_conv_input_gradient,
            (by_output, weights, *PATTERN, 2),
        ),
        (
            ops.sparse_conv_filter_gradient,
            reference.sparse_conv_filter_gradient,
            (image, by_output, *PATTERN),
        ),
    ):
        found, expected = ours(*arguments), twin(*arguments)
        for values, exact in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
            np.testing.assert_allclose(values, exact, rtol=0, atol=2e3 * np.finfo(dtype.name).eps)


def test_the_gradient_is_that_of_the_twin():
    image, weights, bias, by_output = _arguments(tf.float64)

    @tf.function
    def gradients(conv):
        with tf.GradientTape() as tape:
            tape.watch([image, weights, bias])
            output = tf.sin(conv(image, weights, bias, *PATTERN))
        return tape.gradient(output, [image, weights, bias], by_output)

    expected = gradients(reference.sparse_conv)
    for values, exact in zip(gradients(ops.sparse_conv), expected, strict=True):
        np.testing.assert_allclose(values, exact, atol=1e-12)


def test_there_is_no_second_derivative():
    image, weights, bias, _ = _arguments(tf.float64)
    with tf.GradientTape() as outer:
        outer.watch(weights)
        with tf.GradientTape() as inner:
            inner.watch(image)
            output = ops.sparse_conv(image, weights, bias, *PATTERN)
        gradient = inner.gradient(output, image)
    with pytest.raises(LookupError, match="SparseConvInputGradient"):
        outer.gradient(gradient, weights)


@pytest.mark.parametrize("samples", [0, 1])
def test_no_samples(samples):
    image, weights, bias, by_output = _arguments(tf.float32, samples)
    assert ops.sparse_conv(image, weights, bias, *PATTERN).shape == [3, 5, 3, samples]
    by_image = ops.sparse_conv_input_gradient(by_output, weights, *PATTERN, 2)
    assert by_image.shape == image.shape
    by_weights, by_bias = ops.sparse_conv_filter_gradient(image, by_output, *PATTERN)
    assert (np.count_nonzero(by_weights), np.count_nonzero(by_bias)) == (6 * samples, 3 * samples)


def test_what_is_empty_takes_no_time():
    image = tf.zeros([2**40, 1, 0, 1])
    nothing = (tf.zeros([0], tf.int32), [0], 1)
    output = ops.sparse_conv(image, [], [], *nothing)
    assert output.shape == [2**40, 1, 0, 1]
    assert ops.sparse_conv_input_gradient(output[:9], [], *nothing, 2).shape == [9, 1, 2, 1]
    by_weights, by_bias = ops.sparse_conv_filter_gradient(image, output, *nothing)
    assert by_weights.shape == by_bias.shape == [0]
    samples = tf.zeros([1, 1, 0, 2**42])
    assert ops.sparse_conv(samples, [], [], *nothing).shape == samples.shape
    rows, no_taps = tf.zeros([2**38, 1, 1, 0]), tf.zeros([0], tf.int32)
    by_image = ops.sparse_conv_input_gradient(rows, [], no_taps, [0, 0], 1, 1)
    assert by_image.shape == rows.shape


def test_filters_without_weights():
    image, by_output = tf.ones([3, 3, 2, 5]), tf.ones([2, 2, 4, 5])
    pattern = (tf.zeros([0], tf.int32), [0] * 5, 2)
    output = ops.sparse_conv(image, [], [1.0, 2, 3, 4], *pattern)
    np.testing.assert_array_equal(output, by_output * tf.constant([[1.0], [2], [3], [4]]))
    by_image = ops.sparse_conv_input_gradient(by_output, [], *pattern, 2)
    np.testing.assert_array_equal(by_image, tf.zeros_like(image))
    by_weights, by_bias = ops.sparse_conv_filter_gradient(image, by_output, *pattern)
    assert by_weights.shape == [0]
    np.testing.assert_array_equal(by_bias, [20.0] * 4)


def test_the_gradient_needs_a_number_of_channels():
    @tf.function(input_signature=[tf.TensorSpec([4, 7, None, None])])
    def gradient(image):
        _, weights, bias, _ = _arguments(tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(bias)
            output = ops.sparse_conv(image, weights, bias, *PATTERN)
        return tape.gradient(output, bias)

    with pytest.raises(ValueError, match="known number of channels"):
        gradient.get_concrete_function()


def test_a_bias_without_channels_has_a_gradient():
    bias = tf.constant([1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(bias)
        output = ops.sparse_conv(
            tf.ones([2, 2, 0, 5]), [], bias, tf.zeros([0], tf.int32), [0] * 3, 1
        )
    np.testing.assert_array_equal(tape.gradient(output, bias), [20.0, 20.0])


def test_shapes_are_inferred():
    @tf.function(input_signature=[tf.TensorSpec([None, 7, 2, None])])
    def shapes(image):
        _, weights, bias, _ = _arguments(tf.float32)
        output = ops.sparse_conv(image, weights, bias, *PATTERN)
        assert output.shape.as_list() == [None, 5, 3, None]
        by_weights, by_bias = ops.sparse_conv_filter_gradient(image, output, *PATTERN)
        assert (by_weights.shape, by_bias.shape) == ([6], [3])
        return ops.sparse_conv_input_gradient(output, weights, *PATTERN, 2)

    assert shapes.get_concrete_function().structured_outputs.shape.as_list() == [None, 7, 2, None]
    assert shapes(tf.ones([4, 7, 2, 5])).shape == [4, 7, 2, 5]


IMAGE, WEIGHTS, BIAS, GRADIENT = _arguments(tf.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ops.sparse_conv(IMAGE[0], WEIGHTS, BIAS, *PATTERN),
            "image has .* must have 4 axes",
        ),
        (
            lambda: ops.sparse_conv(IMAGE, WEIGHTS[1:], BIAS, *PATTERN),
            r"weights has shape \[5\]; it must be \[6\]",
        ),
        (lambda: ops.sparse_conv(IMAGE, WEIGHTS, BIAS[1:], *PATTERN), "bias has shape .* must be"),
        (
            lambda: ops.sparse_conv(IMAGE, WEIGHTS, BIAS, [TAPS], SPLITS, (2, 3)),
            "taps has shape .*; it must have 1 axis",
        ),
        (lambda: ops.sparse_conv(IMAGE, WEIGHTS, BIAS, TAPS, [], (2, 3)), "splits"),
        (
            lambda: ops.sparse_conv(IMAGE, WEIGHTS, BIAS, [*TAPS[:5], 12], SPLITS, (2, 3)),
            r"tap 5 is 12; it must be in \[0, 12\)",
        ),
        (
            lambda: ops.sparse_conv(IMAGE, WEIGHTS, BIAS, TAPS, [0, 3, 2, 6], (2, 3)),
            "split 2 is 2; the splits must rise",
        ),
        (
            lambda: ops.sparse_conv(IMAGE, WEIGHTS, BIAS, TAPS, SPLITS, (5, 3)),
            "5 x 3 does not fit into an image of 4 x 7",
        ),
        (
            lambda: ops.sparse_conv(IMAGE, WEIGHTS, BIAS, TAPS, SPLITS, (2, 0)),
            "kernel_size is .*32-bit whole number",
        ),
        (
            lambda: ops.sparse_conv_filter_gradient(IMAGE, GRADIENT[1:], *PATTERN),
            "output_gradient has shape .*; it must be",
        ),
        (
            lambda: ops.sparse_conv_input_gradient(GRADIENT[0], WEIGHTS, *PATTERN, 2),
            "output_gradient has shape .*; it must have 4 axes",
        ),
        (
            lambda: ops.sparse_conv_input_gradient(GRADIENT[:, :, :2], WEIGHTS, *PATTERN, 2),
            "output_gradient has shape .*; it must be",
        ),
        (
            lambda: ops.sparse_conv_input_gradient(GRADIENT, WEIGHTS, *PATTERN, 0),
            "channels is 0; it must be a positive",
        ),
        (
            lambda: ops.sparse_conv_input_gradient(GRADIENT, WEIGHTS, *PATTERN, 2**31 - 1),
            "it must have 0 to 2147483647 elements",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
