"""Convolutions by explicit patches, in NumPy alone: what the curvature kernels are compared with."""

from __future__ import annotations

import itertools

import numpy as np


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


def input_gradient(kernel, factors, shape, strides, dilations, padding, groups):
    """[C, N, input size..., channels] in float64, from flat factors, by adding up slices."""
    size = shape[1:-1]
    sizes = kernel.shape[: len(size)]
    geometry = [
        axis_of(*axis, padding) for axis in zip(size, sizes, strides, dilations, strict=True)
    ]
    output = [out for out, _ in geometry]
    columns, samples, _, outputs = factors.shape
    split = factors.astype(np.float64).reshape(columns, samples, *output, groups, -1)
    padded = [sum(zeros) + extent for extent, (_, zeros) in zip(size, geometry, strict=True)]
    result = np.zeros((columns, samples, *padded, shape[-1]))
    for tap in itertools.product(*map(range, sizes)):
        window = [
            slice(k * d, k * d + (out - 1) * s + 1, s)
            for k, d, s, out in zip(tap, dilations, strides, output, strict=True)
        ]
        weights = kernel[tap].astype(np.float64).reshape(-1, groups, outputs // groups)
        gradient = np.einsum("...go,igo->...gi", split, weights)
        result[(slice(None), slice(None), *window)] += gradient.reshape(*gradient.shape[:-2], -1)
    inner = [
        slice(before, before + extent)
        for extent, (_, (before, _)) in zip(size, geometry, strict=True)
    ]
    return result[(slice(None), slice(None), *inner)]


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
