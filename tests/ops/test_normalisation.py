"""Batch normalisation in few passes, against TensorFlow's; the kernels: native/."""

from __future__ import annotations

import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import prospr_ops as po
from prospr_ops import _native, ops, reference
from prospr_ops.curvature import hutchinson, row_sum
from prospr_ops.methods.engine import passes
from prospr_ops.network import tf_functions
from prospr_ops.network.loss import Batch, Objective
from prospr_ops.ops.nn.replacements import fast_calls

EPSILON = 1e-3
OPS = ["batch_moments", "batch_norm", "batch_norm_gradient", "batch_norm_second_gradient"]


def _arguments(name, shape, dtype, seed=0):
    random = np.random.default_rng(seed)

    def some(*shape):
        return tf.constant(random.normal(1.0, 2.0, shape), dtype)

    channels = shape[-1]
    x, scale = some(*shape), some(channels)
    rest = [x, scale, ops.batch_moments(x)[-1], EPSILON]
    return {
        "batch_moments": [x],
        "batch_norm": [x, scale, some(channels), *rest[2:]],
        "batch_norm_gradient": [some(*shape), *rest],
        "batch_norm_second_gradient": [
            some(*shape),
            some(channels),
            some(channels),
            some(*shape),
            *rest,
        ],
    }[name]


def _listed(results):
    return [results] if tf.is_tensor(results) else [*results]


@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float32, 1e-5), (tf.float64, 1e-12)])
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("shape", [(1,), (4, 1), (6, 5, 19), (3, 40, 40, 33), (2, 300), (130, 128)])
def test_ops_match_their_twins(shape, name, dtype, tolerance):
    arguments = _arguments(name, shape, dtype)
    wide = [tf.cast(a, tf.float64) if tf.is_tensor(a) else a for a in arguments]
    found = _listed(getattr(ops, name)(*arguments))
    twin = _listed(getattr(reference, name)(*wide))
    for values, expected in zip(found, twin, strict=True):
        large = 1 / EPSILON if len(shape) == 1 else 1.0  # of one row, everything cancels
        near = tolerance * max(large, np.abs(expected).max())
        np.testing.assert_allclose(values, expected, rtol=tolerance, atol=near)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("how", ["eager", "traced", "from outside", "in a loop", "vectorised"])
def test_gradients_are_those_of_the_twin(how, name):
    """Of each op, which is one order more; x moves its moments."""
    shape = (5, 3, 4)
    tensors = [a for a in _arguments(name, shape, tf.float64) if tf.is_tensor(a)]
    at = 0 if len(tensors) == 1 else -1 - (name != "batch_norm") - 1 - (name == "batch_norm") * 2
    weights = [
        tf.constant(np.random.default_rng(1).normal(size=result.shape))
        for result in _listed(getattr(reference, name)(*_arguments(name, shape, tf.float64)))
    ]
    free = tensors if len(tensors) == 1 else tensors[:-1]

    def total(library, free):
        moments = (
            [] if len(tensors) == 1 else [library.batch_moments(free[at + 1 if at < 0 else 0])[-1]]
        )
        results = _listed(getattr(library, name)(*free, *moments, *[EPSILON] * bool(moments)))
        return tf.add_n([tf.reduce_sum(w * r) for w, r in zip(weights, results, strict=True)])

    def gradients(library, free):
        with tf.GradientTape() as tape:
            tape.watch(free)
            value = total(library, free)
        return tape.gradient(value, free)

    expected = gradients(reference, free)
    if how == "eager":
        found = gradients(ops, free)
    elif how == "traced":
        found = tf.function(lambda free: gradients(ops, free))(free)
    elif how == "from outside":
        traced = tf.function(lambda free: total(ops, free))
        with tf.GradientTape() as tape:
            tape.watch(free)
            value = traced(free)
        found = tape.gradient(value, free)
    elif how == "in a loop":

        @tf.function
        def looped(free):
            def body(i, *_):
                return i + 1, *gradients(ops, free)

            zeros = [tf.zeros_like(one) for one in free]
            return tf.while_loop(lambda i, *_: i < 2, body, [0, *zeros])[1:]

        found = looped(free)
    else:
        stacked = [tf.stack([one, 2.0 * one]) for one in free]
        found = [one[0] for one in tf.vectorized_map(lambda free: gradients(ops, free), stacked)]
    for values, wanted in zip(found, expected, strict=True):
        near = 1e-9 * max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(values, wanted, rtol=1e-9, atol=near)


