"""The γ kernels and ops against their twin in plain TensorFlow."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from finite_arrays import arrays
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from prospr_ops import _native, ops, reference

INSTRUCTION_SETS = _native.build_info()["instruction_sets"]
DTYPES = (np.float32, np.float64)
# Relative; float64's twin, tf.math.log1p, is itself only good to a few units in the last place.
TOLERANCE = {np.float32: 1e-6, np.float64: 1e-14}


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_ops_match_reference(dtype, data):
    """Also where γ ≤ 0, and with a weight that someone else still reads."""
    curvature = data.draw(arrays(dtype, 40.0))
    gradient = data.draw(npst.arrays(dtype, curvature.shape, elements=st.floats(-9, 9, width=32)))

    def variables(*values: float) -> list[tf.Variable]:
        return [tf.Variable(np.full_like(curvature, value)) for value in values]

    fast, slow = variables(0.7, -0.1), variables(0.7, -0.1)
    signs = [tf.Variable(-np.ones(curvature.shape, np.int8)) for _ in range(2)]
    read_before = fast[0].read_value()
    assert ops.gamma_step(*fast, signs[0], gradient, curvature, 0.1)
    assert reference.gamma_step(*slow, signs[1], tf.constant(gradient), tf.constant(curvature), 0.1)
    np.testing.assert_array_equal(read_before, np.full_like(curvature, 0.7))
    np.testing.assert_array_equal(*signs)
    for a, b in zip(fast, slow, strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])

    log_gamma, sign = ops.gamma_update(tf.zeros_like(curvature), signs[0], curvature, 0.1)
    expected = reference.gamma_update(
        tf.zeros_like(curvature), tf.convert_to_tensor(signs[0]), tf.constant(curvature), 0.1
    )
    np.testing.assert_allclose(log_gamma, expected[0], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    np.testing.assert_array_equal(sign, expected[1])

    fast, slow = variables(0.7, 0.2, -0.1, 1.0, 0.3), variables(0.7, 0.2, -0.1, 1.0, 0.3)
    assert ops.gamma_momentum_step(*fast, gradient, curvature, 0.1, 0.9)
    reference.gamma_momentum_step(*slow, tf.constant(gradient), tf.constant(curvature), 0.1, 0.9)
    for a, b in zip(fast, slow, strict=True):
        np.testing.assert_allclose(a, b, rtol=4 * TOLERANCE[dtype], atol=4 * TOLERANCE[dtype])


def test_curvature_far_under_epsilon_counts():
    tiny = np.full(5, 1e-12, np.float32)
    log_gamma, _ = ops.gamma_update(np.zeros(5, np.float32), np.ones(5, np.int8), tiny, 0.1)
    np.testing.assert_allclose(log_gamma, -1e-13, rtol=1e-6)
    state = [tf.Variable(np.full(5, v, np.float32)) for v in (0.0, 0.0, 0.0, 1.0, 0.0)]
    ops.gamma_momentum_step(*state, np.zeros(5, np.float32), tiny, 0.1, 0.9)
    np.testing.assert_allclose(state[2], -1e-13, rtol=1e-6)


def test_same_bits_for_one_and_two_threads_in_tensorflow():
    """The op splits over TensorFlow's pool; the native kernel runs on one thread."""
    random = np.random.default_rng(1)
    curvature, gradient = random.standard_normal((2, 300_007)).astype(np.float32) * 20
    weight, log_gamma = tf.Variable(gradient), tf.Variable(tf.zeros_like(gradient))
    sign = tf.Variable(tf.ones_like(gradient, tf.int8))
    ops.gamma_step(weight, log_gamma, sign, gradient, curvature, 0.1)
    native = [gradient.copy(), np.zeros_like(gradient), np.ones(gradient.shape, np.int8)]
    _native.gamma_step(*native, gradient, curvature, 0.1, threads=1)
    for a, b in zip((weight, log_gamma, sign), native, strict=True):
        np.testing.assert_array_equal(a, b)


def test_functional_op_in_a_graph_with_unknown_shape():
    @tf.function(
        input_signature=[
            tf.TensorSpec(None, tf.float32),
            tf.TensorSpec(None, tf.int8),
            tf.TensorSpec([None, 2], tf.float32),
        ]
    )
    def update(log_gamma, sign, curvature):
        log_gamma, sign = ops.gamma_update(log_gamma, sign, curvature, 0.5)
        assert log_gamma.shape.as_list() == sign.shape.as_list() == [None, 2]
        return log_gamma, sign

    log_gamma, sign = update(tf.zeros([3, 2]), tf.ones([3, 2], tf.int8), tf.ones([3, 2]))
    np.testing.assert_allclose(log_gamma, np.full((3, 2), np.log(0.5)), rtol=1e-6)
    np.testing.assert_array_equal(sign, np.ones((3, 2)))


