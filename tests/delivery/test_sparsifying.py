"""Models that compute with their kept weights alone, against the masked ones."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import prospr_ops as po
from prospr_ops import ops
from prospr_ops.sparse import blocks
from prospr_ops.sparse.layers import SparseLayer

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


@pytest.mark.parametrize("samples", [7, 32, 40])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_are_normalised_as_their_samples(samples, dtype):
    random = np.random.default_rng(0)
    shapes = [(samples, 3, 2, 5), (samples, 3, 2, 5), (5,), (5,)]
    given = [tf.constant(random.normal(1, 1, shape), dtype) for shape in shapes]

    def results(normalise, dtype):
        x, g, gamma, beta = (tf.cast(tensor, dtype) for tensor in given)
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta])
            # What lies in lanes without a sample must not matter.
            occupied = ops.to_blocks(tf.ones_like(x)) > 0
            laid = tf.where(occupied, ops.to_blocks(x), tf.constant(9, dtype))
            y, mean, variance = normalise(laid, gamma, beta, 1e-3, tf.shape(x)[0])
            y = ops.from_blocks(y, samples)
            loss = tf.reduce_sum(y * g)
        return [y, mean, variance, *tape.gradient(loss, [x, gamma, beta])]

    exact = results(blocks.normalise_in_full, "float64")  # in float32 its gradients cancel
    for values, twin in zip(results(blocks.normalise, dtype), exact, strict=True):
        tolerance = 1e2 * np.abs(twin).max() * np.finfo(dtype).eps
        np.testing.assert_allclose(values, twin, rtol=0, atol=tolerance)


def _gradients(model, x, y):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        value = loss(y, model(x, training=True))
    variables = [variable.value for variable in model.trainable_variables]
    return dict(
        zip(
            (v.path for v in model.trainable_variables),
            tape.gradient(value, variables),
            strict=True,
        )
    )


@pytest.mark.parametrize("network", ["own", "vgg16", "resnet20"])
def test_the_gradients_of_one_step_are_those_of_the_masked_model(network):
    keras.utils.set_random_seed(0)
    masked = _network() if network == "own" else getattr(po.models, network)((16, 16, 3))
    if network == "vgg16":  # whose gradient jumps where rounding decides which pixel is the largest
        config = masked.get_config()
        for layer in config["layers"]:
            layer["class_name"] = layer["class_name"].replace("MaxPooling", "AveragePooling")
        masked = keras.Sequential.from_config(config)
    _masked(masked)
    fast = po.sparsify(masked, layers="all", verbose=0)
    shape = masked.input_shape[1:]
    x = np.random.default_rng(1).normal(size=(18, *shape)).astype(np.float32)
    expected, found = (_gradients(model, x, np.arange(18) % 3) for model in (masked, fast))
    sparse = {
        layer.kernel.path: layer.filters for layer in fast.layers if isinstance(layer, SparseLayer)
    }
    assert sparse
    for (path, ours), theirs in zip(found.items(), expected.values(), strict=True):
        exact = theirs.numpy()
        if path in sparse:
            exact = sparse[path].kept(exact.reshape(sparse[path].mask.shape))
        error = np.abs(ours - exact).max() / np.abs(exact).max()
        assert error < 1e-4, path


def test_nested_models_callbacks_averages_and_a_fresh_process(tmp_path):
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(6)]
    )
    inputs = keras.Input((6,))
    outputs = keras.layers.Dense(3)(inner(inner(inputs)))
    masked = keras.Model(inputs, outputs)
    random = np.random.default_rng(0)
    kernels = [v for v in masked.trainable_variables if v.name == "kernel"]
    po.apply_masks(masked, {v.path: random.random(v.shape) < 0.4 for v in kernels})
    fast = po.sparsify(masked, layers="all", verbose=0)
    assert fast.count_params() < masked.count_params()
    x, y = random.normal(size=(48, 6)).astype(np.float32), np.arange(48) % 3
    best = tmp_path / "best.keras"
    for model in (masked, fast):
        optimizer = keras.optimizers.Adam(
            0.01, use_ema=True, ema_overwrite_frequency=4, gradient_accumulation_steps=2
        )
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        callbacks = [
            keras.callbacks.ReduceLROnPlateau("loss", patience=1),
            keras.callbacks.SwapEMAWeights(),
            keras.callbacks.ModelCheckpoint(best, monitor="loss"),
        ]
        model.fit(x, y, batch_size=16, epochs=4, shuffle=False, verbose=0, callbacks=callbacks)
    np.testing.assert_allclose(fast(x), masked(x), atol=1e-4)
    np.testing.assert_allclose(po.densify(fast)(x), fast(x), atol=1e-5)
    fast.save(tmp_path / "fast.keras")
    np.save(tmp_path / "x.npy", x)
    code = (
        "import keras, numpy as np, prospr_ops; "
        "model = keras.saving.load_model('fast.keras'); "
        "np.save('y.npy', model(np.load('x.npy'))); model.fit(np.load('x.npy'), np.zeros(48), verbose=0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), fast(x), atol=1e-6)


def test_what_stays_dense_keeps_its_masks():
    inputs = keras.Input((5, 8))
    attended = keras.layers.MultiHeadAttention(2, 4)(inputs, inputs)
    masked = keras.Model(inputs, keras.layers.Dense(3, name="last")(attended))
    random = np.random.default_rng(0)
    kernels = [v for v in masked.trainable_variables if v.name == "kernel"]
    with pytest.warns(UserWarning, match="will not write"):  # those of the attention
        po.apply_masks(masked, {v.path: random.random(v.shape) < 0.4 for v in kernels})
    fast = po.sparsify(masked, layers="all", verbose=0)
    x, y = random.normal(size=(32, 5, 8)).astype(np.float32), np.zeros((32, 5, 3))
    for model in (masked, fast):
        model.compile("adam", "mse")
        model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(fast(x), masked(x), atol=1e-5)
    kept = [int(np.count_nonzero(v)) for v in masked.get_weights()]
    assert [int(np.count_nonzero(v)) for v in po.densify(fast).get_weights()] == kept
