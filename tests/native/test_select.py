"""The selection kernel, called on NumPy arrays, against its twin, which sorts."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from selections import large_arrays, selections

import prospr_ops
from prospr_ops import _native

INSTRUCTION_SETS = _native.build_info()["instruction_sets"]
# The twin needs no TensorFlow; the package that it is in does.
sorted_selection = runpy.run_path(
    str(Path(prospr_ops.__file__).parent / "reference" / "selection.py")
)["select"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(data=st.data())
def test_native_matches_sorting(dtype, data):
    arrays, keep, min_keep = data.draw(selections(dtype))
    expected = sorted_selection(arrays, keep, min_keep)
    assert sum(np.count_nonzero(mask) for mask in expected) == keep
    for instruction_set, threads in itertools.product(INSTRUCTION_SETS, (1, 3)):
        options = {"threads": threads, "instruction_set": instruction_set}
        masks = _native.select(arrays, keep, min_keep, **options)
        packed = _native.select(arrays, keep, min_keep, packed=True, **options)
        for mask, bits, wanted in zip(masks, packed, expected, strict=True):
            assert mask.dtype == np.bool_
            np.testing.assert_array_equal(mask, wanted, strict=True)
            np.testing.assert_array_equal(bits, np.packbits(wanted), strict=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([np.ones(3)], 4), ValueError, "keep is 4; it must be at least 0 and at most 3"),
        (([np.ones(3)], 1, -1), ValueError, "min_keep is -1"),
        (([np.ones(3), np.ones(0)], 1), ValueError, r"scores\[1\] is empty"),
        (([np.ones(3), np.array([np.nan])], 1), ValueError, r"scores\[1\] holds NaN"),
        (([np.ones(3), np.ones(3, np.float32)], 1), TypeError, "select"),
        (([np.ones((4, 4))[:, ::2]], 1), TypeError, "select"),
        (([np.ones(3)], 1, 0, False, 0), ValueError, "threads must be at least 1"),
        (([np.ones(3)], 1, 0, False, 1, "mmx"), ValueError, "'mmx' is not one of"),
        (([np.ones(9, np.int8)[1:].view(np.float64)], 1), ValueError, "scores is not aligned"),
    ],
)
def test_native_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        _native.select(*arguments)


@pytest.mark.parametrize("position", [0, 63, 64, 99, 40_000])
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_nan_is_found_anywhere(position, instruction_set):
    for keep, nan in itertools.product((0, 1, 50_000), (np.nan, -np.nan)):
        scores = np.arange(50_000, dtype=np.float32)
        scores[position] = nan
        with pytest.raises(ValueError, match=r"scores\[0\] holds NaN"):
            _native.select([scores], keep, instruction_set=instruction_set)


@pytest.mark.parametrize("kind", large_arrays())
def test_large_arrays_match_sorting_for_every_number_of_threads(kind):
    whole = large_arrays()[kind]
    arrays = np.split(whole, [1, 40_000, 40_007])
    for keep in (0, 1, 5_000, 10_000, 50_000, 100_002, 100_003):
        expected = sorted_selection(arrays, keep)
        for threads, instruction_set in itertools.product((1, 2, 3), INSTRUCTION_SETS):
            masks = _native.select(arrays, keep, threads=threads, instruction_set=instruction_set)
            for mask, wanted in zip(masks, expected, strict=True):
                np.testing.assert_array_equal(mask, wanted)
