"""The curvature kernels, called on NumPy arrays, and the ops, against einsum over explicit patches."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prospr_ops import _native

INSTRUCTION_SETS = _native.build_info()["instruction_sets"]
TOLERANCE = {np.float64: 1e-12, np.float32: 1e-5}


def axis_of(size, kernel, stride, dilation, padding):
    """Output size and the zeros before and after one axis."""
    reach = (kernel - 1) * dilation + 1
    if padding == "same":
        output = -(-size // stride)
        zeros = max((output - 1) * stride + reach - size, 0)
        return output, (zeros // 2, zeros - zeros // 2)
    before = reach - 1 if padding == "causal" else 0
    return (size + before - reach) // stride + 1, (before, 0)


def patches_of(inputs, kernel, strides, dilations, padding):
    """[N, output pixels, kernel elements, channels], by slicing."""
    geometry = [
        axis_of(*axis, padding)
        for axis in zip(inputs.shape[1:-1], kernel, strides, dilations, strict=True)
    ]
    padded = np.pad(inputs, [(0, 0), *(zeros for _, zeros in geometry), (0, 0)])
    taps = []
    for tap in itertools.product(*map(range, kernel)):
        window = [
            slice(k * d, k * d + (output - 1) * s + 1, s)
            for k, d, s, (output, _) in zip(tap, dilations, strides, geometry, strict=True)
        ]
        taps.append(padded[(slice(None), *window)].reshape(len(inputs), -1, inputs.shape[-1]))
    return np.stack(taps, axis=2)


def contract(patches, factors, groups):
    """[kernel elements, channels / groups, outputs] in float64, from patches and flat factors."""
    n, t, k, _ = patches.shape
    patches = patches.astype(np.float64).reshape(n, t, k, groups, -1)
    factors = factors.astype(np.float64).reshape(len(factors), n, t, groups, -1)
    products = np.einsum("ntkgi,cntgo->cnkigo", patches, factors)
    return np.square(products).sum((0, 1)).reshape(k, patches.shape[-1], -1)


def assert_close(result, patches, factors, groups, tolerance):
    """Errors are measured against the sum without its cancellations."""
    flat = result.astype(np.float64).reshape(patches.shape[2], -1, factors.shape[-1])
    scale = contract(np.abs(patches), np.abs(factors), groups)
    assert (np.abs(flat - contract(patches, factors, groups)) <= tolerance * scale).all()
    assert (result >= 0).all()


@st.composite
def convolutions(draw):
    axes = draw(st.integers(1, 3))
    sizes = st.lists(st.integers(1, (40, 12, 5)[axes - 1]), min_size=axes, max_size=axes)
    small = st.lists(st.integers(1, 3), min_size=axes, max_size=axes)
    groups = draw(st.integers(1, 4))
    padding = draw(st.sampled_from(["valid", "same", *(["causal"] if axes == 1 else [])]))
    size, kernel, dilations = draw(sizes), draw(small), draw(small)
    if padding == "valid":
        size = [max(s, (k - 1) * d + 1) for s, k, d in zip(size, kernel, dilations, strict=True)]
    return {
        "samples": draw(st.integers(1, 9)),
        "columns": draw(st.integers(1, 7)),
        "size": size,
        "kernel": kernel,
        "strides": draw(small),
        "dilations": dilations,
        "padding": padding,
        "groups": groups,
        "inputs": groups * draw(st.integers(1, 9)),
        "outputs": groups * draw(st.integers(1, 21)),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


def arrays_of(conv, dtype):
    rng = np.random.default_rng(conv["seed"])
    output = [
        axis_of(*axis, conv["padding"])[0]
        for axis in zip(
            conv["size"], conv["kernel"], conv["strides"], conv["dilations"], strict=True
        )
    ]
    inputs = rng.standard_normal((conv["samples"], *conv["size"], conv["inputs"]))
    factors = rng.standard_normal((conv["columns"], conv["samples"], *output, conv["outputs"]))
    return inputs.astype(dtype), factors.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(deadline=None, max_examples=150)
@given(conv=convolutions())
def test_convolution(dtype, conv):
    inputs, factors = arrays_of(conv, dtype)
    options = [conv[name] for name in ("strides", "dilations", "padding", "groups")]
    patches = patches_of(inputs, conv["kernel"], *options[:3])
    flat_factors = factors.reshape(*factors.shape[:2], -1, factors.shape[-1])
    shape = (*conv["kernel"], conv["inputs"] // conv["groups"], conv["outputs"])
    for instruction_set in INSTRUCTION_SETS:
        results = []
        for threads in (1, 2, 3):
            result = np.zeros(shape, dtype)
            _native.conv_curvature(inputs, factors, result, *options, threads, instruction_set)
            results.append(result)
        assert_close(results[0], patches, flat_factors, conv["groups"], TOLERANCE[dtype])
        assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(deadline=None, max_examples=100)
@given(
    samples=st.integers(1, 40),
    middle=st.sampled_from([(), (1,), (2,), (5,), (2, 3), (40,)]),
    sizes=st.tuples(st.integers(1, 70), st.integers(1, 40)),
    columns=st.integers(1, 11),
    seed=st.integers(0, 2**32 - 1),
)
def test_dense(dtype, samples, middle, sizes, columns, seed):
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((samples, *middle, sizes[0])).astype(dtype)
    factors = rng.standard_normal((columns, samples, *middle, sizes[1])).astype(dtype)
    patches = inputs.reshape(samples, -1, 1, sizes[0])
    flat_factors = factors.reshape(columns, samples, -1, sizes[1])
    for instruction_set in INSTRUCTION_SETS:
        results = []
        for threads in (1, 2, 3):
            result = np.zeros(sizes, dtype)
            _native.dense_curvature(inputs, factors, result, threads, instruction_set)
            results.append(result)
        assert_close(results[0], patches, flat_factors, 1, TOLERANCE[dtype])
        assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()
