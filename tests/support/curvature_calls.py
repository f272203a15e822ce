"""Calls of the curvature ops, for the CPU and for a GPU."""

from __future__ import annotations

import numpy as np
from convolutions import axis_of

SHAPES = [
    # samples, columns, size, channels, outputs, kernel, strides, dilations, padding, groups
    (3, 4, (28, 28), 1, 6, (5, 5), (1, 1), (1, 1), "same", 1),
    (2, 3, (9, 14), 6, 16, (5, 4), (2, 3), (1, 2), "valid", 1),
    (5, 9, (4, 4), 64, 40, (3, 3), (1, 1), (1, 1), "same", 1),
    (5, 10, (2, 2), 128, 70, (3, 3), (1, 1), (1, 1), "same", 1),
    (4, 3, (300,), 3, 33, (4,), (1,), (5,), "causal", 1),
    (2, 11, (3, 4, 5), 4, 10, (2, 2, 3), (2, 1, 1), (1, 1, 1), "same", 2),
    (1, 1, (1, 1), 1, 1, (1, 1), (1, 1), (1, 1), "valid", 1),
    (2, 5, (17, 18), 12, 24, (3, 3), (1, 1), (1, 1), "same", 12),
    (40, 2, (20, 20), 40, 50, (3, 3), (1, 1), (1, 1), "same", 1),
    (2, 3, (150, 130), 5, 7, (3, 3), (1, 1), (1, 1), "same", 1),
    (1, 2, (130, 150), 40, 40, (2, 2), (1, 1), (1, 1), "valid", 2),
]

POOLED_SHAPES = [
    # samples, columns, size, channels, outputs, kernel, strides, dilations, padding, groups, windows
    (3, 9, (28, 28), 1, 6, (5, 5), (1, 1), (1, 1), "same", 1, (14, 14)),
    (2, 3, (20, 14), 6, 16, (5, 3), (2, 1), (1, 2), "valid", 1, (4, 5)),
    (3, 11, (8, 8), 64, 40, (3, 3), (1, 1), (1, 1), "same", 1, (4, 4)),
    (2, 5, (60,), 3, 33, (4,), (1,), (5,), "causal", 1, (20,)),
    (2, 2, (4, 4, 6), 4, 10, (2, 2, 3), (1, 1, 1), (1, 1, 1), "same", 2, (2, 4, 3)),
    (2, 5, (6, 6), 12, 24, (3, 3), (1, 1), (1, 1), "same", 12, (3, 3)),
    (5, 9, (2, 2), 70, 40, (3, 3), (1, 1), (1, 1), "same", 1, (1, 1)),
    (9, 9, (1,), 70, 50, (1,), (1,), (1,), "valid", 1, (1,)),
    (1, 2, (150, 120), 2, 7, (3, 3), (1, 1), (1, 1), "same", 1, (75, 40)),
]


def pooled_calls(shape):
    """Both ops' names with their arrays, what follows these, and options."""
    *shape, windows = shape
    samples, columns, size, channels, outputs, kernel, strides, dilations, padding, groups = shape
    rng = np.random.default_rng(0)
    output = [
        axis_of(*axis, padding)[0] for axis in zip(size, kernel, strides, dilations, strict=True)
    ]
    inputs = rng.standard_normal((samples, *size, channels))
    weights = rng.standard_normal((*kernel, channels // groups, outputs))
    factors = rng.standard_normal((columns, samples, *windows, outputs))
    derivative = rng.standard_normal((samples, *output, outputs))
    derivative *= rng.random(derivative.shape) < 0.3
    options = {
        "strides": strides,
        "padding": padding,
        "dilation_rate": dilations,
        "groups": groups,
    }
    yield "pooled_conv_curvature", (inputs, factors, derivative), kernel, options
    yield "pooled_conv_input_gradient", (weights, factors, derivative), size, options
