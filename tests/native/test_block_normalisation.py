"""The kernels of batch normalisation on blocks, on every instruction set and number of threads.

That they compute what they should is tests/ops/test_block_normalisation.py.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from prospr_ops import _native

INSTRUCTION_SETS = _native.build_info()["instruction_sets"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("relu", "residual"), [(False, False), (True, False), (True, True)])
def test_the_same_bits_for_every_number_of_threads(dtype, relu, residual):
    random = np.random.default_rng(0)
    x, g, other = random.normal(size=(3, 5, 131, 3, 16)).astype(dtype)
    g[-1, :, :, 7:] = 0  # behind the last sample
    scale, offset = random.normal(size=(2, 3)).astype(dtype)
    samples, added = 4 * 16 + 7, other if residual else None
    first = None
    for instruction_set in INSTRUCTION_SETS:
        outputs = []
        for threads in (1, 3):
            how = (threads, instruction_set)
            *_, moments = _native.block_moments(x, samples, *how)
            numbers = (scale, offset, moments, 1e-3, samples, relu, 1.5, *how)
            y = _native.block_norm(x, added, *numbers)
            by_x, by_other, *rest = _native.block_norm_gradient(g, x, added, *numbers)
            assert not y[-1, :, :, 7:].any()
            assert not by_x[-1, :, :, 7:].any()
            assert (by_other is None) is not residual
            outputs.append([moments, y, by_x, *rest, *[by_other] * residual])
        for one, three in zip(*outputs, strict=True):
            np.testing.assert_array_equal(one, three)
        first = first or outputs[0]
        for one, other_set in zip(first, outputs[0], strict=True):
            near = 200 * np.abs(one).max() * np.finfo(dtype).eps
            np.testing.assert_allclose(one, other_set, rtol=0, atol=near)


def test_what_does_not_fit_is_refused():
    x, moments, ones = np.ones((2, 3, 16)), np.ones((2, 3)), np.ones(3)
    for samples, message in [(0, "samples is 0"), (2**63 - 1, "in "), (16, "x has"), (33, "x has")]:
        with pytest.raises(ValueError, match=message):
            _native.block_moments(x, samples)
    with pytest.raises(ValueError, match="only with a ReLU"):
        _native.block_norm(x, x, ones, ones, moments, 1e-3, 32, False, math.inf)
    with pytest.raises(ValueError, match="offset has shape"):
        _native.block_norm(x, None, ones, moments, moments, 1e-3, 32, False, math.inf)
