"""SynFlow: numbers by hand, its schedule against the twin, and what it refuses."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import prospr_ops as po

QUIET = {"method": "synflow", "verbose": 0}


def _chain(*units: int, inputs: int = 4, **options) -> keras.Model:
    return keras.Sequential(
        [keras.Input((inputs,)), *(layers.Dense(n, use_bias=False, **options) for n in units)]
    )


def _kernels(model):
    return [layer.kernel.numpy().astype(np.float64) for layer in model.layers]


@pytest.mark.parametrize("activation", [None, "relu", "tanh", "sigmoid", "softmax"])
def test_by_hand(activation):
    model = _chain(2, 1, inputs=2, activation=activation)
    model.layers[0].kernel.assign([[1.0, -2.0], [3.0, 4.0]])
    model.layers[1].kernel.assign([[5.0], [-6.0]])
    state = [variable.numpy() for variable in model.variables]
    first, second = po.score(model, None, **QUIET).values()
    # 1 flows into both rows; 5 and 6 out of the columns; 1 + 3 and 2 + 4 into the second layer.
    np.testing.assert_allclose(np.exp(first), [[5.0, 12.0], [15.0, 24.0]], rtol=1e-6)
    np.testing.assert_allclose(np.exp(second), [[20.0], [36.0]], rtol=1e-6)
    for variable, before in zip(model.variables, state, strict=True):
        np.testing.assert_array_equal(variable, before)
    assert model.layers[0].activation is keras.activations.get(activation)
    assert model.layers[0].compute_dtype == "float32"


@pytest.mark.parametrize("sparsity", [0.3, 0.9, 0.97])
def test_prunes_by_the_schedule(sparsity):
    """The masks and last scores of a hundred iterations are the twin's; one shot's are others."""
    model = _chain(24, 16, 3, inputs=20, activation="relu")
    kernels = _kernels(model)
    one_shot = po.select(po.score(model, None, **QUIET), sparsity, min_keep=1)
    result = po.prune(model, None, sparsity=sparsity, **QUIET)
    expected = po.reference.synflow_scores(kernels, sparsity)
    masks = po.reference.select(expected, result.kept)
    for path, scores, mask in zip(result.masks, expected, masks, strict=True):
        np.testing.assert_allclose(np.exp(result.scores[path]), scores, rtol=1e-4)
        np.testing.assert_array_equal(result.masks[path], mask)
    assert sparsity < 0.5 or any((one_shot[path] != result.masks[path]).any() for path in one_shot)
    assert result.losses == ()


def test_no_layer_collapses_where_one_shot_empties_one():
    """The paper's axiomatic point, at a sparsity near the largest there is."""
    model = _chain(100, 100, 100, 2, inputs=100)
    sparsity = 0.997
    one_shot = po.select(po.score(model, None, **QUIET), sparsity)
    assert not all(mask.any() for mask in one_shot.values())
    result = po.prune(model, None, sparsity=sparsity, **QUIET)
    assert all(mask.any() for mask in result.masks.values())


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_every_precision(policy):
    model = _chain(24, 16, 3, dtype=policy)
    expected = po.reference.synflow_scores(_kernels(model))
    for scores, values in zip(po.score(model, None, **QUIET).values(), expected, strict=True):
        assert scores.dtype == ("float64" if policy == "float64" else "float32")
        np.testing.assert_allclose(np.exp(scores), values, rtol=1e-4)


def test_a_deep_network_neither_overflows_nor_vanishes():
    for gain in (10.0, 0.1):  # R is 10^±100, and float32 ends at 10^38
        model = _chain(*[5] * 100, inputs=5)
        for layer in model.layers:
            layer.kernel.assign(np.full(layer.kernel.shape, gain / 5))
        for scores in po.score(model, None, **QUIET).values():
            np.testing.assert_allclose(scores, np.log(5 / 25) + 100 * np.log(gain), rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet20", "vgg16"])
def test_deep_models_stay_finite(name):
    model = getattr(po.models, name)()
    for path, scores in po.score(model, None, **QUIET).items():
        (weights,) = (v.numpy() for v in model.trainable_variables if v.path == path)
        np.testing.assert_array_equal(np.isfinite(scores), weights != 0)  # of millions, one is 0


def test_inference_mode_and_all_outputs():
    inputs = keras.Input((3,))
    x = layers.Dense(4, use_bias=False, name="first")(inputs)
    normalised = layers.BatchNormalization(epsilon=0.0)(layers.Dropout(0.9)(x))
    outputs = [layers.Dense(2, use_bias=False, name=name)(normalised) for name in "ab"]
    model = keras.Model(inputs, outputs)
    kernels = [np.abs(model.get_layer(name).kernel.numpy()) for name in ("first", "a", "b")]
    found = [np.exp(values) for values in po.score(model, None, **QUIET).values()]
    out = kernels[1].sum(axis=1) + kernels[2].sum(axis=1)
    np.testing.assert_allclose(found[0], kernels[0] * out, rtol=1e-5)
    for scores, kernel in zip(found[1:], kernels[1:], strict=True):
        np.testing.assert_allclose(scores, kernels[0].sum(axis=0)[:, None] * kernel, rtol=1e-5)


def test_flow_has_no_ceiling():
    bare = _chain(8, 2, inputs=3)
    limited = keras.Sequential(
        [keras.Input((3,)), bare.layers[0], layers.ReLU(6.0), bare.layers[1]]
    )
    for layer in bare.layers:
        layer.kernel.assign(10 * layer.kernel)
    expected, found = (po.score(model, None, **QUIET) for model in (bare, limited))
    for path, scores in found.items():
        np.testing.assert_array_equal(scores, expected[path])
    assert limited.layers[1].max_value == 6.0


def _softmax():
    return keras.Sequential([keras.Input((3,)), layers.Dense(2), layers.Softmax()])


def _words():
    return keras.Sequential([keras.Input((4,)), layers.Embedding(9, 3), layers.Dense(2)])


def _integers():
    inputs = keras.Input((4,), dtype="int32")
    return keras.Model(inputs, layers.Dense(2)(layers.Rescaling(0.5)(inputs)))


def _any_size():
    return keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_softmax, "depends on the weights; it is 1. .* Softmax"),
        (_words, r"an input of ones means nothing to \['embedding"),
        (_integers, "is int32"),
        (_any_size, "inputs of a fixed shape"),
    ],
)
def test_refuses(make, message):
    model = make()
    with pytest.raises(ValueError, match=message):
        po.score(model, None, **QUIET)
    assert model.layers[-1].compute_dtype == "float32"
