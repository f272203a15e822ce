"""The selection op and public function against their twin, which sorts; the kernel: native/."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from selections import large_arrays, selections

import prospr_ops as po
from prospr_ops import ops, reference

# Few distinct values: ties everywhere, and −inf among them.
VALUES = st.sampled_from([-np.inf, -3.0, 0.0, 0.5, 0.5, 7.0])
ARRAYS = st.lists(
    npst.arrays(np.float32, npst.array_shapes(max_dims=3, max_side=6), elements=VALUES),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@given(data=st.data())
def test_op_matches_sorting(dtype, data):
    arrays, keep, min_keep = data.draw(selections(np.float32))
    with np.errstate(over="ignore"):
        arrays = [array.astype(dtype) for array in arrays]
    expected = reference.select([array.astype(np.float64) for array in arrays], keep, min_keep)
    masks = ops.select(arrays, keep, min_keep=min_keep)
    packed = ops.select(arrays, tf.constant(keep), min_keep=min_keep, packed=True)
    for mask, bits, wanted in zip(masks, packed, expected, strict=True):
        np.testing.assert_array_equal(mask, wanted, strict=True)
        np.testing.assert_array_equal(bits, np.packbits(wanted), strict=True)


@pytest.mark.parametrize("kind", large_arrays())
def test_op_on_large_arrays_matches_sorting(kind):
    """TensorFlow's threads flush subnormal numbers."""
    arrays = np.split(large_arrays()[kind], [1, 40_000, 40_007])
    for keep in (0, 1, 5_000, 10_000, 50_000, 100_002, 100_003):
        expected = reference.select(arrays, keep)
        for mask, wanted in zip(ops.select(arrays, keep), expected, strict=True):
            np.testing.assert_array_equal(mask, wanted)


def test_min_keep_that_takes_several_rounds():
    """Each array that gets its share takes it from the next one."""
    arrays = [np.full(10, -float(i), np.float32) for i in range(8)]
    expected = reference.select(arrays, 20, 2)
    assert [np.count_nonzero(mask) for mask in expected] == [6, 2, 2, 2, 2, 2, 2, 2]
    for mask, wanted in zip(ops.select(arrays, 20, min_keep=2), expected, strict=True):
        np.testing.assert_array_equal(mask, wanted)


def test_op_in_a_graph_with_unknown_shapes():
    @tf.function(
        input_signature=[
            tf.TensorSpec(None, tf.float32),
            tf.TensorSpec([None, 2], tf.float32),
            tf.TensorSpec([3, 3], tf.float32),
            tf.TensorSpec([], tf.int32),
        ]
    )
    def both(a, b, c, keep):
        masks = ops.select([a, b, c], keep)
        packed = ops.select([a, b, c], keep, packed=True)
        assert masks[0].shape.rank is None
        assert [mask.shape.as_list() for mask in masks[1:]] == [[None, 2], [3, 3]]
        assert [mask.shape.as_list() for mask in packed] == [[None], [None], [2]]
        return masks, packed

    arrays = [np.array(3, np.float32), np.ones((2, 2), np.float32), np.eye(3, dtype=np.float32)]
    masks, packed = both(*arrays, 6)
    for mask, bits, wanted in zip(masks, packed, reference.select(arrays, 6), strict=True):
        np.testing.assert_array_equal(mask, wanted)
        np.testing.assert_array_equal(bits, np.packbits(wanted))


ONES = tf.ones([2, 2])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([ONES], 5), ValueError, "keep is 5; it must be at least 0 and at most 4"),
        (([ONES], -1), ValueError, "keep must be at least 0, not -1"),
        (([ONES], tf.constant(-1)), ValueError, "keep is -1; it must be at least 0"),
        (([ONES], 2**63), ValueError, "out-of-range integer"),
        (([ONES], 2.0), TypeError, "keep must be an integer, not float"),
        (([ONES], True), TypeError, "keep must be an integer, not bool"),
        (([ONES], tf.constant(2.0)), TypeError, "keep must be an integer, not a tensor of float32"),
        (([ONES], tf.constant([2])), ValueError, r"rank 0|scalar"),
        (([ONES], 2, -1), ValueError, "min_keep must be at least 0"),
        (([ONES], 2, 0.5), TypeError, "min_keep must be an integer, not float"),
        (([ONES, ONES], 5, 3), ValueError, "min_keep is 3, which keeps 6 scores of 2 tensors"),
        (([ONES, tf.constant([1.0, np.nan])], 1), ValueError, r"select: .*scores\[1\] holds NaN"),
        (([ONES, tf.constant([-np.nan])], 0), ValueError, r"scores\[1\] holds NaN"),
        (([ONES, tf.zeros([0, 3])], 1), ValueError, r"scores\[1\] is empty"),
        (([], 0), ValueError, "scores is empty"),
        ((ONES, 1), TypeError, "scores must be a list of tensors, not EagerTensor"),
        (([tf.ones(2, tf.int32)], 1), ValueError, r"scores\[0\] has dtype int32; .* float16"),
        (([ONES, tf.ones(2, tf.float64)], 1), ValueError, r"scores\[1\] has dtype float64; .*32"),
    ],
)
def test_op_refuses_bad_arguments(arguments, error, message):
    scores, keep, *min_keep = arguments
    with pytest.raises(error, match=message):
        ops.select(scores, keep, min_keep=min_keep[0] if min_keep else 0)


