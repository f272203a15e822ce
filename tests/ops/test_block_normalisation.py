"""Batch normalisation on blocks against its twin; the kernels: native/."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from prospr_ops import ops, reference

EPSILON = 1e-3
# A dense layer, one with fewer samples than a block, several runs of positions, many channels.
SHAPES = [(40, 5), (7, 3, 2, 5), (33, 9, 16, 3), (18, 2, 70)]


def _results(module, tensors, samples, dtype, relu, residual, ceiling):
    x, g, other, gamma, beta = (tf.cast(tensor, dtype) for tensor in tensors)
    watched = [x, gamma, beta, *[other] * residual]
    with tf.GradientTape() as tape:
        tape.watch(watched)
        # What lies in lanes without a sample must not matter.
        occupied = ops.to_blocks(tf.ones_like(x)) > 0
        laid, added = (
            tf.where(occupied, ops.to_blocks(t), tf.constant(9, dtype)) for t in (x, other)
        )
        mean, variance, moments = module.block_moments(laid, samples)
        y = module.block_norm(
            *(laid, gamma, beta, moments, EPSILON, samples),
            *(added if residual else None, relu, ceiling),
        )
        loss = tf.reduce_sum(ops.from_blocks(y, samples) * g)
    return [mean, variance, moments, y, *tape.gradient(loss, watched)]


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("relu", "residual", "ceiling"),
    [
        (False, False, math.inf),
        *((True, residual, ceiling) for residual in (False, True) for ceiling in (math.inf, 1.5)),
    ],
)
def test_ops_match_their_twins(shape, relu, residual, ceiling, dtype):
    random = np.random.default_rng(0)
    tensors = [tf.constant(random.normal(1, 1, shape), dtype) for _ in range(3)]
    tensors += [tf.constant(random.normal(1, 1, shape[-1:]), dtype) for _ in range(2)]
    case = (tensors, shape[0])
    options = (relu, residual, ceiling)
    exact = _results(reference, *case, tf.float64, *options)
    for values, twin in zip(_results(ops, *case, dtype, *options), exact, strict=True):
        # The twin rounds in float64 too.
        steps = 1e2 if dtype == tf.float32 else 1e3
        tolerance = steps * np.abs(twin).max() * np.finfo(dtype.as_numpy_dtype).eps
        np.testing.assert_allclose(values, twin, rtol=0, atol=tolerance)


def test_the_gradient_op_matches_its_twin():
    random = np.random.default_rng(1)
    x, g, residual = (ops.to_blocks(random.normal(size=(20, 6, 3))) for _ in range(3))
    scale, offset = (tf.constant(random.normal(size=3)) for _ in range(2))
    given = (scale, offset, ops.block_moments(x, 20)[-1], EPSILON, 20)
    for options in ((None, False), (None, True), (residual, True), (residual, True, 0.5)):
        found, twin = (
            module.block_norm_gradient(g, x, *given, *options) for module in (ops, reference)
        )
        for values, expected in zip(found, twin, strict=True):
            if expected is None:
                assert values is None
            else:
                np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-9)


def test_no_moments_can_be_differentiated():
    x = tf.ones([1, 2, 16])
    with tf.GradientTape() as tape:
        tape.watch(x)
        mean, *_ = ops.block_moments(x, 16)
    with pytest.raises(LookupError, match="BlockMoments"):
        tape.gradient(mean, x)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"samples": 17}, r"x has shape \[1,3,2,16\]; it must be \[2,...,channels,16\]"),
        ({"samples": 0}, r"samples is 0; it must be in \[1, 2\^40\]"),
        ({"scale": tf.ones(3)}, r"scale has shape \[3\]; it must be \[2\]"),
        ({"residual": tf.ones([1, 3, 2, 16])}, "only with a ReLU"),
        ({"residual": tf.ones([1, 3, 1, 16]), "relu": True}, "shape"),
        ({"moments": tf.ones([2, 3], tf.float64)}, "moments has shape"),
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    moments = tf.ones([2, 2], tf.float64)
    given = {"x": tf.ones([1, 3, 2, 16]), "scale": tf.ones(2), "offset": tf.ones(2)}
    given |= {"moments": moments, "epsilon": EPSILON, "samples": 3} | changed
    with pytest.raises(ValueError, match=message):
        ops.block_norm(**given)
