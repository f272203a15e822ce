"""Sparse models in inference on fewer samples than a block has, against the masked ones."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import prospr_ops as po
from prospr_ops.ops.sparse_convolution import BLOCK
from tests.support.called_ops import called_ops

SHAPE = (12, 11, 3)
OF_BLOCKS = {"Prospr>ToBlocks", "Prospr>SparseConv", "Prospr>BlockNorm", "Prospr>FromBlocks"}


def _masked(model, density=0.3):
    random = np.random.default_rng(0)
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]
    po.apply_masks(model, {v.path: random.random(v.shape) < density for v in kernels})
    for variable in model.non_trainable_variables:  # statistics that are not 0 and 1
        if "moving" in variable.path:
            variable.assign(random.uniform(0.5, 2, variable.shape))
    return model


def _images():
    """All that works on blocks: normalisation, its sum and ReLU, padding, pooling, concatenation."""
    layers = keras.layers
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization(epsilon=1e-6)(x))
    shared = layers.Conv2D(8, 3, padding="same", dilation_rate=2)
    y = layers.ReLU()(layers.Add()([x, layers.BatchNormalization(scale=False)(shared(shared(x)))]))
    y = layers.Concatenate()([y, layers.Conv2D(4, (1, 3), padding="same", activation="gelu")(x)])
    y = layers.BatchNormalization(center=False)(layers.MaxPooling2D()(y))
    y = keras.ops.pad(layers.ZeroPadding2D()(y), [(0, 0), (1, 2), (0, 1), (0, 0)])
    y = layers.Conv2D(6, 3, strides=2, padding="same")(layers.Dropout(0.5)(y))
    y = layers.Dense(10, activation="relu")(layers.Flatten()(y))
    return keras.Model(inputs, layers.Dense(3)(y))


def _sequences():
    layers = keras.layers
    inputs = {"a": keras.Input((None, 5), name="a"), "b": keras.Input((7,), name="b")}
    x = layers.Conv1D(6, 3, strides=2, padding="same")(inputs["a"])
    x = layers.GlobalAveragePooling1D()(layers.Dense(4, activation="tanh")(x))
    nested = _masked(keras.Sequential([keras.Input((7,)), layers.Dense(4), layers.ReLU()]))
    y = layers.Multiply()([x, nested(inputs["b"])])
    return keras.Model(inputs, {"sum": layers.Dense(2)(y), "y": y})


@pytest.fixture(params=[_images, _sequences])
def models(request):
    keras.utils.set_random_seed(0)
    masked = _masked(request.param())
    return masked, po.sparsify(masked, layers="all", verbose=0)


def _inputs(model, samples):
    random = np.random.default_rng(1)
    return keras.tree.map_structure(
        lambda one: random.normal(size=(samples, *(n or 9 for n in one.shape[1:]))).astype("f4"),
        model.input,
    )


def _assert_close(outputs, expected):
    for values, exact in zip(*map(keras.tree.flatten, (outputs, expected)), strict=True):
        np.testing.assert_allclose(values, exact, atol=1e-5 * max(1, np.abs(exact).max()))


@pytest.mark.parametrize("samples", [0, 1, 5, BLOCK - 1])
def test_few_samples_need_no_blocks(models, samples):
    masked, fast = models
    x = _inputs(masked, samples)
    with called_ops() as called:
        outputs = fast(x)
    assert "Prospr>SparseConvSmall" in called
    assert not called & OF_BLOCKS
    if samples:
        _assert_close(outputs, masked(x))


def test_many_samples_and_training_are_on_blocks(models):
    _, fast = models
    for samples, training in ((BLOCK, False), (2, True)):
        with called_ops() as called:
            fast(_inputs(fast, samples), training=training)
        assert "Prospr>SparseConvSmall" not in called


def test_a_graph_decides_when_it_knows_the_samples(models):
    masked, fast = models
    for samples in (3, BLOCK, 2 * BLOCK + 5):
        x = _inputs(masked, samples)
        _assert_close(fast.predict(x, batch_size=BLOCK, verbose=0), masked.predict(x, verbose=0))


def test_gradients_go_through_it(models):
    masked, fast = models
    found = []
    for model in (fast, masked):
        x = keras.tree.map_structure(tf.constant, _inputs(model, 3))
        with tf.GradientTape() as tape:
            tape.watch(keras.tree.flatten(x))
            loss = sum(tf.reduce_sum(y**2) for y in keras.tree.flatten(model(x)))
        found.append(tape.gradient(loss, keras.tree.flatten(x)))
    _assert_close(*found)


def test_an_exported_sparse_model_has_both_ways(models, tmp_path):
    masked, fast = models
    fast.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "model")
    for samples in (2, BLOCK):
        x = _inputs(masked, samples)
        _assert_close(loaded.serve(x), masked(x))


def test_a_policy_of_half_precision_changes_no_layer_that_was_made_without():
    keras.utils.set_random_seed(0)
    masked = _masked(po.models.lenet_300_100((8,), 3))
    fast = po.sparsify(masked, layers="all", verbose=0)
    fast.dtype_policy = "mixed_float16"
    for samples in (2, 20):
        x = np.ones((samples, 8), np.float32)
        _assert_close(fast(x), masked(x))
