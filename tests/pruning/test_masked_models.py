"""Models that are masked or partly zero already: what is gone goes first, and stays gone in the steps."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import prospr_ops as po
from prospr_ops.methods import METHODS

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
OPTIONS = {"loss": LOSS, "seed": 3, "batch_size": 16, "verbose": 0}


def _images() -> keras.Model:
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(6, 3, activation="relu", name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.DepthwiseConv2D(2, name="depthwise")(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def _words() -> keras.Model:
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(9, 6, name="words")(inputs)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dense(7, activation="tanh", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def _data(model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    shape = (64, *model.inputs[0].shape[1:])
    if model.inputs[0].dtype == "int32":
        return random.integers(0, 9, shape), random.integers(0, 3, 64)
    return random.standard_normal(shape, "float32"), random.integers(0, 3, 64)


@pytest.mark.parametrize(
    ("make", "method"),
    # SynFlow takes no words.
    [(make, m) for make in (_images, _words) for m in METHODS if (make, m) != (_words, "synflow")],
)
def test_masks_of_a_masked_model_are_nested(make, method):
    model = make()
    options = {"method": method, "allow_empty": True, **OPTIONS}
    first = po.prune(model, _data(model), sparsity=0.5, **options)
    second = po.prune(model, _data(model), sparsity=0.8, **options)
    assert second.kept == -(-second.weights // 5), "the sparsity is that of the whole"
    for path, mask in second.masks.items():
        assert not (mask & ~first.masks[path]).any(), f"{path}: a dead weight was kept"
        assert np.isneginf(second.scores[path][~first.masks[path]]).all()


@pytest.mark.parametrize("method", METHODS)
def test_zeros_without_a_mask_go_first(method):
    """As of a model that came back from a plain file."""
    model = _images()
    zero = {}
    for name in ("conv", "head"):
        kernel = model.get_layer(name).kernel
        zero[kernel.path] = np.random.default_rng(1).random(kernel.shape) < 0.3
        kernel.assign(np.where(zero[kernel.path], 0, kernel.numpy()))
    masks = po.prune(model, _data(model), sparsity=0.5, method=method, **OPTIONS).masks
    for path, gone in zero.items():
        assert not (masks[path] & gone).any()


def test_a_kernel_that_begins_at_zero_is_not_gone():
    model = _images()
    model.get_layer("head").kernel.assign(tf.zeros_like(model.get_layer("head").kernel.value))
    masks = po.prune(model, None, sparsity=0.5, method="random", **OPTIONS).masks
    assert masks["head/kernel"].any()


@pytest.mark.parametrize("method", METHODS)
def test_channels_that_are_gone_go_first(method):
    model = _images()
    first = po.prune(
        model, _data(model), sparsity=0.3, structure="channel", method=method, **OPTIONS
    )
    second = po.prune(
        model, _data(model), sparsity=0.5, structure="channel", method=method, **OPTIONS
    )
    for path, mask in second.masks.items():
        assert not (mask & ~first.masks[path]).any()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("method", ["exact", "first_order"])
def test_pruned_weights_stand_still_in_the_steps(method, momentum):
    """Against one tape through steps that move the kept weights alone."""
    model = _words()
    data = _data(model)
    masks = po.prune(model, None, sparsity=0.6, method="random", **OPTIONS).masks
    steps, rate = 3, 0.5
    batches = []

    class Recorded:
        def __iter__(self):
            for start in range(0, 64, 16):
                batch = (data[0][start : start + 16], data[1][start : start + 16])
                batches.append(batch)
                yield batch

    found = po.score(
        model,
        Recorded(),
        method=method,
        steps=steps,
        learning_rate=rate,
        momentum=momentum,
        loss=LOSS,
        seed=3,
        verbose=0,
    )
    variables = model.trainable_variables
    kept = [tf.constant(masks[v.path]) if v.path in masks else None for v in variables]
    initial = [tf.identity(v.value) for v in variables]

    def loss_of(weights, batch):
        values, _ = model.stateless_call(weights, [], batch[0], training=True)
        return LOSS(batch[1], values)

    def held(gradients):
        return [
            g if mask is None else tf.where(mask, g, 0.0)
            for g, mask in zip(map(tf.convert_to_tensor, gradients), kept, strict=True)
        ]

    mask_values = [tf.ones_like(w) for w in initial]
    with tf.GradientTape() as outer:
        outer.watch(mask_values)
        weights = [c * w for c, w in zip(mask_values, initial, strict=True)]
        velocities = [tf.zeros_like(w) for w in weights]
        for batch in batches[:steps]:
            with tf.GradientTape() as tape:
                tape.watch(weights)
                loss = loss_of(weights, batch)
            gradients = held(tape.gradient(loss, weights))
            velocities = [momentum * v + g for v, g in zip(velocities, gradients, strict=True)]
            weights = [w - rate * v for w, v in zip(weights, velocities, strict=True)]
        last = loss_of(weights, batches[steps])
    for weight, before, mask in zip(weights, initial, kept, strict=True):
        if mask is not None:
            np.testing.assert_array_equal(weight.numpy()[~mask.numpy()], 0)
            assert np.any(weight.numpy() != before.numpy())
    if method == "exact":
        expected = outer.gradient(last, mask_values)
    else:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            last = loss_of(weights, batches[steps])
        products = zip(held(tape.gradient(last, weights)), initial, strict=True)
        expected = [g * w for g, w in products]
    for variable, value in zip(variables, expected, strict=True):
        if variable.path in found:
            wanted = np.abs(tf.convert_to_tensor(value).numpy())
            np.testing.assert_allclose(
                np.exp(found[variable.path]), wanted, rtol=2e-3, atol=1e-5 * wanted.max()
            )


def test_diagonal_takes_the_same_steps():
    losses = []
    for method in ("exact", "diagonal"):
        model = _words()
        options = {"method": method, "steps": 3, "learning_rate": 0.5, **OPTIONS}
        keras.utils.set_random_seed(2)
        for variable in model.trainable_variables:
            variable.assign(keras.random.normal(variable.shape, seed=len(variable.path)))
        po.apply_masks(model, {"hidden/kernel": np.arange(42).reshape(6, 7) % 3 == 0})
        losses.append(po.prune(model, _data(model), sparsity=0.7, **options).losses)
    np.testing.assert_allclose(*losses, rtol=1e-5)
