"""The kernels behind max-pooling, called on NumPy arrays, against loops over the windows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from prospr_ops import _native

INSTRUCTION_SETS = _native.build_info()["instruction_sets"]
# One window, rests to the right and below, long windows, channels that fill no vector, one or several.
CASES = [
    ((1, 2, 2, 1), (2, 2)),
    ((3, 5, 7, 3), (2, 2)),
    ((2, 6, 9, 5), (2, 3)),
    ((2, 4, 4, 16), (1, 1)),
    ((1, 16, 16, 4), (16, 16)),
    ((2, 8, 5, 37), (3, 1)),
    ((5, 4, 6, 70), (2, 2)),
]


def _images(shape, dtype):
    """Whole numbers, so that there are ties in most windows, and others."""
    random = np.random.default_rng(0)
    yield random.integers(-1, 2, shape).astype(dtype)
    yield random.normal(size=shape).astype(dtype)


def _windows(image, window):
    """Each window's elements in a row: [samples, rows, columns, channels, elements]."""
    (height, width), (samples, rows, columns, channels) = window, image.shape
    windows = np.empty(
        (samples, rows // height, columns // width, channels, height * width), image.dtype
    )
    for row, column in np.ndindex(windows.shape[1:3]):
        tile = image[:, row * height : (row + 1) * height, column * width : (column + 1) * width]
        windows[:, row, column] = np.moveaxis(tile.reshape(samples, -1, channels), 1, 2)
    return windows


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "window"), CASES)
def test_maxima_are_the_first_largest(shape, window, dtype):
    for image in _images(shape, dtype):
        elements = _windows(image, window)
        for instruction_set, threads in itertools.product(INSTRUCTION_SETS, (1, 3)):
            maxima, positions = _native.max_pool(image, window, threads, instruction_set)
            np.testing.assert_array_equal(maxima, elements.max(-1), strict=True)
            expected = elements.argmax(-1).astype(np.uint8)
            np.testing.assert_array_equal(positions, expected, strict=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "window"), CASES)
def test_unpooling_is_the_transpose_of_gathering(shape, window, dtype):
    """Both by definition, with positions outside of their windows among the others."""
    image = next(_images(shape, dtype))
    elements = _windows(image, window)
    random = np.random.default_rng(1)
    count = min(elements.shape[-1] + 2, 256)
    positions = random.integers(0, count, elements.shape[:-1]).astype(np.uint8)
    inside = positions < elements.shape[-1]
    chosen = np.where(inside, positions, 0)[..., np.newaxis]
    gathered = np.where(inside, np.take_along_axis(elements, chosen, -1)[..., 0], dtype(0))
    values = random.normal(size=positions.shape).astype(dtype)
    one_hot = np.arange(elements.shape[-1]) == positions[..., np.newaxis]
    for instruction_set, threads in itertools.product(INSTRUCTION_SETS, (1, 3)):
        found = _native.gather_pooled(image, positions, window, threads, instruction_set)
        np.testing.assert_array_equal(found, gathered, strict=True)
        spread = _native.max_unpool(values, positions, window, shape[1:3], threads, instruction_set)
        assert spread.shape == shape
        np.testing.assert_array_equal(
            _windows(spread, window), one_hot * values[..., np.newaxis], strict=True
        )
        assert np.count_nonzero(spread) == np.count_nonzero(inside)


@pytest.mark.parametrize("channels", [1, 20])
def test_a_nan_is_the_maximum(channels):
    for position in range(4):
        image = np.ones((1, 2, 2, channels), np.float32)
        image[0, position // 2, position % 2, 0] = np.nan
        for instruction_set in INSTRUCTION_SETS:
            maxima, positions = _native.max_pool(image, (2, 2), 1, instruction_set)
            np.testing.assert_array_equal(maxima.ravel(), [np.nan] + [1.0] * (channels - 1))
            np.testing.assert_array_equal(positions.ravel(), [position] + [0] * (channels - 1))


IMAGE = np.ones((2, 4, 6, 3))
POSITIONS = np.zeros((2, 2, 3, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "window", "error", "message"),
    [
        (IMAGE, (0, 2), ValueError, "a window of 0 x 2 was given; it must have 1 to 256"),
        (IMAGE, (2, -1), ValueError, "a window of 2 x -1 was given"),
        (IMAGE, (2**62, 4), ValueError, "1 to 256 elements"),
        (np.ones((1, 40, 40, 1)), (16, 17), ValueError, "16 x 17 was given"),
        (IMAGE, (5, 1), ValueError, "5 x 1 does not fit into an image of 4 x 6"),
        (IMAGE[0], (2, 2), ValueError, "image has shape .*4 axes"),
        (IMAGE.astype(np.float16), (2, 2), TypeError, "max_pool"),
        (IMAGE[:, ::2], (1, 1), TypeError, "max_pool"),
        (
            np.ones(193, np.int8)[1:].view(np.float64).reshape(1, 2, 3, 4),
            (1, 1),
            ValueError,
            "aligned",
        ),
    ],
)
def test_bad_images_and_windows_are_refused(image, window, error, message):
    with pytest.raises(error, match=message):
        _native.max_pool(image, window)


def test_what_does_not_fit_the_windows_is_refused():
    with pytest.raises(ValueError, match=r"positions has shape .*; it must be \["):
        _native.gather_pooled(IMAGE, POSITIONS[:1], (2, 2))
    with pytest.raises(ValueError, match=r"positions has shape .*; it must be \["):
        _native.max_unpool(np.ones(POSITIONS.shape), POSITIONS[:, :1].copy(), (2, 2), (4, 6))
    with pytest.raises(ValueError, match=r"values has shape .*; it must be \["):
        _native.max_unpool(np.ones(POSITIONS.shape), POSITIONS, (2, 2), (6, 6))
    with pytest.raises(ValueError, match="does not fit into an image of 1 x 6"):
        _native.max_unpool(np.ones(POSITIONS.shape), POSITIONS, (2, 2), (1, 6))