def test_takes_keras_variables():
    weight = keras.Variable(np.ones(4, "float32"))
    ops.gamma_step(
        weight,
        tf.Variable(tf.zeros(4)),
        keras.Variable(np.ones(4), dtype="int8"),
        tf.ones(4),
        tf.ones(4),
        0.25,
    )
    np.testing.assert_array_equal(weight, np.full(4, 0.75))


def _step_arguments(**changes):
    arguments = {
        "weight": tf.Variable(tf.zeros(3)),
        "log_gamma": tf.Variable(tf.zeros(3)),
        "sign": tf.Variable(tf.ones(3, tf.int8)),
        "gradient": tf.zeros(3),
        "curvature": tf.zeros(3),
        "learning_rate": 0.1,
    }
    return {**arguments, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradient": tf.zeros(4)}, r"weight has shape \[3\]; gradient must have the same.*\[4\]"),
        ({"curvature": tf.zeros([3, 1])}, r"curvature must have the same, not \[3,1\]"),
        ({"curvature": tf.zeros(3, tf.float64)}, "double"),
        ({"gradient": tf.zeros(3, tf.int32)}, "int32"),
        ({"log_gamma": tf.Variable(tf.zeros(2))}, r"log_gamma must have the same, not \[2\]"),
        ({"log_gamma": tf.Variable(tf.zeros(3, tf.float64))}, "log_gamma must be of dtype float"),
        ({"sign": tf.Variable(tf.ones(3))}, "sign must be of dtype int8, not float"),
        ({"learning_rate": -0.1}, "learning_rate must be finite and not negative"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite"),
        ({"learning_rate": [0.1, 0.1]}, r"learning_rate must be a scalar, not of shape \[2\]"),
    ],
)
def test_step_refuses_bad_input_and_changes_nothing(changes, message):
    arguments = _step_arguments(**changes)
    before = [tf.identity(arguments[name]) for name in ("weight", "log_gamma", "sign")]
    with pytest.raises(ValueError, match=message):
        ops.gamma_step(**arguments)
    for name, value in zip(("weight", "log_gamma", "sign"), before, strict=True):
        np.testing.assert_array_equal(arguments[name], value)


def test_step_refuses_one_variable_given_twice():
    arguments = _step_arguments()
    arguments["log_gamma"] = arguments["weight"]
    with pytest.raises(ValueError, match="weight and log_gamma are the same variable"):
        ops.gamma_step(**arguments)


def test_step_refuses_what_is_no_variable():
    with pytest.raises(TypeError, match=r"weight must be a tf\.Variable"):
        ops.gamma_step(**_step_arguments(weight=tf.zeros(3)))


def test_step_refuses_an_empty_variable():
    empty = {
        name: tf.Variable(tf.zeros([0, 2], dtype))
        for name, dtype in (("weight", tf.float32), ("log_gamma", tf.float32), ("sign", tf.int8))
    }
    with pytest.raises(ValueError, match=r"weight has shape \[0,2\]; at least one element"):
        ops.gamma_step(
            **empty, gradient=tf.zeros([0, 2]), curvature=tf.zeros([0, 2]), learning_rate=0.1
        )


def test_step_refuses_an_uninitialised_variable():
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        arguments = _step_arguments(weight=tf.Variable(tf.zeros(3)), gradient=tf.zeros(3))
        arguments["log_gamma"] = tf.Variable(tf.zeros(3))
        arguments["sign"] = tf.Variable(tf.ones(3, tf.int8))
        arguments["curvature"] = tf.zeros(3)
        step = ops.gamma_step(**arguments)
        with pytest.raises(tf.errors.FailedPreconditionError, match="not an initialised variable"):
            session.run(step)


def test_a_python_number_keeps_its_double_precision():
    log_gamma, _ = ops.gamma_update(
        np.zeros(1), np.ones(1, np.int8), np.array([3.0]), learning_rate=0.1
    )
    np.testing.assert_allclose(log_gamma, np.log1p(-0.3), rtol=1e-15)
