"""Layers that are left without a weight: accepted where the output still depends on the input."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import prospr_ops as po
from prospr_ops.pruning.connectivity import depends_on_input, sampled
from prospr_ops.pruning.flops import input_specs


def _gated() -> keras.Model:
    """A squeeze-and-excite gate of Dense layers, with a swish in it."""
    inputs = keras.Input((6, 6, 2))
    h = layers.Conv2D(4, 3, name="stem")(inputs)
    gate = layers.GlobalAveragePooling2D()(h)
    gate = layers.Dense(2, activation="silu", name="squeeze")(gate)
    gate = layers.Dense(4, activation="hard_sigmoid", name="excite")(gate)
    h = layers.Multiply()([h, layers.Reshape((1, 1, 4))(gate)])
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(h)))


def _transformer() -> keras.Model:
    """Word indices, attention beside a way past it, and a last layer that begins at zero."""
    inputs = keras.Input((5,), dtype="int32")
    h = layers.Embedding(7, 8, name="words")(inputs)
    h = layers.Add()([h, layers.MultiHeadAttention(2, 4, name="attention")(h, h)])
    h = layers.LayerNormalization()(h)
    h = layers.GlobalAveragePooling1D()(h)
    return keras.Model(inputs, layers.Dense(3, kernel_initializer="zeros", name="head")(h))


def _plain() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, activation="relu", name="one"),
            layers.BatchNormalization(),
            layers.Dense(5, activation="relu", name="two"),
            layers.Dense(2, activation="softmax", name="head"),
        ]
    )


def _masks(model: keras.Model, *empty: str) -> dict[str, np.ndarray]:
    weights = [v for v in model.trainable_variables if len(v.shape) > 1]
    return {
        v.path: np.full(v.shape, not any(f"{name}/" in v.path for name in empty)) for v in weights
    }


@pytest.mark.parametrize(
    ("make", "empty", "connected"),
    [
        (_gated, ("squeeze",), True),
        (_gated, ("excite", "squeeze"), True),
        (_gated, ("stem",), False),
        (_gated, ("head",), False),
        (_transformer, ("attention",), True),
        (_transformer, ("query", "key"), True),
        (_transformer, ("words",), False),
        (_transformer, (), True),
        (_plain, (), True),
        (_plain, ("two",), False),
    ],
)
def test_what_cuts_the_output_off(make, empty, connected):
    model = make()
    before = [variable.numpy() for variable in model.variables]
    inputs = sampled(input_specs(model))
    assert depends_on_input(model, _masks(model, *empty), inputs) is connected
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_path_of_single_weights_is_enough():
    model = keras.Sequential([keras.Input((20,)), *(layers.Dense(20, "relu") for _ in range(12))])
    masks = _masks(model)
    for mask in masks.values():
        mask[:] = False
        mask[3, 3] = True
    assert depends_on_input(model, masks, sampled(input_specs(model)))
    masks[model.layers[5].kernel.path][3] = np.eye(20, dtype=bool)[4]  # the path ends here
    assert not depends_on_input(model, masks, sampled(input_specs(model)))


def test_prune_warns_of_a_branch_and_refuses_a_trunk():
    x = np.random.default_rng(0).normal(size=(32, 6, 6, 2)).astype("float32")
    y = np.arange(32) % 3
    options = {"sparsity": 0.5, "method": "magnitude", "seed": 0, "verbose": 0}
    model = _gated()
    for name in ("squeeze", "excite"):
        model.get_layer(name).kernel.assign(tf.zeros_like(model.get_layer(name).kernel.value))
    with pytest.warns(UserWarning, match="no weight is left in squeeze/kernel, excite/kernel"):
        result = po.prune(model, (x, y), **options)
    assert result.kept == -(-result.weights // 2)

    model = _gated()
    model.get_layer("stem").kernel.assign(model.get_layer("stem").kernel * 1e-9)
    before = [variable.numpy() for variable in model.variables]
    with pytest.raises(ValueError, match=r"no longer depend on its input: .* left in stem/kernel"):
        po.prune(model, (x, y), **options)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert po.prune(model, (x, y), **options, allow_empty=True).kept == result.kept
