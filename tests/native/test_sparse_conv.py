"""The kernels of sparse convolution, called on NumPy arrays, against sums by definition."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from prospr_ops import _native

INSTRUCTION_SETS = _native.build_info()["instruction_sets"]


class Case(NamedTuple):
    image: tuple[int, int, int, int]
    kernel_size: tuple[int, int]
    filters: int
    density: float


# Samples that fill no vector, one, several and some of the next; blocks of samples; columns that are
# fewer or more than are taken at once; dense layers; patterns that are full, and that are empty.
CASES = [
    Case((1, 1, 1, 1), (1, 1), 1, 1.0),
    Case((1, 1, 30, 7), (1, 1), 12, 0.2),
    Case((1, 1, 9, 100), (1, 1), 5, 0.5),
    Case((5, 6, 2, 20), (3, 3), 4, 0.4),
    Case((4, 12, 3, 37), (2, 5), 3, 0.3),
    Case((3, 5, 2, 133), (3, 1), 6, 1.0),
    Case((6, 4, 1, 65), (1, 4), 2, 0.0),
    Case((3, 3, 0, 5), (2, 2), 2, 0.5),
]


class Problem:
    """Numbers for a case, and what the kernels ought to make of them."""

    def __init__(self, case: Case, dtype: type) -> None:
        random = np.random.default_rng(0)
        height, width, channels, samples = case.image
        kept = random.random((case.filters, *case.kernel_size, channels)) < case.density
        filters = np.where(kept, random.normal(size=kept.shape), 0)
        self.splits = np.concatenate([[0], np.cumsum(kept.sum((1, 2, 3)))]).astype(np.int32)
        self.taps = np.nonzero(kept.reshape(case.filters, -1))[1].astype(np.int32)
        self.kernel_size = case.kernel_size
        rows, columns = (a - b + 1 for a, b in zip((height, width), case.kernel_size, strict=True))
        self.image = random.normal(size=case.image).astype(dtype)
        self.bias = random.normal(size=case.filters).astype(dtype)
        self.weights = filters[kept].astype(dtype)
        by_output = random.normal(size=(rows, columns, case.filters, samples))
        self.by_output = by_output.astype(dtype)
        # By the patch [i, j, c] below each position, in float64.
        output = np.broadcast_to(self.bias[:, np.newaxis], by_output.shape).astype(float)
        self.by_image, by_filters = np.zeros(case.image), np.zeros(kept.shape)
        for r, s in np.ndindex(rows, columns):
            patch = np.s_[r : r + case.kernel_size[0], s : s + case.kernel_size[1]]
            output[r, s] += np.einsum("fijc,ijcn->fn", filters, self.image[patch])
            self.by_image[patch] += np.einsum("fijc,fn->ijcn", filters, by_output[r, s])
            by_filters += np.einsum("fn,ijcn->fijc", by_output[r, s], self.image[patch])
        self.output, self.by_weights = output, by_filters[kept]
        self.by_bias = by_output.sum((0, 1, 3))

    def run(self, threads: int, instruction_set: str) -> list[np.ndarray]:
        pattern = (self.taps, self.splits, self.kernel_size)
        how = (threads, instruction_set)
        return [
            _native.sparse_conv(self.image, self.weights, self.bias, *pattern, *how),
            _native.sparse_conv_input_gradient(
                self.by_output, self.weights, *pattern, self.image.shape[2], *how
            ),
            *_native.sparse_conv_filter_gradient(self.image, self.by_output, *pattern, *how),
        ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_gradients_are_those_of_the_definition(case, dtype):
    problem = Problem(case, dtype)
    expected = [problem.output, problem.by_image, problem.by_weights, problem.by_bias]
    for instruction_set in INSTRUCTION_SETS:
        one = problem.run(1, instruction_set)
        for values, exact in zip(one, expected, strict=True):
            assert values.dtype == dtype
            assert values.shape == exact.shape
            largest = np.abs(exact).max(initial=1)
            np.testing.assert_allclose(
                values, exact, rtol=0, atol=100 * largest * np.finfo(dtype).eps
            )
        for values, again in zip(problem.run(3, instruction_set), one, strict=True):
            np.testing.assert_array_equal(values, again)


def test_taps_in_any_order_and_twice():
    image = np.arange(6.0).reshape(1, 1, 6, 1)
    weights, bias = np.array([1.0, 10, 100, 1000]), np.array([0.5, 0.25, 0])
    taps, splits = np.array([5, 2, 2, 1], np.int32), np.array([0, 3, 3, 4], np.int32)
    output = _native.sparse_conv(image, weights, bias, taps, splits, (1, 1))
    np.testing.assert_array_equal(output.ravel(), [0.5 + 5 + 20 + 200, 0.25, 1000])
    by_image = _native.sparse_conv_input_gradient(output, weights, taps, splits, (1, 1), 6)
    np.testing.assert_array_equal(by_image.ravel(), [0, 1e6, 110 * 225.5, 0, 0, 225.5])


PATTERN = (np.array([0, 3], np.int32), np.array([0, 1, 2], np.int32))
IMAGE, WEIGHTS, BIAS = np.ones((2, 3, 2, 5)), np.ones(2), np.ones(2)


@pytest.mark.parametrize(
    ("taps", "splits", "message"),
    [
        ([0, 4], [0, 1, 2], r"tap 1 is 4; it must be in \[0, 4\)"),
        ([-1, 0], [0, 1, 2], "tap 0 is -1"),
        ([0, 1], [0, 2, 1], "split 2 is 1; the splits must rise from 0 to the number"),
        ([0, 1], [1, 1, 2], "split 0 is 1"),
        ([0, 1], [0, 1, 1], "split 2 is 1"),
        ([0, 1], [0, 3, 2], "split 1 is 3"),
        ([0, 1], [0, -1, 2], "split 1 is -1"),
        ([0, 1], [], "splits is empty"),
        ([[0, 1]], [0, 1, 2], r"taps has shape .*; it must have 1 axis"),
    ],
)
def test_bad_patterns_are_refused(taps, splits, message):
    pattern = (np.array(taps, np.int32), np.array(splits, np.int32))
    with pytest.raises(ValueError, match=message):
        _native.sparse_conv(IMAGE, WEIGHTS, BIAS, *pattern, (2, 1))
    with pytest.raises(ValueError, match=message):
        _native.sparse_conv_input_gradient(np.ones((1, 3, 2, 5)), WEIGHTS, *pattern, (2, 1), 2)
    with pytest.raises(ValueError, match=message):
        _native.sparse_conv_filter_gradient(IMAGE, np.ones((1, 3, 2, 5)), *pattern, (2, 1))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": IMAGE[0]}, "image has shape .*; it must have 4 axes"),
        ({"kernel_size": (3, 1)}, "a filter of 3 x 1 does not fit into an image of 2 x 3"),
        ({"kernel_size": (0, 1)}, "0 x 1 does not fit"),
        ({"weights": np.ones(3)}, r"weights has shape \[3\]; it must be \[2\]"),
        ({"bias": np.ones(3)}, r"bias has shape \[3\]; it must be \[2\]"),
        (
            {"image": np.ones((2**17, 2**17, 0, 1)), "kernel_size": (2**17, 2**17)},
            "it must have 0 to 2147483647 elements",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    arguments = {"image": IMAGE, "weights": WEIGHTS, "bias": BIAS, "kernel_size": (2, 1)}
    arguments |= dict(zip(("taps", "splits"), PATTERN, strict=True))
    with pytest.raises(ValueError, match=message):
        _native.sparse_conv(**arguments | changed)


def test_gradients_of_another_shape_are_refused():
    wrong = np.ones((2, 3, 2, 5))
    with pytest.raises(ValueError, match=r"output_gradient has shape .*; it must be \["):
        _native.sparse_conv_filter_gradient(IMAGE, wrong, *PATTERN, (2, 1))
    with pytest.raises(ValueError, match=r"output_gradient has shape .*; it must be \["):
        _native.sparse_conv_input_gradient(wrong[:, :, :1].copy(), WEIGHTS, *PATTERN, (2, 1), 2)


@pytest.mark.parametrize("size", [(2**63 - 1, 1), (1, -(2**63)), (0, 1), (1, 2**31)])
def test_sizes_that_no_filter_has_are_refused(size):
    with pytest.raises(ValueError, match="a height and a width, both positive 32-bit numbers"):
        _native.sparse_conv_input_gradient(np.ones((1, 3, 2, 5)), WEIGHTS, *PATTERN, size, 2)


def test_a_negative_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="2 x 1 x -2 was given"):
        _native.sparse_conv_input_gradient(np.ones((1, 3, 2, 5)), WEIGHTS, *PATTERN, (2, 1), -2)


def test_another_dtype_is_no_silent_copy():
    for wrong in (IMAGE.astype(np.float16), IMAGE[:, ::2]):
        with pytest.raises(TypeError, match="sparse_conv"):
            _native.sparse_conv(wrong, WEIGHTS, BIAS, *PATTERN, (2, 1))
