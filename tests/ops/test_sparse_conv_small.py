"""Sparse convolution of few samples against its twin; bad input and threads: native/."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from prospr_ops import ops, reference


def _case(seed):
    """Arguments of random shapes that fit.

    Every third has small images that many filters read, every third filters of one element.
    """
    random = np.random.default_rng(seed)
    kernel, strides, dilations = (random.integers(1, top, 2) for top in (5, 4, 4))
    padding = str(random.choice(["same", "valid"]))
    channels, filters, samples = random.integers(1, (40, 40, 16))
    size = random.integers(1, 25, 2)
    if seed % 3 == 1:
        size, filters = random.integers(1, 6, 2), 60
    if seed % 3 == 2:
        kernel, strides = np.array([1, 1]), strides if seed % 2 else np.array([1, 1])
        size = size if seed % 4 else np.array([1, 1])
    # TensorFlow itself refuses both at once.
    dilations = dilations if (strides == 1).all() else np.array([1, 1])
    if padding == "valid":
        size = size + (kernel - 1) * dilations
    kept = random.random((filters, kernel.prod() * channels)) < random.choice([0, 0.1, 0.5, 1])
    kept[random.random(filters) < 0.2] = False  # whole filters
    taps = tf.constant(np.nonzero(kept)[1], tf.int32)
    splits = tf.constant(np.concatenate([[0], np.cumsum(kept.sum(1))]), tf.int32)
    image = random.normal(size=(samples, *size, channels))
    weights, scale, bias = (random.normal(size=n) for n in (len(taps), filters, filters))
    moves = ([*map(int, kernel)], [*map(int, strides)], [*map(int, dilations)])
    return (image, weights, scale, bias), (taps, splits, *moves, padding)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_it_matches_its_twin(seed, dtype):
    arrays, moves = _case(seed)

    def results(module, dtype):
        inputs = [tf.constant(given, dtype) for given in arrays]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = module.sparse_conv_small(*inputs, *moves)
            loss = tf.reduce_sum(output * tf.sin(tf.range(output.shape[-1], dtype=dtype)))
        return [output, *tape.gradient(loss, inputs)]

    # In float64: TensorFlow's own convolution of one channel in float32 is wrong at some strides.
    for values, exact in zip(results(ops, dtype), results(reference, tf.float64), strict=True):
        scale = np.abs(exact).max(initial=1)
        np.testing.assert_allclose(
            values, exact, rtol=0, atol=1e3 * scale * np.finfo(dtype.as_numpy_dtype).eps
        )


def test_a_plan_is_not_taken_for_another_image_or_pattern():
    random = np.random.default_rng(0)
    weights, scale, bias = (tf.constant(random.normal(size=n)) for n in (4, 2, 2))
    splits = [tf.constant([0, 1, 4]), tf.constant([0, 3, 4])]
    taps = [tf.constant([0, 2, 5, 11]), tf.constant([3, 1, 0, 7])]

    @tf.function
    def convolved(image, taps, splits):
        return ops.sparse_conv_small(image, weights, scale, bias, taps, splits, 2, padding="same")

    for size, pattern in [(4, 0), (4, 0), (4, 1), (5, 1), (4, 0)]:
        image = tf.constant(random.normal(size=(2, size, 4, 3)))
        exact = reference.sparse_conv_small(
            image, weights, scale, bias, taps[pattern], splits[pattern], (2, 2), padding="same"
        )
        given = (image, taps[pattern], splits[pattern])
        np.testing.assert_allclose(convolved(*given), exact, atol=1e-12)


def test_shapes_are_known_to_graphs():
    @tf.function(input_signature=[tf.TensorSpec([None, 9, None, 2])])
    def convolved(image):
        output = ops.sparse_conv_small(image, [1.0], [1.0, 1.0], [0.0, 1.0], [3], [0, 1, 1], 2, 2)
        assert output.shape.as_list() == [None, 4, None, 2]
        return output

    assert convolved(tf.zeros([3, 9, 4, 2])).shape == [3, 4, 2, 2]


def test_no_samples():
    output = ops.sparse_conv_small(tf.zeros([0, 4, 4, 1]), [1.0], [1.0], [0.0], [0], [0, 1], 2)
    assert output.shape == [0, 3, 3, 1]
