"""Moving averages of batch normalisation while a loss is evaluated."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from prospr_ops.data.batches import Batch
from prospr_ops.network.loss import Objective

X = np.random.default_rng(0).normal(3.0, 2.0, (16, 6)).astype(np.float32)


def _moves(model: keras.Model, layer: layers.BatchNormalization) -> bool:
    before = layer.moving_mean.numpy()
    objective = Objective.of(model, "mse")
    batch = Batch(tf.constant(X), tf.zeros([16, 1]))
    value = objective(batch)
    moved = bool(np.any(layer.moving_mean.numpy() != before))
    layer.moving_mean.assign(before)
    # As Keras computes it.
    wanted = keras.ops.mean(keras.ops.square(model(X, training=True)))
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    assert "call" not in vars(layer)
    return moved


def test_averages_that_nothing_reads_stay():
    norm = layers.BatchNormalization()
    assert not _moves(keras.Sequential([keras.Input((6,)), norm, layers.Dense(1)]), norm)
    inner_norm = layers.BatchNormalization(scale=False, center=False)
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(5), inner_norm])
    inputs = keras.Input((6,))
    assert not _moves(keras.Model(inputs, layers.Dense(1)(inner(inputs))), inner_norm)


def test_averages_that_another_call_reads_move():
    norm = layers.BatchNormalization()
    inputs = keras.Input((6,))
    read = norm(layers.Dense(6)(norm(inputs)), training=False)
    assert _moves(keras.Model(inputs, layers.Dense(1)(read)), norm)


@pytest.mark.parametrize("options", [{"trainable": False}, {}])
def test_a_frozen_layer_and_one_within_another_layer_do_as_in_keras(options):
    class Wrapping(layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = layers.BatchNormalization(**options)

        def build(self, shape):
            self.norm.build(shape)

        def call(self, x, training=None):
            return self.norm(x, training=training)

    wrapping = Wrapping()
    model = keras.Sequential([keras.Input((6,)), wrapping, layers.Dense(1)])
    assert _moves(model, wrapping.norm) == (not options)


def test_half_precision_and_an_error_leave_the_layer_as_it_was():
    norm = layers.BatchNormalization(dtype="mixed_float16")
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(1)(norm(inputs)))
    assert model(X).dtype == "float32"
    objective = Objective.of(model, "mse")
    objective(Batch(tf.constant(X), tf.zeros([16, 1])))
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        objective(Batch(tf.zeros([16, 5]), tf.zeros([16, 1])))
    assert "call" not in vars(norm)
