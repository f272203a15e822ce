"""The γ kernels, called on NumPy arrays."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from finite_arrays import arrays
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from prospr_ops import _native

INSTRUCTION_SETS = _native.build_info()["instruction_sets"]
DTYPES = (np.float32, np.float64)


def exact_log_abs_gamma(curvature: np.ndarray, rate: float) -> np.ndarray:
    """log|1 − rate · h| in extended precision, of the product rounded to h's dtype."""
    x = (curvature.dtype.type(rate) * curvature).astype(np.longdouble)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(x) < 0.5, np.log1p(-x), np.log(np.abs(1 - x)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@given(data=st.data())
def test_native_update_matches_extended_precision(dtype, instruction_set, data):
    curvature = data.draw(arrays(dtype, 1e4))
    rate = data.draw(st.sampled_from([0.0, 1e-3, 0.1, 0.5, 1.0]))
    log_gamma = np.zeros_like(curvature)
    sign = np.ones(curvature.shape, np.int8)
    _native.gamma_update(log_gamma, sign, curvature, rate, instruction_set=instruction_set)
    expected = exact_log_abs_gamma(curvature, rate)
    np.testing.assert_allclose(log_gamma, expected, rtol=3 * np.finfo(dtype).eps, atol=0)
    np.testing.assert_array_equal(sign, np.where(dtype(rate) * curvature > 1, -1, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_same_bits_for_every_split_and_instruction_set(dtype, data):
    curvature = data.draw(arrays(dtype, 30.0))
    gradient = data.draw(npst.arrays(dtype, curvature.shape, elements=st.floats(-9, 9, width=32)))
    results = []
    for instruction_set, threads in itertools.product(INSTRUCTION_SETS, (1, 2, 3)):
        step = [np.full_like(curvature, 0.7), np.zeros_like(curvature)]
        sign = np.ones(curvature.shape, np.int8)
        _native.gamma_step(
            *step, sign, gradient, curvature, 0.1, threads=threads, instruction_set=instruction_set
        )
        pair = [np.full_like(curvature, value) for value in (0.7, 0.2, -1.5, 1.0, 0.3)]
        _native.gamma_momentum_step(
            *pair, gradient, curvature, 0.1, 0.9, threads=threads, instruction_set=instruction_set
        )
        results.append(b"".join(array.tobytes() for array in (*step, sign, *pair)))
    assert len(set(results)) == 1


def test_gamma_zero_gives_minus_infinity_and_stays_there():
    log_gamma, sign = np.zeros(3, np.float32), np.ones(3, np.int8)
    _native.gamma_update(log_gamma, sign, np.array([2.0, 1.0, 4.0], np.float32), 0.5)
    np.testing.assert_allclose(log_gamma, [-np.inf, np.log(0.5), 0], rtol=1e-7)
    np.testing.assert_array_equal(sign, [1, 1, -1])
    _native.gamma_update(log_gamma, sign, np.full(3, 1.0, np.float32), 0.5)
    assert log_gamma[0] == -np.inf


def test_momentum_pair_follows_the_plain_recursion_over_many_steps():
    """In plain float64 numbers p overflows nowhere here, so it can be compared."""
    random = np.random.default_rng(0)
    curvature = random.uniform(0, 15, 200)
    p, q = np.ones(200), np.zeros(200)
    state = [np.zeros(200, np.float64) for _ in range(5)]
    state[3][:] = 1
    for _ in range(60):
        q = 0.9 * q + curvature * p
        p = p - 0.1 * q
        _native.gamma_momentum_step(*state, np.zeros(200), curvature, 0.1, 0.9)
    _, _, log_scale, scaled_p, scaled_q = state
    np.testing.assert_allclose(scaled_p * np.exp(log_scale), p, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(np.maximum(np.abs(scaled_p), np.abs(scaled_q)), 1)


def test_momentum_zero_is_the_plain_factor():
    curvature = np.linspace(-5, 25, 101)
    state = [np.zeros(101) for _ in range(5)]
    state[3][:] = 1
    log_gamma, sign = np.zeros(101), np.ones(101, np.int8)
    for _ in range(4):
        _native.gamma_momentum_step(*state, np.zeros(101), curvature, 0.1, 0.0)
        _native.gamma_update(log_gamma, sign, curvature, 0.1)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(state[2] + np.log(np.abs(state[3])), log_gamma, atol=1e-14)
    finite = np.isfinite(log_gamma)
    np.testing.assert_array_equal(np.sign(state[3])[finite], sign[finite])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["gradient", "curvature"])
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_steps_report_what_is_not_finite(bad, where, instruction_set):
    for position in (0, 16, 36):
        inputs = {"gradient": np.ones(37, np.float32), "curvature": np.ones(37, np.float32)}
        state = [np.ones(37, np.float32) for _ in range(5)]
        sign = np.ones(37, np.int8)
        arguments = {"learning_rate": 0.1, "instruction_set": instruction_set}
        assert _native.gamma_step(*state[:2], sign, **inputs, **arguments)
        assert _native.gamma_momentum_step(*state, **inputs, momentum=0.9, **arguments)
        inputs[where][position] = bad
        assert not _native.gamma_step(*state[:2], sign, **inputs, **arguments)
        assert not _native.gamma_momentum_step(*state, **inputs, momentum=0.9, **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([0.0, 0.0], [1, 1], [0.0, 0.0, 0.0]), ValueError, r"curvature must have the same"),
        (([], [], []), ValueError, r"at least one element is needed"),
        (([0.0], [1.0], [0.0]), TypeError, "gamma_update"),
    ],
)
def test_native_refuses_bad_arrays(arguments, error, message):
    log_gamma, sign, curvature = arguments
    sign_dtype = np.float32 if error is TypeError else np.int8
    with pytest.raises(error, match=message):
        _native.gamma_update(
            np.array(log_gamma, np.float32),
            np.array(sign, sign_dtype),
            np.array(curvature, np.float32),
            0.1,
        )


def test_native_refuses_layouts_it_cannot_write():
    fine = np.zeros((4, 4), np.float32)
    sign = np.ones((4, 4), np.int8)
    with pytest.raises(TypeError):
        _native.gamma_update(np.asfortranarray(np.eye(4, dtype=np.float32)).T[::2], sign, fine, 0.1)
    frozen = fine.copy()
    frozen.setflags(write=False)
    with pytest.raises(ValueError, match="not writeable"):
        _native.gamma_update(frozen, sign, fine, 0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads must be at least 1"),
        ({"instruction_set": "mmx"}, "'mmx' is not one of those available here: baseline"),
        ({"learning_rate": float("inf")}, "learning_rate must be finite"),
    ],
)
def test_native_refuses_bad_options(options, message):
    arguments = {
        "log_gamma": np.zeros(2, np.float32),
        "sign": np.ones(2, np.int8),
        "curvature": np.zeros(2, np.float32),
        "learning_rate": 0.1,
    }
    with pytest.raises(ValueError, match=message):
        _native.gamma_update(**{**arguments, **options})
