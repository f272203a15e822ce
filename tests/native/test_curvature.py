"""The curvature kernels, called on NumPy arrays, against einsum over explicit patches."""

from __future__ import annotations

import numpy as np
import pytest
from convolutions import arrays_of, assert_close, input_gradient, patches_of
from hypothesis import given, settings
from hypothesis import strategies as st

from prospr_ops import _native

INSTRUCTION_SETS = _native.build_info()["instruction_sets"]
TOLERANCE = {np.float64: 1e-12, np.float32: 1e-5}


def computed(compute, shape, dtype):
    """What each instruction set computes: the same bits with any number of threads."""
    for instruction_set in INSTRUCTION_SETS:
        found = [np.zeros(shape, dtype) for _ in range(3)]
        for threads, result in enumerate(found, 1):
            compute(result, threads, instruction_set)
        assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()
        yield found[0]


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(deadline=None, max_examples=150)
@given(conv=convolutions())
def test_convolution(dtype, conv):
    inputs, factors = arrays_of(conv, dtype)
    options = [conv[name] for name in ("strides", "dilations", "padding", "groups")]
    patches = patches_of(inputs, conv["kernel"], *options[:3])
    flat_factors = factors.reshape(*factors.shape[:2], -1, factors.shape[-1])
    shape = (*conv["kernel"], conv["inputs"] // conv["groups"], conv["outputs"])

    def compute(result, *how):
        _native.conv_curvature(inputs, factors, result, *options, *how)

    for result in computed(compute, shape, dtype):
        assert_close(result, patches, flat_factors, conv["groups"], TOLERANCE[dtype])


def pooled_arrays_of(conv, dtype):
    """Inputs, kernel, and factors of windows with a derivative that is mostly zero."""
    inputs, factors = arrays_of(conv, dtype)
    rng = np.random.default_rng(conv["seed"])
    output = factors.shape[2:-1]
    windows = [rng.choice([w for w in range(1, size + 1) if size % w == 0]) for size in output]
    factors = factors[(slice(None), slice(None), *map(slice, windows))]
    derivative = rng.standard_normal((len(inputs), *output, factors.shape[-1]))
    derivative *= rng.random(derivative.shape) < 0.3
    kernel = rng.standard_normal(
        (*conv["kernel"], conv["inputs"] // conv["groups"], conv["outputs"])
    )
    return inputs, kernel.astype(dtype), np.ascontiguousarray(factors), derivative.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(deadline=None, max_examples=100)
@given(conv=convolutions())
def test_pooled_convolution(dtype, conv):
    inputs, kernel, factors, derivative = pooled_arrays_of(conv, dtype)
    options = [conv[name] for name in ("strides", "dilations", "padding", "groups")]
    patches = patches_of(inputs, conv["kernel"], *options[:3])
    dense = factors
    for axis, size in enumerate(derivative.shape[1:-1], 2):
        dense = dense.repeat(size // dense.shape[axis], axis)
    dense = (dense * derivative).reshape(*factors.shape[:2], -1, factors.shape[-1])
    gradient, scale = (
        input_gradient(f(kernel), f(dense), inputs.shape, *options) for f in (np.asarray, np.abs)
    )
    for instruction_set in INSTRUCTION_SETS:
        results, gradients = [], []
        for threads in (1, 2, 3):
            result = np.zeros(kernel.shape, dtype)
            call = (*options, threads, instruction_set)
            _native.pooled_conv_curvature(inputs, factors, derivative, result, *call)
            results.append(result)
            gradients.append(
                _native.pooled_conv_input_gradient(
                    kernel, factors, derivative, inputs.shape[1:-1], *call
                )
            )
        assert_close(results[0], patches, dense, conv["groups"], TOLERANCE[dtype])
        assert (np.abs(gradients[0] - gradient) <= TOLERANCE[dtype] * scale).all()
        for found in (results, gradients):
            assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(deadline=None, max_examples=100)
@given(
    samples=st.integers(1, 40),
    middle=st.sampled_from([(), (1,), (2,), (5,), (2, 3), (40,)]),
    sizes=st.tuples(st.integers(1, 70), st.integers(1, 40)),
    columns=st.integers(1, 11),
    seed=st.integers(0, 2**32 - 1),
)
def test_dense(*, dtype, samples, middle, sizes, columns, seed):
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((samples, *middle, sizes[0])).astype(dtype)
    factors = rng.standard_normal((columns, samples, *middle, sizes[1])).astype(dtype)
    patches = inputs.reshape(samples, -1, 1, sizes[0])
    flat_factors = factors.reshape(columns, samples, -1, sizes[1])

    def compute(result, *how):
        _native.dense_curvature(inputs, factors, result, *how)

    for result in computed(compute, sizes, dtype):
        assert_close(result, patches, flat_factors, 1, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("index", [np.int32, np.int64])
@settings(deadline=None, max_examples=50)
@given(
    samples=st.integers(1, 9),
    middle=st.sampled_from([(), (1,), (7,), (2, 3)]),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 40)),
    columns=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_embedding(*, dtype, index, samples, middle, sizes, columns, seed):
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, sizes[0], (samples, *middle)).astype(index)
    factors = rng.standard_normal((columns, samples, *middle, sizes[1])).astype(dtype)
    patches = np.eye(sizes[0])[indices.reshape(samples, -1, 1)]
    flat_factors = factors.reshape(columns, samples, -1, sizes[1])

    def compute(result, *how):
        _native.embedding_curvature(indices, factors, result, *how)

    for result in computed(compute, sizes, dtype):
        assert_close(result, patches, flat_factors, 1, TOLERANCE[dtype])