@given(arrays=ARRAYS, percent=st.integers(0, 99))
def test_global_matches_sorting(arrays, percent):
    scores = {str(i): array for i, array in enumerate(arrays)}
    masks = po.select(scores, percent / 100)
    size = sum(array.size for array in arrays)
    keep = -(-size * (100 - percent) // 100)  # the exact ceiling
    assert sum(mask.sum() for mask in masks.values()) == keep
    for mask, expected in zip(masks.values(), reference.select(arrays, keep), strict=True):
        np.testing.assert_array_equal(mask, expected)


@given(arrays=ARRAYS, percent=st.integers(0, 99))
def test_layer_scope_prunes_each_array_by_itself(arrays, percent):
    scores = {str(i): array for i, array in enumerate(arrays)}
    masks = po.select(scores, percent / 100, scope="layer")
    for array, mask in zip(arrays, masks.values(), strict=True):
        keep = -(-array.size * (100 - percent) // 100)
        np.testing.assert_array_equal(mask, reference.select([array], keep)[0])


@given(arrays=ARRAYS, percent=st.integers(0, 99), min_keep=st.integers(0, 9))
def test_min_keep_of_every_array(arrays, percent, min_keep):
    scores = {str(i): array for i, array in enumerate(arrays)}
    least = [min(min_keep, array.size) for array in arrays]
    size = sum(array.size for array in arrays)
    keep = -(-size * (100 - percent) // 100)
    if sum(least) <= keep:
        masks = po.select(scores, percent / 100, min_keep=min_keep)
        for mask, wanted in zip(
            masks.values(), reference.select(arrays, keep, min_keep), strict=True
        ):
            np.testing.assert_array_equal(mask, wanted)
    else:
        with pytest.raises(ValueError, match=f"min_keep={min_keep} keeps {sum(least)} of the"):
            po.select(scores, percent / 100, min_keep=min_keep)

    by_layer = po.select(scores, percent / 100, "layer", min_keep=min_keep)
    for array, mask, floor in zip(arrays, by_layer.values(), least, strict=True):
        assert mask.sum() == max(floor, -(-array.size * (100 - percent) // 100))


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


def test_an_array_may_be_left_without_a_weight():
    scores = {"small": np.zeros(2, np.float32), "large": np.ones(200, np.float32)}
    assert po.select(scores, 0.5)["small"].sum() == 0
    assert po.select(scores, 0.5, min_keep=1)["small"].sum() == 1


def test_takes_tensors_and_arrays_of_any_layout_and_width():
    values = np.arange(12.0).reshape(3, 4)
    arrays = {
        "tensor": tf.constant(values, tf.float32),
        "fortran": np.asfortranarray(values),
        "half": values.astype(np.float16),
        "big-endian": values.astype(">f8"),
        "scalar": np.float32(11),
        "strided": np.repeat(values, 2, axis=1)[:, ::2],
    }
    masks = po.select(arrays, 0.8)
    expected = reference.select([np.asarray(array, np.float64) for array in arrays.values()], 13)
    for mask, wanted in zip(masks.values(), expected, strict=True):
        np.testing.assert_array_equal(mask, wanted, strict=True)


def test_needs_no_tensorflow():
    script = (
        "import sys, numpy as np, prospr_ops as po; po.select({'w': np.arange(4.0)}, 0.5); "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (({"w": np.ones(3)}, -0.1), ValueError, "sparsity must be at least 0 and less than 1"),
        (({"w": np.ones(3)}, 1.0), ValueError, "sparsity must be at least 0 and less than 1"),
        (({"w": np.ones(3)}, float("nan")), ValueError, "not nan"),
        (({"w": np.ones(3)}, "0.5"), TypeError, "sparsity must be a number, not str"),
        (({"w": np.ones(3)}, 0.5, "local"), ValueError, "'global', 'layer', 'erk', not 'local'"),
        (({"w": np.array([1, np.nan])}, 0.5), ValueError, "scores of w hold NaN"),
        (({"w": np.ones(3, int)}, 0.5), TypeError, "scores of w must be floats, not int64"),
        (
            ({"v": np.ones(3), "w": np.array([1, np.nan])}, 0.5, "layer"),
            ValueError,
            "scores of w hold NaN",
        ),
        (({"w": np.ones(3, np.longdouble)}, 0.5), TypeError, "at most 64 bits"),
        (({}, 0.5), ValueError, "empty"),
        (({"v": np.ones(3), "w": np.ones((0, 2))}, 0.5), ValueError, r"scores of w is empty.*0, 2"),
        (([np.ones(3)], 0.5), TypeError, "mapping"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        po.select(*arguments)


@pytest.mark.parametrize(
    ("min_keep", "error", "message"),
    [
        (-1, ValueError, "min_keep must be at least 0, not -1"),
        (1.5, TypeError, "min_keep must be an integer, not float"),
        (3, ValueError, "min_keep=3 keeps 3 of the 3 weights, but sparsity 0.5 leaves only 2"),
    ],
)
def test_bad_min_keep(min_keep, error, message):
    with pytest.raises(error, match=message):
        po.select({"w": np.ones(3)}, 0.5, min_keep=min_keep)
