"""The kernels of sparse convolution on every instruction set and number of threads.

That they compute what they should is tests/ops/test_sparse_conv.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from prospr_ops import _native

INSTRUCTION_SETS = _native.build_info()["instruction_sets"]
PATTERN = (np.array([0, 3], np.int32), np.array([0, 1, 2], np.int32))
IMAGE, WEIGHTS, BIAS = np.ones((2, 2, 3, 2, 16)), np.ones(2), np.ones(2)
MOVES = ((2, 1), (1, 1), (1, 1), False)


# The second has weights in several passes over the channels; the third is unrolled.
@pytest.mark.parametrize(
    ("size", "channels", "row"), [((9, 7, 6), 5, 11), ((9, 7, 6), 40, 150), ((16, 2, 2), 5, 11)]
)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_bits_for_every_number_of_threads(dtype, stride, size, channels, row):
    random = np.random.default_rng(0)
    image = random.normal(size=(*size, channels, 16)).astype(dtype)
    taps = np.sort(random.choice(9 * channels, (8, row)), axis=1).astype(np.int32).ravel()
    splits = np.arange(0, 8 * row + 1, row, dtype=np.int32)
    weights, bias = random.normal(size=8 * row).astype(dtype), random.normal(size=8).astype(dtype)
    moves = ((3, 3), (stride, stride), (1, 1), True)
    order = np.argsort(taps % channels, kind="stable").astype(np.int32)
    by_channel = np.cumsum([0, *np.bincount(taps % channels, minlength=channels)]).astype(np.int32)
    filter_of = np.arange(8 * row) // row
    transposed = ((taps // channels * 8 + filter_of)[order].astype(np.int32), by_channel, order)
    first = None
    for instruction_set in INSTRUCTION_SETS:
        outputs = []
        for threads in (1, 3):
            output = _native.sparse_conv(
                image, weights, bias, taps, splits, *moves, threads, instruction_set
            )
            gradients = _native.sparse_conv_filter_gradient(
                image, output, taps, splits, *moves, threads, instruction_set
            )
            by_image = _native.sparse_conv_input_gradient(
                output, weights, *transposed, size[1:], *moves, threads, instruction_set
            )
            outputs.append([output, by_image, *gradients])
        for one, three in zip(*outputs, strict=True):
            np.testing.assert_array_equal(one, three)
        first = first or outputs[0]
        for one, other in zip(first, outputs[0], strict=True):
            scale = np.abs(one).max()
            np.testing.assert_allclose(one, other, rtol=0, atol=200 * scale * np.finfo(dtype).eps)


@pytest.mark.parametrize("samples", [0, 1, 16, 37])
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_blocks_and_back(samples, instruction_set):
    values = np.random.default_rng(0).normal(size=(samples, 21)).astype(np.float32)
    blocks = _native.to_blocks(values, 2, instruction_set)
    assert blocks.shape == (-(-samples // 16), 21, 16)
    flat = blocks.transpose(0, 2, 1).reshape(-1, 21)
    np.testing.assert_array_equal(flat[:samples], values)
    assert not flat[samples:].any()
    np.testing.assert_array_equal(_native.from_blocks(blocks, samples, 2, instruction_set), values)


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
        _native.sparse_conv(IMAGE, WEIGHTS, BIAS, *pattern, *MOVES)
    with pytest.raises(ValueError, match=message):
        _native.sparse_conv_filter_gradient(IMAGE, np.ones((2, 1, 3, 2, 16)), *pattern, *MOVES)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": IMAGE[0]}, "image has shape .*; it must have 5 axes"),
        ({"image": IMAGE[..., :8].copy()}, "it must be .*16"),
        ({"kernel_size": (3, 1)}, "spans 3 x 1 does not fit into an image of 2 x 3"),
        ({"dilations": (2, 1)}, "spans 3 x 1 does not fit"),
        ({"kernel_size": (0, 1)}, "both positive 32-bit numbers"),
        ({"strides": (1, 2**31)}, "both positive 32-bit numbers"),
        ({"weights": np.ones(3)}, r"weights has shape \[3\]; it must be \[2\]"),
        ({"bias": np.ones(3)}, r"bias has shape \[3\]; it must be \[2\]"),
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    arguments = {"image": IMAGE, "weights": WEIGHTS, "bias": BIAS}
    arguments |= dict(zip(("taps", "splits"), PATTERN, strict=True))
    arguments |= dict(zip(("kernel_size", "strides", "dilations", "same"), MOVES, strict=True))
    with pytest.raises(ValueError, match=message):
        _native.sparse_conv(**arguments | changed)


def test_a_transposed_pattern_that_does_not_fit_is_refused():
    gradient = np.ones((2, 1, 3, 2, 16))
    taps, splits, order = (np.array(x, np.int32) for x in ([0, 3], [0, 1, 2], [0, 2]))
    with pytest.raises(ValueError, match="order 1 is 2"):
        _native.sparse_conv_input_gradient(gradient, WEIGHTS, taps, splits, order, (2, 3), *MOVES)
