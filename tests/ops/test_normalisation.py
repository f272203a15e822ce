"""Batch normalisation in few passes, against TensorFlow's; the kernels: native/."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import prospr_ops as po
from prospr_ops import ops, reference
from prospr_ops.network import tf_functions
from prospr_ops.network.loss import Batch, Objective
from prospr_ops.ops.nn import batch_norm, channel_maps
from prospr_ops.ops.nn.channel_maps import Combination, channelwise
from prospr_ops.ops.nn.replacements import fast_calls


@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float32, 1e-5), (tf.float64, 1e-12)])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1,), (4, 1), (6, 5, 19), (3, 40, 40, 33)])
def test_ops_match_their_twins(shape, count, dtype, tolerance):
    tensors = [tf.random.normal(shape, 2.0, dtype=dtype) for _ in range(count)]
    products = ops.channel_products(tensors)
    np.testing.assert_allclose(products, reference.channel_products(tensors), rtol=1e-12)
    coefficients = tf.random.uniform([2, count + 1, shape[-1]], dtype=dtype)
    found = ops.channel_combinations(tensors, coefficients)
    twin = reference.channel_combinations(tensors, coefficients)
    for values, expected in zip(found, twin, strict=True):
        np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance, strict=True)


@pytest.mark.parametrize(
    "tensors", [[], [tf.ones(3)] * 4, [tf.ones([0, 3])], [tf.ones(3), tf.ones(4)], [tf.ones([])]]
)
def test_bad_tensors_are_refused(tensors):
    coefficients = tf.ones([1, len(tensors) + 1, 3])
    with pytest.raises(ValueError, match="tensors"):
        ops.channel_products(tensors)
    with pytest.raises(ValueError, match="tensors"):
        ops.channel_combinations(tensors, coefficients)


@pytest.mark.parametrize("shape", [[], [2, 3], [0, 2, 3], [1, 3, 3], [1, 2, 4]])
def test_coefficients_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="coefficients"):
        ops.channel_combinations([tf.ones([5, 3])], tf.ones(shape))


def test_nan_stays_in_its_channel():
    x = tf.tensor_scatter_nd_update(tf.ones([9, 20]), [[4, 17]], [np.nan])
    assert [*np.flatnonzero(np.isnan(ops.channel_products([x])).any((0, 1)))] == [17]
    (found,) = ops.channel_combinations([x], tf.ones([1, 2, 20]))
    assert [*np.argwhere(np.isnan(found))[0]] == [4, 17]


def _normalised(x, scale, offset, calls):
    mean, variance = calls["moments"](x, [0, 1])
    return calls["batch_normalization"](x, mean, variance, offset, scale, 1e-3)


def _by_hand(x, scale, offset, _calls):
    centred = x - tf.reduce_mean(x, [0, 1])
    variance = tf.reduce_mean(tf.square(centred), [0, 1])
    y = centred * tf.math.rsqrt(variance + 1e-3) * (1.0 if scale is None else scale)
    return y if offset is None else y + offset


def _derivatives(normalised, arguments, order):
    """Of a curved function of what is normalised, one inside the other."""
    given = [argument for argument in arguments if argument is not None]
    with tf.GradientTape() as tape:
        tape.watch(given)
        if order == 0:
            values = [normalised(*arguments, fast_calls())]
        else:
            values = _derivatives(normalised, arguments, order - 1)
        total = tf.add_n([tf.reduce_sum(tf.sin(value + 1.0)) for value in values])
    return tape.gradient(total, given)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("without", [(), (1,), (2,), (1, 2)])
def test_derivatives_of_three_orders_are_those_of_the_formula(order, without):
    random = np.random.default_rng(0)
    arguments = [tf.constant(random.normal(1.0, 2.0, shape)) for shape in ((7, 3, 5), 5, 5)]
    arguments = [None if i in without else argument for i, argument in enumerate(arguments)]

    found = tf.function(_derivatives)(_normalised, arguments, order)
    expected = _derivatives(_by_hand, arguments, order)
    for values, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())


# The mean of squares less the square of the mean is below zero for some, depending on dtype and rows.
MODERATE = [0.0, 0.3, -0.1, 33.3, 1000.1]
CONSTANTS = [*MODERATE, 123456.7, -7.7e5, 1.1e7, 1.7e7]


@pytest.mark.parametrize("epsilon", [1e-12, 1e-3])
@pytest.mark.parametrize("rows", [7, 100, 5110])
@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float32, 2e-3), (tf.float64, 2e-4)])
def test_constant_channels_have_finite_derivatives(dtype, tolerance, rows, epsilon):
    random = np.random.default_rng(0)
    x = np.tile(CONSTANTS, (rows, 1))
    tensors = [tf.constant(values, dtype) for values in (x, *random.normal(size=(2, *x.shape)))]

    def derivatives(calls, x, weights, vector):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                mean, variance = calls["moments"](x, [0])
                y = calls["batch_normalization"](x, mean, variance, None, None, epsilon)
                loss = tf.reduce_sum(weights * tf.sin(y + 1.0))
            gradient = inner.gradient(loss, x)
        return y, gradient, outer.gradient(gradient, x, vector), variance

    found = derivatives(fast_calls(), *tensors)
    assert all(np.isfinite(values).all() for values in found)
    assert np.min(found[-1]) >= 0.0
    if epsilon == 1e-12:
        return  # so far below rounding that derivatives are noise, of TensorFlow's own too
    stock = {"moments": tf_functions.moments, "batch_normalization": tf.nn.batch_normalization}
    wanted = derivatives(stock, *(tf.cast(values, tf.float64) for values in tensors))
    for values, expected in zip(found, wanted, strict=True):
        near = tolerance * max(1.0, np.abs(expected).max())
        few = slice(len(MODERATE))
        np.testing.assert_allclose(values[..., few], expected[..., few], rtol=0, atol=near)


@pytest.mark.parametrize("constant", CONSTANTS)
def test_the_variance_of_a_constant_channel_has_its_second_derivative(constant):
    x = tf.fill([7, 1], tf.constant(constant, tf.float64))
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            _, variance = fast_calls()["moments"](x, [0])
        gradient = inner.gradient(variance, x)
    hessian = outer.jacobian(gradient, x, experimental_use_pfor=False)
    expected = 2 / 7 * (np.eye(7) - 1 / 7)
    np.testing.assert_allclose(np.reshape(hessian, [7, 7]), expected, rtol=1e-12)


def test_moments_can_be_differentiated_by_themselves():
    x = tf.constant(np.random.default_rng(0).normal(3.0, 1.0, (6, 4)))

    def hessian(moments):
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                mean, variance = moments(x, [0])
                total = tf.reduce_sum(tf.exp(mean) * variance**2)
            gradient = inner.gradient(total, x)
        return outer.jacobian(gradient, x, experimental_use_pfor=False)

    def by_hand(x, axes):
        mean = tf.reduce_mean(x, axes)
        return mean, tf.reduce_mean(tf.square(x - mean), axes)

    np.testing.assert_allclose(hessian(fast_calls()["moments"]), hessian(by_hand), rtol=1e-9)


def test_layers_share_the_graph_of_a_rule():
    def traces(channels):
        x = tf.ones([5, 2, channels])
        tf.function(_normalised)(x, tf.ones(channels), None, fast_calls())
        return channel_maps._traced.cache_info().misses

    known = traces(3)
    assert [traces(channels) for channels in (4, 5, 70)] == [known] * 3


def _scores():
    keras.utils.set_random_seed(0)
    normalisation, last = layers.BatchNormalization(), layers.Dense(3)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4), normalisation, last])
    random = np.random.default_rng(0)
    data = random.normal(size=(16, 6)).astype("float32"), np.arange(16) % 3
    options = {"method": "exact", "steps": 1, "batch_size": 8, "seed": 1, "verbose": 0}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return [*po.score(model, data, loss=loss, **options).values()]


def _interrupted_at(point, patch):
    """Ctrl-C while rules are traced: so manieth of where one begins and where it has its coefficients."""
    points = itertools.count(1)

    def interrupted(function):
        def called(*arguments):
            if next(points) == point:
                raise KeyboardInterrupt
            return function(*arguments)

        return called

    for module, name in (
        (batch_norm, "_mean_and_variance"),
        (batch_norm, "Combination"),
        (channel_maps, "Combination"),
    ):
        patch.setattr(module, name, interrupted(getattr(module, name)))


def test_rules_outlive_ctrl_c_while_they_are_traced_and_clear_session():
    channel_maps._traced.cache_clear()
    expected = _scores()
    channel_maps._traced.cache_clear()
    # A rule that is traced stays so: each time one more of its points is passed, or of the next one's.
    for point in itertools.count(1):
        try:
            with pytest.MonkeyPatch.context() as patch:
                _interrupted_at(point, patch)
                found = _scores()
            break
        except KeyboardInterrupt:
            continue
    assert point > 4  # two rules and the derivatives of one, of two orders: each was interrupted
    keras.backend.clear_session()
    for values, again, wanted in zip(found, _scores(), expected, strict=True):
        np.testing.assert_array_equal(values, wanted)
        np.testing.assert_array_equal(again, wanted)


def test_a_map_of_more_tensors_than_the_ops_take_is_that_of_the_twins():
    x = [tf.constant([[1.0 + i], [2.0]], tf.float64) for i in range(4)]

    def mean_of_products(products, _):
        return Combination(tf.ones([1, 5, 1], tf.float64) * products[0, 3] / products[4, 4], [])

    (found,) = channelwise(mean_of_products, x, [])
    np.testing.assert_allclose(found, [[(1 * 4 + 4) / 2 * 11], [(1 * 4 + 4) / 2 * 9]])


@pytest.mark.parametrize(
    "options", [{}, {"center": False, "scale": False}, {"axis": 1}, {"renorm": True}]
)
@pytest.mark.usefixtures("float64")
def test_a_layer_gives_the_same_loss_gradients_and_moving_averages(options):
    def build():
        normalisation = layers.BatchNormalization(**options)
        flat = layers.Flatten(), layers.Dense(3)
        return keras.Sequential([keras.Input((4, 4, 2)), layers.Conv2D(3, 2), normalisation, *flat])

    models = build(), build()
    models[1].set_weights(models[0].get_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    random = np.random.default_rng(0)
    batch = Batch(tf.constant(random.normal(1.0, 2.0, (6, 4, 4, 2))), tf.constant([0, 1, 2] * 2))

    def run(model, calls):
        variables = [variable.value for variable in model.trainable_variables]
        with tf.GradientTape() as tape:
            value = Objective.of(model, loss)(batch, calls)
        return [value, *tape.gradient(value, variables), *model.non_trainable_variables]

    found = tf.function(run, autograph=False)(models[0], fast_calls())
    for values, expected in zip(found, run(models[1], None), strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12)


def test_functions_of_tensorflow_are_put_back():
    before = tf.nn.moments, tf.nn.batch_normalization, tf.nn.max_pool
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    objective = Objective.of(model, "mse")
    with pytest.raises(ValueError, match="shape"):
        objective(Batch(tf.ones([1, 3]), tf.ones([1, 2])), fast_calls())
    assert before == (tf.nn.moments, tf.nn.batch_normalization, tf.nn.max_pool)
