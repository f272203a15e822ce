from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import prospr_ops as po

# Few distinct values: ties everywhere, and −inf among them.
VALUES = st.sampled_from([-np.inf, -3.0, 0.0, 0.5, 0.5, 7.0])
ARRAYS = st.lists(
    npst.arrays(np.float32, npst.array_shapes(max_dims=3, max_side=6), elements=VALUES),
    min_size=1,
    max_size=4,
)


@given(arrays=ARRAYS, percent=st.integers(0, 99))
def test_global_matches_sorting(arrays, percent):
    scores = {str(i): array for i, array in enumerate(arrays)}
    masks = po.select(scores, percent / 100, allow_empty=True)
    size = sum(array.size for array in arrays)
    keep = -(-size * (100 - percent) // 100)  # the exact ceiling
    assert sum(mask.sum() for mask in masks.values()) == keep
    for mask, expected in zip(masks.values(), po.reference.select(arrays, keep), strict=True):
        np.testing.assert_array_equal(mask, expected)


@given(arrays=ARRAYS, percent=st.integers(0, 99))
def test_layer_scope_prunes_each_array_by_itself(arrays, percent):
    scores = {str(i): array for i, array in enumerate(arrays)}
    masks = po.select(scores, percent / 100, scope="layer")
    for array, mask in zip(arrays, masks.values(), strict=True):
        keep = -(-array.size * (100 - percent) // 100)
        np.testing.assert_array_equal(mask, po.reference.select([array], keep)[0])


@pytest.mark.parametrize("sparsity", ["0.7", "0.1", "0.95", "0.999", "0.3", "0"])
@pytest.mark.parametrize("size", [1, 10, 266_200, 1_000_003])
def test_count_is_exact_for_the_decimal_number(sparsity, size):
    """10 · (1 − 0.7) is 3.0000000000000004 in binary, and would keep 4."""
    masks = po.select({"w": np.arange(size, dtype=np.float32)}, float(sparsity))
    exact = size * (1 - Fraction(sparsity))
    assert masks["w"].sum() == -(-exact.numerator // exact.denominator)


def test_ties_go_to_the_lower_index_across_arrays():
    masks = po.select({"a": np.zeros((2, 2)), "b": np.zeros(4)}, 0.375)
    np.testing.assert_array_equal(masks["a"], np.ones((2, 2), bool))
    np.testing.assert_array_equal(masks["b"], [True, False, False, False])


def test_a_mask_that_would_empty_a_layer_is_refused_with_the_largest_sparsity():
    scores = {"small": np.array([0.0, -1.0]), "large": np.arange(1.0, 99.0)}
    with pytest.raises(ValueError, match=r"prune all of small; .* no layer empty is 0\.01 "):
        po.select(scores, 0.5)
    assert po.select(scores, 0.01)["small"].sum() == 1
    with pytest.raises(ValueError, match="small"):
        po.select(scores, 0.02)
    assert po.select(scores, 0.5, allow_empty=True)["small"].sum() == 0
    assert po.select(scores, 0.5, scope="layer")["small"].sum() == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (({"w": np.ones(3)}, -0.1), ValueError, "sparsity must be at least 0 and less than 1"),
        (({"w": np.ones(3)}, 1.0), ValueError, "sparsity must be at least 0 and less than 1"),
        (({"w": np.ones(3)}, float("nan")), ValueError, "not nan"),
        (({"w": np.ones(3)}, "0.5"), TypeError, "sparsity must be a number, not str"),
        (({"w": np.ones(3)}, 0.5, "local"), ValueError, "'global', 'layer', not 'local'"),
        (({"w": np.array([1, np.nan])}, 0.5), ValueError, "scores of w hold NaN"),
        (({"w": np.ones(3, int)}, 0.5), TypeError, "scores of w must be floats, not int64"),
        (({}, 0.5), ValueError, "empty"),
        (([np.ones(3)], 0.5), TypeError, "mapping"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        po.select(*arguments)
