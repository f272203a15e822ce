"""Models that compute with their kept weights alone, against the masked ones."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import prospr_ops as po

SHAPE = (12, 12, 3)


def _masked(model, density=0.3):
    random = np.random.default_rng(0)
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]
    po.apply_masks(model, {v.path: random.random(v.shape) < density for v in kernels})
    return model


def _network():
    """Strides, dilation, padding, a residual sum, a concatenation and a shared layer."""
    layers = keras.layers
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    shared = layers.Conv2D(8, 3, padding="same", dilation_rate=2, name="shared")
    y = layers.Add()([x, shared(shared(x))])
    y = layers.Concatenate()([y, layers.Conv2D(4, (1, 3), padding="same", name="wide")(x)])
    y = layers.MaxPooling2D()(layers.Activation("tanh")(y))
    y = layers.Conv2D(6, 3, strides=2, padding="same", name="stride")(y)
    y = layers.Dense(10, activation="relu", name="hidden")(layers.Flatten()(y))
    return keras.Model(inputs, layers.Dense(3, name="logits")(y))


def _fit(model, x, y, optimizer):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.get(optimizer), loss)
    model.fit(x, y, batch_size=18, epochs=2, shuffle=False, verbose=0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_it_trains_like_the_masked_model(optimizer, tmp_path):
    keras.utils.set_random_seed(0)
    masked = _masked(_network())
    fast = po.sparsify(masked, layers="all", verbose=0)
    x = np.random.default_rng(1).normal(size=(40, *SHAPE)).astype(np.float32)
    y = np.arange(40) % 3
    _fit(masked, x, y, optimizer)
    _fit(fast, x, y, optimizer)
    np.testing.assert_allclose(fast(x), masked(x), atol=2e-3)
    kept = sum(
        int(layer.kernel_constraint.mask.numpy().sum())
        for layer in masked.layers
        if hasattr(layer, "kernel_constraint") and layer.kernel_constraint
    )
    sizes = [v for v in fast.trainable_variables if v.name == "kernel"]
    assert sum(int(np.prod(v.shape)) for v in sizes) == kept
    again = po.densify(fast)
    assert [layer.name for layer in again.layers] == [layer.name for layer in masked.layers]
    np.testing.assert_allclose(again(x), fast(x), atol=1e-5)
    np.testing.assert_allclose(po.strip(fast)(x), fast(x), atol=1e-5)
    fast.save(tmp_path / "fast.keras")
    loaded = keras.saving.load_model(tmp_path / "fast.keras")
    np.testing.assert_allclose(loaded(x), fast(x), atol=1e-6)


def test_a_sequential_model_is_sequential_again():
    masked = _masked(po.models.lenet5_caffe((16, 16, 1)))
    again = po.densify(po.sparsify(masked, layers="all", verbose=0))
    assert isinstance(again, keras.Sequential)
    for one, other in zip(masked.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_cannot_be_sparse_is_refused():
    model = po.models.lenet_300_100((8,), 3)
    with pytest.raises(ValueError, match="has no masks"):
        po.sparsify(model)
    _masked(model)
    with pytest.raises(ValueError, match="cannot go sparse"):
        po.sparsify(model, layers=["no_such"], verbose=0)
    model.layers[-1].kernel.assign(np.ones((100, 3)))
    with pytest.raises(ValueError, match="not zero"):
        po.sparsify(model, verbose=0)
    with pytest.raises(ValueError, match="none that sparsify made"):
        po.densify(model)
