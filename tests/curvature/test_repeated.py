"""`po.curvature.diagonal` called again and again, in loops and in graphs of a user's own."""

from __future__ import annotations

import copy
import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from problems import LOGITS

import prospr_ops as po
from prospr_ops.curvature import traces


class _Counting(layers.Layer):
    """Counts how often Python comes by."""

    calls = 0

    def call(self, x):
        self.calls += 1
        return x


def _model(*, batch_norm=False):
    norm = [layers.BatchNormalization()] if batch_norm else []
    parts = [keras.Input((5,)), layers.Dense(4), *norm, layers.ReLU(), _Counting(), layers.Dense(3)]
    model = keras.Sequential(parts)
    model.compile("sgd", LOGITS)
    return model


def _data(samples=7, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((samples, 5), "float32"), random.integers(0, 3, samples)


def _calls(model):
    return next(layer.calls for layer in model.layers if isinstance(layer, _Counting))


def _assert_same(found, expected):
    assert found.keys() == expected.keys()
    for path, values in expected.items():
        np.testing.assert_allclose(found[path], values, rtol=1e-5, atol=1e-7, err_msg=path)


def test_a_second_call_traces_nothing_and_sees_new_weights_and_data():
    model, other = _model(), _model()
    po.curvature.diagonal(model, *_data())
    calls = _calls(model)
    for weight, new in zip(model.weights, other.weights, strict=True):
        weight.assign(new)
    found = po.curvature.diagonal(model, *_data(seed=1))
    assert _calls(model) == calls
    expected = po.curvature.diagonal(other, *_data(seed=1))
    _assert_same(dict(zip(expected, found.values(), strict=True)), expected)
    with pytest.raises(ValueError, match="labels of batch 0 range from 0 to 3"):
        po.curvature.diagonal(model, _data()[0], np.array([0, 1, 2, 3, 0, 1, 2]))


def test_what_the_trace_depends_on_is_traced_anew():
    model = _model(batch_norm=True)
    x, y = _data()
    by_logits = po.curvature.diagonal(model, x, y, seed=0)
    model.layers[1].trainable = False
    frozen = po.curvature.diagonal(model, x, y, seed=0)
    model.layers[1].trainable = True
    model.compile("sgd", "mse")
    targets = np.eye(3, dtype="float32")[y]
    by_squares = po.curvature.diagonal(model, x, targets, seed=0)
    _assert_same(po.curvature.diagonal(model, x, y, seed=0, loss=LOGITS), by_logits)
    _assert_same(po.curvature.diagonal(model, x, targets, seed=0, loss="mse"), by_squares)
    kernel = model.layers[0].kernel.path
    for changed in (frozen, by_squares):
        assert not np.allclose(changed[kernel], by_logits[kernel])


def test_losses_by_name_and_in_structures_are_told_apart():
    model, (x, y) = _model(), _data()
    targets = np.eye(3, dtype="float32")[y]
    found = {name: po.curvature.diagonal(model, x, targets, loss=name) for name in ("mse", "mae")}
    _assert_same(po.curvature.diagonal(model, x, targets, loss=["mse"]), found["mse"])
    assert not np.allclose(*(np.asarray([*one.values()][-1]) for one in found.values()))


def test_a_model_keeps_few_traces():
    model = _model()
    for samples in range(1, traces.LIMIT + 4):
        po.curvature.diagonal(model, *_data(samples), estimator="row_sum")
    assert len(vars(model)[traces._ATTRIBUTE]) == traces.LIMIT
    calls = _calls(model)
    po.curvature.diagonal(model, *_data(traces.LIMIT + 3), estimator="row_sum")
    assert _calls(model) == calls
    po.curvature.diagonal(model, *_data(1), estimator="row_sum")
    assert _calls(model) > calls


@pytest.mark.parametrize("in_graph", [False, True])
def test_models_are_collected(in_graph):
    def use():
        model = _model(batch_norm=True)

        def call(x, y):
            return po.curvature.diagonal(model, x, y)

        (tf.function(call) if in_graph else call)(*map(tf.constant, _data()))
        return weakref.ref(model)

    found = use()
    gc.collect()
    assert found() is None


def test_files_and_copies_do_not_hold_the_traces(tmp_path):
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3)])
    model.compile("sgd", LOGITS)
    expected = po.curvature.diagonal(model, *_data())
    model.save(tmp_path / "model.keras")
    for one in (keras.models.load_model(tmp_path / "model.keras"), copy.deepcopy(model)):
        assert traces._ATTRIBUTE not in vars(one)
        found = po.curvature.diagonal(one, *_data())
        _assert_same(dict(zip(expected, found.values(), strict=True)), expected)


