"""The curvature ops against their twins, and what they and the kernels refuse; the kernels: native/."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from convolutions import arrays_of
from curvature_calls import POOLED_SHAPES, SHAPES, pooled_calls

from prospr_ops import _native, ops, reference


# Every path of the contraction: many positions, few of them (pairs), one, so many that they are taken
# in parts, small and large patches, several chunks and blocks.
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_convolution_op(shape, dtype):
    samples, columns, size, channels, outputs, kernel, strides, dilations, padding, groups = shape
    conv = {
        "samples": samples,
        "columns": columns,
        "size": size,
        "kernel": kernel,
        "strides": strides,
        "dilations": dilations,
        "padding": padding,
        "inputs": channels,
        "outputs": outputs,
        "seed": 0,
    }
    depthwise = groups > 1 and groups == channels
    inputs, factors = (tf.cast(array, dtype) for array in arrays_of(conv, np.float64))
    result = ops.conv_curvature(
        inputs,
        factors,
        kernel,
        strides=strides,
        padding=padding,
        dilation_rate=dilations,
        groups=1 if depthwise else groups,
        depthwise=depthwise,
    )
    wide = tf.float64
    twin, scale = (
        reference.conv_curvature(
            f(tf.cast(inputs, wide)),
            f(tf.cast(factors, wide)),
            kernel,
            strides=strides,
            padding=padding,
            dilation_rate=dilations,
            groups=groups,
            depthwise=depthwise,
        )
        for f in (tf.identity, tf.abs)
    )
    assert result.shape == twin.shape
    assert result.dtype == (tf.float64 if dtype == "float64" else tf.float32)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    assert tf.reduce_all(tf.abs(tf.cast(result, wide) - twin) <= tolerance * scale)


@pytest.mark.parametrize("shape", POOLED_SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pooled_convolution_ops(shape, dtype):
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    for name, arrays, last, options in pooled_calls(shape):
        arguments = [tf.constant(array, dtype) for array in arrays]
        result = getattr(ops, name)(*arguments, last, **options)
        assert result.dtype == dtype
        graph = tf.function(getattr(ops, name))(*arguments, last, **options)
        np.testing.assert_array_equal(graph, result)
        wide = [tf.cast(array, tf.float64) for array in arguments]
        twin = getattr(reference, name)(*wide, last, **options)
        scale = getattr(reference, name)(*map(tf.abs, wide), last, **options)
        assert result.shape == twin.shape
        assert tf.reduce_all(tf.abs(tf.cast(result, tf.float64) - twin) <= tolerance * scale)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("middle", [(), (3,), (50,), (4, 5)])
def test_dense_and_embedding_ops(dtype, middle):
    rng = np.random.default_rng(0)
    inputs = tf.cast(rng.standard_normal((8, *middle, 20)), dtype)
    factors = tf.cast(rng.standard_normal((6, 8, *middle, 14)), dtype)
    indices = rng.integers(0, 20, (8, *middle))
    wide = tf.cast(factors, tf.float64)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    for result, one_input, twin in (
        (ops.dense_curvature(inputs, factors), tf.cast(inputs, tf.float64), "dense"),
        (ops.embedding_curvature(indices, factors, 20), indices, "embedding"),
        (ops.embedding_curvature(indices.astype(np.int32), factors, 20), indices, "embedding"),
    ):
        if twin == "dense":
            wanted = reference.dense_curvature(one_input, wide)
            scale = reference.dense_curvature(tf.abs(one_input), tf.abs(wide))
        else:
            wanted = reference.embedding_curvature(one_input, wide, 20)
            scale = reference.embedding_curvature(one_input, tf.abs(wide), 20)
        error = tf.abs(tf.cast(result, tf.float64) - wanted)
        assert tf.reduce_all(error <= tolerance * scale)


def test_half_is_widened_exactly():
    # Every finite half, alone in its sample; subnormal ones included.
    bits = np.arange(2**16, dtype=np.uint16)
    for values in (bits.view(np.float16), bits.view(tf.bfloat16.as_numpy_dtype)):
        wide = values.astype(np.float32)
        kept = np.isfinite(wide) & (np.abs(wide) < 1e15) & ((np.abs(wide) > 1e-15) | (wide == 0))
        ones = np.ones((1, 1, 1), values.dtype)
        result = ops.dense_curvature(ones[0], values[kept].reshape(1, 1, -1))
        np.testing.assert_allclose(result[0], np.square(wide[kept]), rtol=1e-6)


@pytest.mark.parametrize("in_graph", [False, True])
def test_accumulator_is_added_to(in_graph):
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((8, 5, 6)).astype(np.float32)
    factors = rng.standard_normal((10, 8, 5, 7)).astype(np.float32)

    def in_two_calls(inputs, factors):
        half = ops.dense_curvature(inputs, factors[:4])
        whole = ops.dense_curvature(inputs, factors[4:], half)
        return half, whole

    half, whole = (tf.function(in_two_calls) if in_graph else in_two_calls)(inputs, factors)
    # The first result was not overwritten by the second call.
    np.testing.assert_array_equal(half, ops.dense_curvature(inputs, factors[:4]))
    np.testing.assert_allclose(whole, ops.dense_curvature(inputs, factors), rtol=1e-5)


def test_unknown_shapes_in_a_graph():
    rng = np.random.default_rng(0)
    inputs = tf.constant(rng.standard_normal((8, 5, 6)), tf.float32)
    factors = tf.constant(rng.standard_normal((10, 8, 5, 7)), tf.float32)
    loose = tf.function(
        ops.dense_curvature,
        input_signature=[
            tf.TensorSpec([None, None, None], tf.float32),
            tf.TensorSpec([None, None, None, None], tf.float32),
        ],
    )
    np.testing.assert_array_equal(loose(inputs, factors), ops.dense_curvature(inputs, factors))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[10,8,5,7\]"):
        loose(inputs[:, :4], factors)


def zeros(*shape):
    return np.zeros(shape, np.float32)


BAD_DENSE = {
    "rank": (zeros(4), zeros(2, 4, 3), zeros(4, 3), r"inputs has shape \[4\]"),
    "samples": (zeros(4, 5), zeros(2, 3, 6), zeros(5, 6), r"factors has shape \[2,3,6\]"),
    "middle": (zeros(4, 7, 5), zeros(2, 4, 6, 6), zeros(5, 6), r"\[2,4,6,6\].*\[4,7,5\]"),
    "factors rank": (zeros(4, 7, 5), zeros(2, 4, 6), zeros(5, 6), r"\[2,4,6\]"),
    "accumulator": (zeros(4, 5), zeros(2, 4, 6), zeros(6, 5), r"\[6,5\].*\[5,6\]"),
    "accumulator rank": (zeros(4, 5), zeros(2, 4, 6), zeros(30), r"\[30\].*\[5,6\]"),
    "no samples": (zeros(0, 5), zeros(2, 0, 6), zeros(5, 6), r"\[0,5\]; at least one element"),
    "no columns": (zeros(4, 5), zeros(0, 4, 6), zeros(5, 6), r"\[0,4,6\]; at least one element"),
    "no inputs": (zeros(4, 0), zeros(2, 4, 6), zeros(0, 6), r"\[4,0\]; at least one element"),
    "no positions": (zeros(4, 0, 5), zeros(2, 4, 0, 6), zeros(5, 6), "at least one element"),
}


@pytest.mark.parametrize("bad", BAD_DENSE)
def test_bad_dense(bad):
    *arrays, message = BAD_DENSE[bad]
    with pytest.raises(ValueError, match=message):
        _native.dense_curvature(*arrays)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops._library.library.prospr_dense_curvature(*arrays)
    with pytest.raises(ValueError, match=message):
        tf.function(ops._library.library.prospr_dense_curvature)(*arrays)


GOOD_CONV = {
    "inputs": zeros(2, 8, 8, 4),
    "factors": zeros(3, 2, 6, 6, 6),
    "accumulator": zeros(3, 3, 4, 6),
    "strides": [1, 1],
    "dilations": [1, 1],
    "padding": "valid",
    "groups": 1,
}
BAD_CONV = {
    "rank": ({"inputs": zeros(2, 8, 4)}, r"inputs has shape \[2,8,4\]"),
    "accumulator rank": ({"accumulator": zeros(3, 4, 6)}, r"accumulator has shape \[3,4,6\]"),
    "factors rank": ({"factors": zeros(3, 2, 6, 6)}, r"factors has shape \[3,2,6,6\]"),
    "samples": ({"factors": zeros(3, 1, 6, 6, 6)}, r"\[3,1,6,6,6\].*\[2,6,6,6\]"),
    "output size": ({"factors": zeros(3, 2, 6, 7, 6)}, r"\[3,2,6,7,6\].*\[2,6,6,6\]"),
    "outputs": ({"factors": zeros(3, 2, 6, 6, 5)}, r"\[3,2,6,6,5\].*\[2,6,6,6\]"),
    "channels": ({"accumulator": zeros(3, 3, 3, 6)}, r"\[3,3,3,6\].*4 input channels"),
    "stride": ({"strides": [1, 0]}, r"strides are \[1,0\]"),
    "negative stride": ({"strides": [-1, 1]}, r"strides are \[-1,1\]"),
    "huge stride": ({"strides": [2**62, 1]}, "strides are"),
    "dilation": ({"dilations": [0, 1]}, r"dilations are \[0,1\]"),
    "huge dilation": ({"dilations": [1, 2**62]}, "dilations are"),
    "wide dilation": ({"dilations": [1, 9]}, "fewer than the 19"),
    "padded dilation": (
        {"dilations": [1, 2**30], "padding": "same", "factors": zeros(3, 2, 8, 8, 6)},
        "too many zeros",
    ),
    "strides": ({"strides": [1]}, r"strides \[1\] and dilations \[1,1\]"),
    "axes": ({"strides": [1] * 4, "dilations": [1] * 4}, "1, 2 or 3 elements"),
    "no axes": ({"strides": [], "dilations": []}, "1, 2 or 3 elements"),
    "causal": ({"padding": "causal"}, "not 2"),
    "groups": ({"groups": 3}, "groups is 3.* 4 input.* 6 output"),
    "no groups": ({"groups": 0}, "groups is 0"),
    "groups of channels": ({"groups": 2}, "divided by 2 groups"),
    "kernel": ({"accumulator": zeros(9, 3, 4, 6)}, "8 elements on spatial axis 0, fewer than.* 9"),
    "empty kernel": ({"accumulator": zeros(0, 3, 4, 6)}, "at least one element"),
    "no samples": ({"inputs": zeros(0, 8, 8, 4)}, "at least one element"),
    "no columns": ({"factors": zeros(0, 2, 6, 6, 6)}, "at least one element"),
    "no channels": ({"inputs": zeros(2, 8, 8, 0)}, "at least one element"),
}


@pytest.mark.parametrize("bad", BAD_CONV)
def test_bad_convolution(bad):
    changes, message = BAD_CONV[bad]
    arguments = {**GOOD_CONV, **changes}
    with pytest.raises(ValueError, match=message):
        _native.conv_curvature(**arguments)
    arguments["padding"] = arguments["padding"].upper()
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops._library.library.prospr_conv_curvature(**arguments)
    with pytest.raises(ValueError, match=message):
        tf.function(lambda: ops._library.library.prospr_conv_curvature(**arguments))()


def test_good_convolution():
    _native.conv_curvature(**GOOD_CONV)


GOOD_POOLED = {
    "inputs": zeros(2, 8, 8, 4),
    "kernel": zeros(3, 3, 4, 6),
    "factors": zeros(3, 2, 3, 2, 6),
    "derivative": zeros(2, 6, 6, 6),
    "strides": [1, 1],
    "dilations": [1, 1],
    "padding": "valid",
    "groups": 1,
}
BAD_POOLED = {
    "kernel rank": ({"kernel": zeros(3, 4, 6)}, r"\[3,4,6\]"),
    "factors rank": ({"factors": zeros(3, 2, 3, 6)}, r"factors has shape \[3,2,3,6\]"),
    "scalar": ({"factors": zeros(3)}, r"factors has shape \[3\]"),
    "windows": ({"factors": zeros(3, 2, 4, 2, 6)}, r"\[3,2,4,2,6\].*divide.*\[2,6,6,6\]"),
    "more windows": ({"factors": zeros(3, 2, 12, 2, 6)}, r"\[3,2,12,2,6\].*divide"),
    "no windows": ({"factors": zeros(3, 2, 0, 2, 6)}, "at least one element"),
    "outputs": ({"factors": zeros(3, 2, 3, 2, 5)}, r"\[3,2,3,2,5\]"),
    "derivative": ({"derivative": zeros(2, 6, 5, 6)}, r"\[2,6,5,6\].*\[2,6,6,6\]"),
    "derivative rank": ({"derivative": zeros(2, 6, 6)}, r"derivative has shape \[2,6,6\]"),
    "groups": ({"groups": 4}, "groups"),
    "many groups": ({"groups": 2**62}, "groups"),
    "stride": ({"strides": [1, 0]}, r"strides are \[1,0\]"),
    "causal": ({"padding": "causal"}, "not 2"),
}


@pytest.mark.parametrize("bad", BAD_POOLED)
def test_bad_pooled_convolution(bad):
    changes, message = BAD_POOLED[bad]
    curvature = {**GOOD_POOLED, **changes}
    gradient = {**curvature, "input_size": [8, 8]}
    del gradient["inputs"]
    curvature["accumulator"] = curvature.pop("kernel")
    for name, arguments in (
        ("pooled_conv_curvature", curvature),
        ("pooled_conv_input_gradient", gradient),
    ):
        with pytest.raises(ValueError, match=message):
            getattr(_native, name)(**arguments)
        in_op = {**arguments, "padding": arguments["padding"].upper()}
        op = getattr(ops._library.library, f"prospr_{name}")
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            op(**in_op)
        with pytest.raises(ValueError, match=message):
            tf.function(lambda op=op, in_op=in_op: op(**in_op))()


@pytest.mark.parametrize("input_size", [[8], [8, 0], [8, -1], [2**40, 8], [2**31 - 1, 2**31 - 1]])
def test_bad_input_size(input_size):
    with pytest.raises(ValueError, match=r"inputs has shape|input_size|derivative has shape"):
        _native.pooled_conv_input_gradient(
            zeros(3, 3, 4, 6), zeros(3, 2, 3, 2, 6), zeros(2, 6, 6, 6), input_size, [1, 1], [1, 1]
        )


INDICES = np.zeros((2, 5), np.int64)
BAD_EMBEDDING = {
    "negative": (INDICES - 1, zeros(3, 2, 5, 4), zeros(7, 4), "indices has -1 at position 0"),
    "too large": (INDICES + 7, zeros(3, 2, 5, 4), zeros(7, 4), "has 7 at.*less than 7"),
    "rank": (INDICES[0, 0], zeros(3, 4), zeros(7, 4), r"indices has shape \[\]"),
    "positions": (INDICES, zeros(3, 2, 4, 4), zeros(7, 4), r"\[3,2,4,4\].*\[2,5\]"),
    "accumulator": (INDICES, zeros(3, 2, 5, 4), zeros(7, 5), r"\[7,5\].*vocabulary, 4"),
    "no words": (INDICES, zeros(3, 2, 5, 4), zeros(0, 4), "at least one element"),
    "no positions": (INDICES[:, :0], zeros(3, 2, 0, 4), zeros(7, 4), "at least one element"),
}


@pytest.mark.parametrize("bad", BAD_EMBEDDING)
def test_bad_embedding(bad):
    indices, *arrays, message = BAD_EMBEDDING[bad]
    with pytest.raises(ValueError, match=message):
        _native.embedding_curvature(np.asarray(indices), *arrays)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops._library.library.prospr_embedding_curvature(indices, *arrays)


BAD_CALLS = {
    "integers": (lambda: ops.dense_curvature([[1]], [[[1]]]), "inputs has dtype int32"),
    "dtypes": (lambda: ops.dense_curvature([[1.0]], tf.ones([1, 1, 1], "float64")), "float64"),
    "accumulator dtype": (
        lambda: ops.dense_curvature([[1.0]], [[[1.0]]], tf.ones([1, 1], "float64")),
        "accumulator has dtype float64; it must be float32",
    ),
    "accumulator shape": (
        lambda: ops.dense_curvature([[1.0]], [[[1.0]]], [[1.0, 1.0]]),
        r"\(1, 2\).*\(1, 1\)",
    ),
    "scalar": (lambda: ops.dense_curvature(1.0, 1.0), r"inputs has shape \(\)"),
    "rank": (lambda: ops.conv_curvature([[1.0]], [[[1.0]]], 1), r"inputs has shape \(1, 1\)"),
    "kernel": (lambda: conv_call(kernel_size=[3]), "kernel_size is .3"),
    "stride": (lambda: conv_call(strides=0), "strides is 0"),
    "dilation": (lambda: conv_call(dilation_rate=[1, -1]), "dilation_rate is"),
    "padding": (lambda: conv_call(padding="full"), "'full'"),
    "groups": (lambda: conv_call(groups=3), "groups is 3"),
    "depthwise": (lambda: conv_call(depthwise=True), "4 input channels"),
    "no channels": (lambda: conv_call(inputs=zeros(2, 8, 8, 0)), "not empty"),
    "indices": (lambda: ops.embedding_curvature([[0.5]], zeros(1, 1, 1, 1), 1), "dtype float32"),
    "half factors": (
        lambda: ops.pooled_conv_curvature(
            *(tf.ones(shape, "float16") for shape in ([1, 2, 1], [1, 1, 2, 1], [1, 2, 1])), 1
        ),
        "factors has dtype float16; it must be float32 or float64",
    ),
    "derivative dtype": (
        lambda: ops.pooled_conv_input_gradient(
            zeros(1, 1, 1), zeros(1, 1, 2, 1), tf.ones([1, 2, 1], "float64"), [2]
        ),
        "derivative has dtype float64; it must be that of factors, float32",
    ),
    "half sums": (
        lambda: ops._library.library.prospr_dense_curvature(
            zeros(2, 3), zeros(1, 2, 4), tf.zeros([3, 4], tf.float64)
        ),
        "DenseCurvature",
    ),
}


def conv_call(**changes):
    arguments = {"inputs": GOOD_CONV["inputs"], "factors": GOOD_CONV["factors"], "kernel_size": 3}
    return ops.conv_curvature(**{**arguments, **changes})


@pytest.mark.parametrize("bad", BAD_CALLS)
def test_bad_calls(bad):
    call, message = BAD_CALLS[bad]
    with pytest.raises((ValueError, tf.errors.OpError), match=message):
        call()


def test_scratch_does_not_grow_with_the_image():
    """In a process of its own, whose address space ends a little above what it holds.

    What must not be kept is a panel of patches, 128 bytes a pixel and thread: 268 MB here.
    """
    code = """
import resource, tensorflow as tf
from prospr_ops import ops
inputs, factors = tf.random.normal([1, 2**21, 1]), tf.random.normal([2, 1, 2**21, 1])
wanted = tf.reduce_sum(tf.square(tf.reduce_sum(tf.cast(inputs * factors, "float64"), 2)))
ops.conv_curvature(inputs[:, :8], factors[:, :, :8], 1)
def curvature(megabytes):
    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + megabytes * 10**6, resource.RLIM_INFINITY))
    return float(ops.conv_curvature(inputs, factors, 1)[0, 0, 0])
print(abs(curvature(100) / float(wanted) - 1) < 1e-3)
try:
    curvature(1)
except tf.errors.ResourceExhaustedError as error:
    print(error.message)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("True")
    assert "no memory for the scratch" in result.stdout
