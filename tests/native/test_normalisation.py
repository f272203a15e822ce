"""The kernels behind batch normalisation, called on NumPy arrays, against sums in extended precision."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from prospr_ops import _native

INSTRUCTION_SETS = _native.build_info()["instruction_sets"]
# One row, one channel, remainders of every vector's width, several blocks of rows.
SHAPES = [(1, 1), (3, 1), (1, 67), (70_000, 1), (5, 7, 3), (300, 16), (2100, 37), (9, 2, 600)]


def _tensors(shape, count, dtype):
    random = np.random.default_rng(0)
    return [random.normal(3.0, 1.0, shape).astype(dtype) for _ in range(count)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_sums_in_double(shape, count, dtype):
    tensors = _tensors(shape, count, dtype)
    wide = [t.astype(np.longdouble).reshape(-1, shape[-1]) for t in [*tensors, np.ones(shape)]]
    expected = np.array([[np.sum(a * b, axis=0) for b in wide] for a in wide], np.float64)
    for instruction_set in INSTRUCTION_SETS:
        products = _native.channel_products(tensors, 1, instruction_set)
        np.testing.assert_allclose(products, expected, rtol=1e-13, strict=True)
        np.testing.assert_array_equal(products, np.swapaxes(products, 0, 1))
        for threads in (2, 5):
            again = _native.channel_products(tensors, threads, instruction_set)
            np.testing.assert_array_equal(again, products)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize(("count", "results"), [(1, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("shape", SHAPES)
def test_combinations_are_those_of_numpy(shape, count, results, dtype, tolerance):
    tensors = _tensors(shape, count, dtype)
    coefficients = np.random.default_rng(1).random((results, count + 1, shape[-1])).astype(dtype)
    expected = [
        sum(c * t for c, t in zip(row, [*tensors, np.ones(shape, dtype)], strict=True))
        for row in coefficients
    ]
    for instruction_set, threads in itertools.product(INSTRUCTION_SETS, (1, 3)):
        found = _native.channel_combinations(tensors, coefficients, threads, instruction_set)
        assert len(found) == results
        for values, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(values, wanted, rtol=tolerance, strict=True)


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ([], ValueError, "1 to 3 tensors, not 0"),
        ([np.ones(3)] * 4, ValueError, "1 to 3 tensors, not 4"),
        ([np.ones((0, 3))], ValueError, "at least one element"),
        ([np.array(1.0)], ValueError, "axis of channels"),
        ([np.ones((2, 3)), np.ones((3, 2))], ValueError, "must have the same"),
        ([np.ones(3), np.ones(3, np.float32)], TypeError, "channel_products"),
        ([np.ones((4, 4))[:, ::2]], TypeError, "channel_products"),
        ([np.ones(9, np.int8)[1:].view(np.float64)], ValueError, "not aligned"),
    ],
)
def test_bad_tensors_are_refused(tensors, error, message):
    with pytest.raises(error, match=message):
        _native.channel_products(tensors)


@pytest.mark.parametrize("shape", [(1, 2), (0, 2, 3), (1, 3, 3), (1, 2, 4)])
def test_coefficients_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="coefficients has shape"):
        _native.channel_combinations([np.ones((5, 3))], np.ones(shape))
