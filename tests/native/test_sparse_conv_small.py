"""The kernels of sparse convolution of few samples on every instruction set and number of threads.

That they compute what they should is tests/ops/test_sparse_conv_small.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from prospr_ops import _native

INSTRUCTION_SETS = _native.build_info()["instruction_sets"]
IMAGE, WEIGHTS, SCALE, BIAS = np.ones((2, 2, 3, 2)), np.ones(2), np.ones(2), np.ones(2)
PATTERN = (np.array([0, 3], np.int32), np.array([0, 1, 2], np.int32))
MOVES = ((2, 1), (1, 1), (1, 1), False)


# In a frame, in rows per element of the filter, of all pixels alike, and of one.
@pytest.mark.parametrize(
    ("size", "channels", "filters", "moves"),
    [
        ((2, 17, 13), 19, 37, ((3, 3), (1, 1), (1, 1), True)),
        ((1, 9, 14), 5, 20, ((2, 3), (1, 1), (3, 2), False)),
        ((2, 17, 13), 17, 5, ((3, 2), (2, 3), (1, 1), True)),
        ((2, 11, 13), 3, 18, ((5, 5), (2, 1), (1, 1), True)),
        ((1, 2, 1), 3, 18, ((2, 7), (3, 9), (1, 1), True)),
        ((7, 4, 3), 33, 70, ((3, 3), (1, 1), (1, 1), True)),
        ((1, 2, 2), 33, 70, ((3, 3), (1, 1), (1, 1), True)),
        ((15, 1, 2), 3, 70, ((3, 3), (2, 2), (1, 1), True)),
        ((3, 1, 150), 21, 33, ((1, 1), (1, 1), (1, 1), False)),
        ((3, 1, 1), 21, 33, ((1, 1), (1, 1), (1, 1), False)),
        ((1, 1, 1), 90, 33, ((1, 1), (1, 1), (1, 1), False)),
        ((1, 5, 5), 4, 33, ((5, 5), (1, 1), (1, 1), False)),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_bits_for_every_number_of_threads(dtype, size, channels, filters, moves):
    random = np.random.default_rng(0)
    image = random.normal(size=(*size, channels)).astype(dtype)
    kept = random.random((filters, moves[0][0] * moves[0][1] * channels)) < 0.4
    taps = np.nonzero(kept)[1].astype(np.int32)
    splits = np.cumsum([0, *kept.sum(1)]).astype(np.int32)
    weights = random.normal(size=len(taps)).astype(dtype)
    scale, bias = random.normal(size=(2, filters)).astype(dtype)
    given = (image, weights, scale, bias, taps, splits, *moves)
    first = _native.sparse_conv_small(*given, 1, INSTRUCTION_SETS[0])
    for instruction_set in INSTRUCTION_SETS:
        outputs = [_native.sparse_conv_small(*given, n, instruction_set) for n in (1, 3)]
        np.testing.assert_array_equal(*outputs)
        scale = np.abs(first).max()
        np.testing.assert_allclose(outputs[0], first, atol=200 * scale * np.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": IMAGE[0]}, "image has shape .*; it must have 4 axes"),
        ({"taps": np.array([0, 4], np.int32)}, r"tap 1 is 4; it must be in \[0, 4\)"),
        ({"taps": np.array([-1, 0], np.int32)}, "tap 0 is -1"),
        ({"splits": np.array([0, 2, 1], np.int32)}, "split 2 is 1; the splits must rise"),
        ({"splits": np.array([], np.int32)}, "splits is empty"),
        ({"kernel_size": (3, 1)}, "spans 3 x 1 does not fit into an image of 2 x 3"),
        ({"strides": (1, 2**31)}, "both positive 32-bit numbers"),
        ({"weights": np.ones(3)}, r"weights has shape \[3\]; it must be \[2\]"),
        ({"scale": np.ones(1)}, r"scale has shape \[1\]; it must be \[2\]"),
        ({"bias": np.ones(3)}, r"bias has shape \[3\]; it must be \[2\]"),
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    arguments = {"image": IMAGE, "weights": WEIGHTS, "scale": SCALE, "bias": BIAS}
    arguments |= dict(zip(("taps", "splits"), PATTERN, strict=True))
    arguments |= dict(zip(("kernel_size", "strides", "dilations", "same"), MOVES, strict=True))
    with pytest.raises(ValueError, match=message):
        _native.sparse_conv_small(**arguments | changed)
