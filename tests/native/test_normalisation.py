"""The kernels of batch normalisation, called on NumPy arrays, against formulas in extended precision."""

from __future__ import annotations

import numpy as np
import pytest

from prospr_ops import _native

INSTRUCTION_SETS = _native.build_info()["instruction_sets"]
# One row, one channel, remainders of every vector's width, several blocks of rows, and rows that are
# taken several at a time, some of which are left over.
SHAPES = [(1, 1), (3, 1), (1, 67), (70_001, 1), (5, 7, 3), (301, 16), (2100, 37), (9, 2, 600)]
EPSILON = 1e-3


def _arguments(shape, dtype):
    random = np.random.default_rng(0)
    tensors = [random.normal(3.0, 1.0, shape).astype(dtype) for _ in range(3)]
    vectors = [random.normal(1.0, 1.0, shape[-1:]).astype(dtype) for _ in range(4)]
    return tensors, vectors


def _calls(shape, dtype):
    (x, g, u), (scale, offset, u_scale, u_offset) = _arguments(shape, dtype)
    _, _, moments = _native.batch_moments(x)
    return {
        "batch_moments": (x,),
        "batch_norm": (x, scale, offset, moments, EPSILON),
        "batch_norm_gradient": (g, x, scale, moments, EPSILON),
        "batch_norm_second_gradient": (u, u_scale, u_offset, g, x, scale, moments, EPSILON),
    }


def _expected(shape, dtype):
    """By the matrix of derivatives of what is normalised, applied to a vector."""
    tensors, vectors = _arguments(shape, dtype)
    x, g, u = (t.astype(np.longdouble).reshape(-1, shape[-1]) for t in tensors)
    scale, offset, u_scale, u_offset = (v.astype(np.longdouble) for v in vectors)
    mean = x.mean(0)
    variance = ((x - mean) ** 2).mean(0)
    r = 1 / np.sqrt(variance + EPSILON)
    h = (x - mean) * r

    def back(w):  # the gradient of sum(w * h) at x
        return r * (w - w.mean(0) - h * (w * h).mean(0))

    by_r = (u * back(g)).sum(0) / r * scale  # of sum(u * x_gradient), h held
    by_h = -scale * r * (u * (g * h).mean(0) + g * (u * h).mean(0))
    second = (
        scale * back(u) + u_scale * h + u_offset,
        back(by_h + u_scale * g) - by_r * r**2 * h / len(x),
        (u * back(g)).sum(0),
    )
    return {
        "batch_moments": (mean, variance, np.stack([mean, variance])),
        "batch_norm": (h * scale + offset,),
        "batch_norm_gradient": (scale * back(g), (g * h).sum(0), g.sum(0)),
        "batch_norm_second_gradient": second,
    }


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 3e-6), (np.float64, 1e-11)])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_compute_the_formulas(shape, dtype, tolerance):
    expected = _expected(shape, dtype)
    for name, arguments in _calls(shape, dtype).items():
        for instruction_set in INSTRUCTION_SETS:
            results = []
            for threads in (1, 2, 5):
                found = getattr(_native, name)(*arguments, threads, instruction_set)
                results.append(found if isinstance(found, tuple) else (found,))
            for values, wanted in zip(results[0], expected[name], strict=True):
                # Of one row, everything cancels that is as large as 1 / epsilon.
                large = 1 / EPSILON if np.prod(shape[:-1]) == 1 else 1.0
                near = tolerance * max(large, float(np.abs(wanted).max()))
                flat = values if values.shape == wanted.shape else values.reshape(wanted.shape)
                np.testing.assert_allclose(flat, wanted.astype(np.float64), rtol=0, atol=near)
            for again in results[1:]:
                for values, other in zip(results[0], again, strict=True):
                    np.testing.assert_array_equal(values, other)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones((0, 3)), ValueError, "at least one element"),
        (np.array(1.0), ValueError, "axis of channels"),
        (np.ones((4, 4))[:, ::2], TypeError, "batch_moments"),
        (np.ones(9, np.int8)[1:].view(np.float64), ValueError, "not aligned"),
    ],
)
def test_bad_tensors_are_refused(x, error, message):
    with pytest.raises(error, match=message):
        _native.batch_moments(x)


@pytest.mark.parametrize(
    "name", ["batch_norm", "batch_norm_gradient", "batch_norm_second_gradient"]
)
def test_what_does_not_fit_is_refused(name):
    arguments = _calls((5, 3), np.float64)[name]
    for i, argument in enumerate(arguments[:-1]):
        bad = np.ones((*argument.shape, 1))
        with pytest.raises(ValueError, match="has shape"):
            getattr(_native, name)(*arguments[:i], bad, *arguments[i + 1 :])