@pytest.mark.parametrize("estimator", ["auto", "ggn_mc", "hutchinson", "row_sum"])
def test_in_a_graph_it_is_the_same_and_the_model_stays(estimator):
    model = _model(batch_norm=estimator != "ggn_mc")
    x, y = _data()

    @tf.function
    def in_graph(x, y):
        return po.curvature.diagonal(model, x, y, estimator=estimator, seed=3)

    before = [variable.numpy() for variable in model.variables]
    found = in_graph(tf.constant(x), tf.constant(y))
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable)
    _assert_same(found, po.curvature.diagonal(model, x, y, estimator=estimator, seed=3))
    calls = _calls(model)
    in_graph(tf.constant(x), tf.constant(y))
    assert _calls(model) == calls


def test_in_a_branch_of_a_graph():
    model, (x, y) = _model(), map(tf.constant, _data())
    kernel = model.layers[-1].kernel.path

    @tf.function
    def every_second(number):
        if number % 2 == 0:
            curvature = po.curvature.diagonal(model, x, y)[kernel]
        else:
            curvature = tf.zeros([4, 3])
        return curvature

    expected = po.curvature.diagonal(model, x, y)[kernel]
    np.testing.assert_allclose(every_second(tf.constant(2)), expected, rtol=1e-5)
    assert not np.any(every_second(tf.constant(3)))


def test_in_a_graph_every_run_draws_its_own_probes_unless_it_has_a_seed():
    model, (x, y) = _model(), map(tf.constant, _data())

    def runs(seed):
        @tf.function
        def run():
            found = po.curvature.diagonal(model, x, y, estimator="hutchinson", seed=seed)
            return next(iter(found.values()))

        return run().numpy(), run().numpy()

    first, second = runs(None)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(*runs(3))


def test_what_a_graph_cannot_do_is_told():
    model, (x, y) = _model(), _data()
    call = tf.function(
        lambda x, y: po.curvature.diagonal(model, x, y),
        input_signature=[tf.TensorSpec([None, 5]), tf.TensorSpec([None], tf.int64)],
    )
    with pytest.raises(ValueError, match=r"x has shape \(None, 5\) inside a tf.function"):
        call(x, y)
    model.layers[0].kernel.assign(np.full((5, 4), 3e38))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"curvature of .* holds NaN or inf"):
        tf.function(lambda: po.curvature.diagonal(model, tf.constant(x), tf.constant(y)))()
    half = keras.Sequential([keras.Input((5,)), layers.Dense(3, dtype="mixed_float16")])
    with pytest.raises(ValueError, match="computes in float16"):
        tf.function(
            lambda: po.curvature.diagonal(half, tf.constant(x), tf.constant(y), loss=LOGITS)
        )()


def test_a_model_that_runs_eagerly_is_not_traced():
    model = _model()
    model.compile("sgd", LOGITS, run_eagerly=True)
    first = po.curvature.diagonal(model, *_data(), estimator="row_sum")
    calls = _calls(model)
    _assert_same(po.curvature.diagonal(model, *_data(), estimator="row_sum"), first)
    assert _calls(model) > calls
