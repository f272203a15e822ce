"""The ops of sparse convolution against their twins; the kernels: native/."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from prospr_ops import ops, reference


def _case(seed):
    """Arguments of random shapes that fit.

    From 12 on the weights come in several passes over channels; from 18 on the images are unrolled.
    """
    random = np.random.default_rng(seed)
    kernel, strides, dilations = (random.integers(1, top, 2) for top in (4, 4, 3))
    dilations = dilations if (strides == 1).all() else np.array([1, 1])
    size = (kernel - 1) * dilations + random.integers(1, 7, 2)
    channels, filters, samples = random.integers(1, (7, 7, 40))
    if seed >= 18:
        size, dilations, samples = random.integers(1, 3, 2), random.integers(1, 3, 2), 120
        strides = strides if (dilations == 1).all() else np.array([1, 1])
    elif seed >= 12:
        channels, filters, size = random.integers(60, 120), 60, size + 11
        samples = 16 * random.integers(1, 3)
    kept = random.random((filters, kernel.prod() * channels)) < random.choice([0, 0.3, 1])
    taps = tf.constant(np.nonzero(kept)[1], tf.int32)
    splits = tf.constant(np.concatenate([[0], np.cumsum(kept.sum(1))]), tf.int32)
    image = random.normal(size=(samples, *size, channels))
    weights, bias = random.normal(size=len(taps)), random.normal(size=filters)
    moves = ([*map(int, kernel)], [*map(int, strides)], [*map(int, dilations)])
    padding = "same" if seed >= 18 else random.choice(["same", "valid"])
    return image, weights, bias, (taps, splits, *moves, str(padding))


@pytest.mark.parametrize("seed", range(26))
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_ops_match_their_twins(seed, dtype):
    image, weights, bias, moves = _case(seed)
    blocks = ops.to_blocks(tf.constant(image, dtype))
    np.testing.assert_array_equal(blocks, reference.to_blocks(tf.constant(image, dtype)))
    np.testing.assert_array_equal(ops.from_blocks(blocks, len(image)), tf.constant(image, dtype))
    inputs = [blocks, tf.constant(weights, dtype), tf.constant(bias, dtype)]
    # Every combination of what comes along.
    behind = {}
    if seed % 2:
        behind["scale"] = tf.constant(np.linspace(-1, 2, len(bias)), dtype)
    if seed // 2 % 2:
        output = ops.sparse_conv(*inputs, *moves)
        behind["residual"] = tf.cast(tf.random.stateless_normal(output.shape, [0, seed]), dtype)
    relu = {"relu": bool(seed // 4 % 2), "ceiling": 1.5 if seed // 8 % 2 else np.inf}
    inputs += behind.values()

    def results(module):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = module.sparse_conv(*inputs[:3], *moves, **behind, **relu)
            loss = tf.reduce_sum(output * tf.sin(tf.cast(tf.range(16), dtype)))
        return [output, *tape.gradient(loss, inputs)]

    for values, exact in zip(results(ops), results(reference), strict=True):
        scale = np.abs(exact).max(initial=1)
        np.testing.assert_allclose(
            values, exact, rtol=0, atol=1e3 * scale * np.finfo(dtype.as_numpy_dtype).eps
        )


def test_there_is_no_second_derivative():
    image, weights, bias, moves = _case(0)
    image, weights = ops.to_blocks(image), tf.constant(weights)
    with tf.GradientTape() as outer:
        outer.watch(weights)
        with tf.GradientTape() as inner:
            inner.watch(image)
            output = ops.sparse_conv(image, weights, bias, *moves)
        gradient = inner.gradient(output, image)
    with pytest.raises(LookupError, match="SparseConvInputGradient"):
        outer.gradient(gradient, weights)


def test_no_samples():
    image, nothing = tf.zeros([0, 4, 4, 1, 16]), (tf.constant([0]), tf.constant([0, 1]), 2)
    output = ops.sparse_conv(image, [1.0], [0.0], *nothing)
    assert output.shape == [0, 3, 3, 1, 16]
    by_weights, by_bias = ops.sparse_conv_filter_gradient(image, output, *nothing)
    np.testing.assert_array_equal([by_weights, by_bias], [[0], [0]])


def test_blocks_of_another_number_of_samples_are_refused():
    with pytest.raises(ValueError, match=r"blocks has shape .*for 17 samples"):
        ops.from_blocks(tf.zeros([1, 2, 16]), 17)


@pytest.mark.parametrize(
    ("taps", "splits", "channels", "error", "message"),
    [
        ([[0]], [0, 1], 2, ValueError, "must be vectors"),
        ([0, 1], [0, 1], 2, ValueError, "rise from 0 to the number of taps, 2"),
        ([0, 1], [1, 2], 2, ValueError, "rise from 0"),
        ([0, 1], [0, 2**30, 2], 2, ValueError, "rise from 0"),
        ([0], [], 2, ValueError, "rise from 0"),
        ([0], [0, 1], 0, ValueError, "above 0"),
        ([0], [0, 1], [2], ValueError, "above 0"),
        ([0], [0, 1], "2", TypeError, "must be an integer"),
    ],
)
def test_a_pattern_that_is_none_is_not_transposed(taps, splits, channels, error, message):
    with pytest.raises(error, match=message):
        ops.transposed_pattern(taps, splits, channels)
