"""What the default prunes, and what a pattern names."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import prospr_ops as po
from prospr_ops.network.weights import prunable_weights

RANDOM = np.random.default_rng(0)
SERIES = RANDOM.standard_normal((16, 5, 4)).astype("float32")
FILMS = RANDOM.standard_normal((16, 3, 6, 6, 2)).astype("float32")
Y = RANDOM.standard_normal((16, 1)).astype("float32")

RECURRENT = {
    "SimpleRNN": (lambda: layers.SimpleRNN(6), SERIES, 2),
    "GRU, unrolled": (lambda: layers.GRU(6, unroll=True), SERIES, 2),
    "LSTM in two directions": (lambda: layers.Bidirectional(layers.LSTM(6)), SERIES, 4),
    "stacked cells": (lambda: layers.RNN([layers.GRUCell(5), layers.SimpleRNNCell(4)]), SERIES, 4),
    "ConvLSTM": (lambda: layers.ConvLSTM2D(3, 3), FILMS, 2),
}


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_kernels_are_pruned_and_stay_so(kind, tmp_path):
    make, x, kernels = RECURRENT[kind]
    inputs = keras.Input(x.shape[1:])
    outputs = layers.Dense(1, name="head")(layers.Flatten()(make()(inputs)))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "mse")
    assert len(prunable_weights(model)) == kernels + 1
    for method in ("exact", "grasp", "synflow"):
        scores = po.score(model, (x, Y), method=method, steps=1, batch_size=8, verbose=0)
        assert all(np.isfinite(values).any() for values in scores.values())
    result = po.prune(model, (x, Y), sparsity=0.7, method="snip", scope="layer", seed=0, verbose=0)
    model.fit(x, Y, epochs=2, verbose=0)
    for path, weight in prunable_weights(model).items():
        assert not np.any(weight.numpy()[~result.masks[path]])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.fit(x, Y, epochs=1, verbose=0)
    zeros = [int(np.sum(weight.numpy() == 0)) for weight in prunable_weights(loaded).values()]
    assert zeros == [int(np.sum(~mask)) for mask in result.masks.values()]


def test_uses_of_an_unrolled_cell_are_its_steps():
    model = keras.Sequential(
        [keras.Input((5, 4)), layers.LSTM(6, unroll=True), layers.Dense(1, name="head")]
    )
    uses = po.prune(model, None, sparsity=0.5, method="random", verbose=0).uses
    assert sorted(uses.values()) == [1, 5, 5]


def test_the_kernel_of_a_wrapped_layer_is_the_layers_own():
    inner = layers.Dense(6, name="inner")
    model = keras.Sequential([keras.Input((4,)), layers.SpectralNormalization(inner)])
    assert [id(variable) for variable in prunable_weights(model).values()] == [id(inner.kernel)]


def _named(*names: str) -> keras.Model:
    return keras.Sequential([keras.Input((4,)), *(layers.Dense(4, name=name) for name in names)])


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("a[0]/kernel", ["a[0]"]),
        ("a[[]0]/kernel", None),
        ("a[01]/kernel", None),
        ("a*/kernel", ["a[0]", "a0", "a.b"]),
        ("a?/kernel", ["a0"]),
        ("a.b/kernel", ["a.b"]),
        ("?[!x]/kernel", ["x[!x]"]),
        ("A0/kernel", None),
    ],
)
def test_only_two_characters_are_wildcards(pattern, chosen):
    model = _named("a[0]", "a0", "a.b", "x[!x]")
    pattern = f"{model.name}/{pattern}"
    if chosen is None:
        with pytest.raises(ValueError, match="matches none of"):
            prunable_weights(model, [pattern])
    else:
        assert [path.split("/")[-2] for path in prunable_weights(model, [pattern])] == chosen


class _Own(keras.layers.Layer):
    """A matrix that no stock layer owns, and a vector."""

    def build(self, shape):
        self.mix = self.add_weight(shape=(shape[-1], 5), name="mix")
        self.shift = self.add_weight(shape=(5,), name="shift")

    def call(self, inputs):
        return inputs @ self.mix + self.shift


@pytest.mark.parametrize(("units", "named"), [(4, True), (4000, False)])
def test_large_matrices_that_the_default_leaves_out_are_known(units, named):
    model = keras.Sequential([keras.Input((3,)), _Own(name="own"), keras.layers.Dense(units)])
    result = po.prune(model, None, sparsity=0.5, method="magnitude", verbose=0)
    expected = ["3×5 (15 weights; _Own)"] if named else []
    assert list(result.left_out.values()) == expected
    chosen = po.prune(
        model, None, sparsity=0.5, method="magnitude", prunable=["*dense*/kernel"], verbose=0
    )
    assert chosen.left_out == {}