def test_an_eager_tape_keeps_no_result():
    x, scale, offset, moments, epsilon = _arguments("batch_norm", (5, 4), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ops.batch_norm(x, scale, offset, moments, epsilon)
        negated = -y
    kept = weakref.ref(y)
    del y
    assert kept() is None
    assert tape.gradient(negated, x) is not None


@pytest.mark.parametrize("name", OPS)
def test_bad_shapes_are_refused(name):
    good = _arguments(name, (5, 3), tf.float32)
    for i, argument in enumerate(good):
        if not tf.is_tensor(argument):
            continue
        for bad in (tf.zeros([0, 3], argument.dtype), tf.zeros([], argument.dtype)):
            with pytest.raises(ValueError, match=r"shape|axis|rank|dimension"):
                getattr(ops, name)(*good[:i], bad, *good[i + 1 :])


def test_nan_stays_in_its_channel():
    x = tf.tensor_scatter_nd_update(tf.random.normal([9, 20], seed=0), [[4, 17]], [np.nan])
    moments = ops.batch_moments(x)[-1]
    assert [*np.flatnonzero(np.isnan(moments).any(0))] == [17]
    y = ops.batch_norm(x, tf.ones(20), tf.zeros(20), moments, EPSILON)
    assert [*np.flatnonzero(np.isnan(y).any(0))] == [17]


def test_a_large_mean_costs_no_digits():
    x = tf.constant(1e9 + np.random.default_rng(0).normal(size=(50, 3)))
    found = ops.batch_norm(
        x, tf.ones(3, x.dtype), tf.zeros(3, x.dtype), ops.batch_moments(x)[-1], 0.0
    )
    centred = x - 1e9  # exact
    twin = reference.batch_norm(centred, tf.ones(3, x.dtype), tf.zeros(3, x.dtype), None, 0.0)
    np.testing.assert_allclose(found, twin, rtol=0, atol=1e-6)


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


@pytest.mark.parametrize("run", [lambda f: f, tf.function])
@pytest.mark.parametrize(("axis", "by_the_op"), [(3, True), (-1, True), (1, False)])
def test_a_layer_gets_the_op_for_its_last_axis_by_either_name(axis, by_the_op, run, monkeypatch):
    calls = []
    own = ops.batch_norm
    monkeypatch.setattr(ops, "batch_norm", lambda *given: calls.append(given) or own(*given))
    model = keras.Sequential([keras.Input([3, 4, 5]), layers.BatchNormalization(axis=axis)])
    x = tf.random.normal([2, 3, 4, 5], seed=0)
    expected = tf.reduce_mean(tf.square(model(x, training=True)))
    objective, batch = Objective.of(model, "mse"), Batch(x, tf.zeros_like(x))
    found = run(lambda: objective(batch, fast_calls()))()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert bool(calls) == by_the_op


def test_moments_of_the_same_numbers_are_not_those_of_the_tensor():
    x, calls = tf.random.normal([6, 3], seed=0), fast_calls()
    mean, variance = calls["moments"](x, [0])
    y = calls["batch_normalization"](x, tf.reshape(mean, [1, 3]) + 1.0, variance, None, None, 0.0)
    expected = tf.nn.batch_normalization(x, mean + 1.0, variance, None, None, 0.0)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "first_order"},
        {"method": "exact"},
        {"method": "diagonal", "curvature": "hutchinson"},
        {"method": "diagonal", "curvature": "row_sum"},
    ],
    ids=lambda options: "-".join(options.values()),
)
@pytest.mark.usefixtures("float64")
def test_scores_of_a_residual_network_are_those_of_the_plain_path(options, monkeypatch):
    x = inputs = keras.Input((6, 6, 2))
    for _ in range(2):
        shortcut = layers.Conv2D(4, 1)(x)
        x = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x))
        x = layers.add([shortcut, layers.Activation("tanh")(x)])
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization(scale=False)(x))
    model = keras.Model(inputs, layers.Dense(3)(x))
    random = np.random.default_rng(0)
    data = random.normal(1.0, 2.0, (24, 6, 6, 2)), np.arange(24) % 3
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    calls = []
    own = ops.batch_norm
    monkeypatch.setattr(ops, "batch_norm", lambda *given: calls.append(given) or own(*given))

    def scores():
        return po.score(model, data, loss=loss, batch_size=8, seed=0, verbose=0, **options)

    found = scores()
    assert calls
    calls.clear()
    for module in (passes, hutchinson, row_sum):
        monkeypatch.setattr(module, "fast_calls", dict)
    expected = scores()
    assert not calls
    for path, values in expected.items():
        largest = np.abs(values).max()
        np.testing.assert_allclose(found[path], values, rtol=1e-7, atol=1e-9 * largest)


@pytest.mark.parametrize("cuda", [False, True])
def test_on_a_gpu_there_is_what_the_build_has_kernels_for(cuda, monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda _: ["GPU:0"])
    monkeypatch.setattr(_native, "build_info", lambda: {"cuda": cuda})
    compiled = {"moments", "batch_normalization", "max_pool"} if cuda else set()
    assert set(fast_calls()) == {"gelu", "silu"} | compiled
