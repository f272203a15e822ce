"""Sparse models where our ops have no kernels: on a GPU, and where XLA is asked for."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from called_ops import CPU_ONLY, called_ops

import prospr_ops as po
from prospr_ops.sparse import blocks

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _masked(model):
    random = np.random.default_rng(0)
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]
    po.apply_masks(model, {v.path: random.random(v.shape) < 0.3 for v in kernels})
    return model


def _images():
    layers = keras.layers
    inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Add()([x, layers.Conv2D(8, 3, padding="same", dilation_rate=2)(x)])
    x = layers.MaxPooling2D()(layers.Activation("tanh")(x))
    x = layers.Conv2D(6, 3, strides=2)(x)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def _signals():
    layers = keras.layers
    inputs = keras.Input((20, 3))
    x = layers.Conv1D(5, 4, strides=2, padding="same", activation="relu")(inputs)
    x = layers.Dense(4)(x)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


NETWORKS = pytest.mark.parametrize("network", [_images, _signals])


def _step(model, x, y):
    """The outputs, and the gradients by all variables."""
    with tf.GradientTape() as tape:
        outputs = model(x, training=True)
        value = LOSS(y, outputs)
    variables = [variable.value for variable in model.trainable_variables]
    return [outputs, *tape.gradient(value, variables)]


@NETWORKS
@pytest.mark.parametrize("samples", [16, 37])
@pytest.mark.parametrize("in_graph", [False, True])
def test_on_a_gpu_a_step_is_the_same_by_tensorflow_s_operations(
    network, samples, in_graph, monkeypatch
):
    keras.utils.set_random_seed(0)
    fast = po.sparsify(_masked(network()), layers="all", verbose=0)
    x = np.random.default_rng(1).normal(size=(samples, *fast.input_shape[1:])).astype(np.float32)
    y = np.arange(samples) % 3

    def step():
        run = tf.function(lambda: _step(fast, x, y)) if in_graph else lambda: _step(fast, x, y)
        with called_ops() as called:
            return run(), called & CPU_ONLY

    by_ops, called = step()
    assert called >= {"Prospr>SparseConv", "Prospr>SparseConvFilterGradient", "Prospr>ToBlocks"}
    monkeypatch.setattr(blocks, "needs_tensorflow", lambda: True)
    in_full, called = step()
    assert not called
    for found, expected in zip(in_full, by_ops, strict=True):
        largest = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(largest, 1e-2))


@NETWORKS
@pytest.mark.parametrize("gpu", [False, True])
def test_asking_for_xla_says_that_there_is_none_and_trains(network, gpu, monkeypatch):
    keras.utils.set_random_seed(0)
    masked = _masked(network())
    fast = po.sparsify(masked, layers="all", verbose=0)
    monkeypatch.setattr(blocks, "needs_tensorflow", lambda: gpu)
    x = np.random.default_rng(1).normal(size=(32, *fast.input_shape[1:])).astype(np.float32)
    y = np.arange(32) % 3
    masked.compile(keras.optimizers.SGD(0.1), LOSS, jit_compile=False)
    with pytest.warns(UserWarning, match="jit_compile"):
        fast.compile(keras.optimizers.SGD(0.1), LOSS, jit_compile=True)
    for model in (masked, fast):
        model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(fast(x), masked(x), atol=1e-4)
