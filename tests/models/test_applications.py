"""Any Keras model: networks of keras.applications, and a Transformer."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
from keras import layers

import prospr_ops as po

METHODS = ("exact", "diagonal", "first_order")

# Untrained networks, and the size of the images that they are tried on: small, but enough for their
# strides. Tracing them takes most of the time.
APPLICATIONS = {
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "DenseNet121": 32,
    "NASNetMobile": 32,
    "InceptionV3": 75,
    "Xception": 71,
    "ConvNeXtTiny": 32,
    "VGG16": 32,
}
CLASSES = 10
BATCH = 4
# Of VGG16, which normalises nothing, a few samples that look alike leave most units dead.
BATCHES = {"VGG16": 64}

# Of attention no configuration carries a mask, which pruning warns of; here nothing is saved.
unsaved_masks = pytest.mark.filterwarnings("ignore:model.save will not write the masks")


def transformer() -> keras.Model:
    """A classifier of token sequences: two blocks of attention and a perceptron, pre-normalised."""
    tokens = keras.Input((12,), dtype="int32")
    x = layers.Embedding(50, 16)(tokens)
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 8)(y, y)])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(16)(layers.Dense(32, activation="gelu")(y))
        x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(tokens, layers.Dense(CLASSES)(x))


def _check(model: keras.Model, x: np.ndarray, method: str, batch: int = BATCH) -> po.PruneResult:
    """Score, select and apply: finite scores, exact counts, and the rest of the model as before."""
    labels = np.random.default_rng(1).integers(0, CLASSES, len(x))
    before = {variable.path: variable.numpy() for variable in model.variables}
    result = po.prune(
        model,
        (x, labels),
        sparsity=0.9,
        method=method,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps=1,
        learning_rate=0.01,
        batch_size=batch,
        seed=0,
        min_keep=1,
        verbose=0,
    )
    assert result.kept == math.ceil(result.weights * (10 - 9) / 10)
    for scores in result.scores.values():
        # −inf is the score of a weight that the loss does not depend on: a dead unit, an unused word.
        assert not np.isnan(scores).any()
        assert not np.isposinf(scores).any()
    scored = np.concatenate([scores.ravel() for scores in result.scores.values()])
    assert np.isfinite(scored).mean() > 0.5
    for variable in model.variables:
        mask = result.masks.get(variable.path, True)
        np.testing.assert_array_equal(
            variable, np.where(mask, before[variable.path], 0), err_msg=variable.path
        )
    return result


@pytest.mark.slow
@unsaved_masks
@pytest.mark.parametrize("name", APPLICATIONS)
def test_network(name):
    size, batch = APPLICATIONS[name], BATCHES.get(name, BATCH)
    # Four coloured squares each: from images of noise a deep network makes nearly the same.
    squares = np.random.default_rng(0).uniform(-1, 1, (2 * batch, 2, 2, 3)).astype("float32")
    x = squares.repeat(size // 2 + 1, axis=1).repeat(size // 2 + 1, axis=2)[:, :size, :size]
    for method in METHODS:
        model = getattr(keras.applications, name)(
            weights=None, input_shape=x.shape[1:], classes=CLASSES, classifier_activation=None
        )
        _check(model, x, method, batch)


@unsaved_masks
@pytest.mark.parametrize("method", METHODS)
def test_transformer(method):
    x = np.random.default_rng(0).integers(0, 50, (2 * BATCH, 12))
    result = _check(transformer(), x, method)
    if method == "diagonal":
        assert all(origin.startswith("ggn") for origin in result.estimators.values())


@pytest.mark.parametrize("method", METHODS)
def test_resnet20(method):
    x = np.random.default_rng(0).uniform(-1, 1, (2 * BATCH, 16, 16, 3)).astype("float32")
    _check(po.models.resnet20((16, 16, 3)), x, method)


@pytest.mark.parametrize("method", ["exact", "snip"])
def test_global_scores_empty_queries_and_keys_first(method):
    x = np.random.default_rng(0).integers(0, 50, (64, 12))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    scores = po.score(
        transformer(), (x, x[:, 0] % CLASSES), method=method, loss=loss, seed=0, verbose=0
    )

    def kept(scope: str, *names: str) -> float:
        masks = po.select(scores, 0.8, scope)
        return np.concatenate(
            [mask.ravel() for path, mask in masks.items() if any(name in path for name in names)]
        ).mean()

    assert kept("global", "query", "key/") < kept("global", "value", "attention_output") / 3
    assert kept("layer", "query") == pytest.approx(kept("layer", "value"))
