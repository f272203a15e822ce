"""Depthwise convolutions, products by EinsumDense, and layers within layers, sparse against masked."""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import layers

import prospr_ops as po
from prospr_ops.pruning.masks import masked_weights
from prospr_ops.sparse import blocks
from prospr_ops.sparse.filters import contracted_axes
from prospr_ops.sparse.parts import SparsePart, WithSparseParts

SAMPLES = 20
# No configuration carries the masks of layers within layers.
_UNSAVED = pytest.mark.filterwarnings("ignore:model.save will not write the masks")


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """Attention and a list of dense layers, made when it is first called."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.attention = layers.MultiHeadAttention(2, width // 2, name="attention")
        self.hidden = [
            layers.Dense(2 * width, lambda x: 2 * keras.activations.softmax(x), name="up"),
            layers.Dense(width, name="down"),
        ]
        self.dropout = layers.Dropout(0.5, seed=1)

    def build(self, shape):
        self.attention.build(shape, shape)
        up, down = self.hidden
        up.build(shape)
        down.build((*shape[:-1], 2 * self.width))

    def call(self, x):
        x = x + self.attention(x, x)
        y = x
        for layer in self.hidden:
            y = layer(y)
        return self.dropout(x + y)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("tests")
class Tied(layers.Layer):
    """Multiplies by the kernel of its inner layer itself, which only works while it is a matrix."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(6, name="inner")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return keras.ops.matmul(self.inner(x), keras.ops.transpose(self.inner.kernel))


def _masked(*stack, shape, density=0.4):
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input(shape)
    for layer in stack:
        x = layer(x, x) if isinstance(layer, layers.MultiHeadAttention) else layer(x)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(layers.Flatten()(x)))
    random = np.random.default_rng(0)
    po.apply_masks(
        model,
        {
            v.path: random.random(v.shape) < density
            for v in model.trainable_variables
            if v.name == "kernel"
        },
    )
    return model


def _data(model):
    random = np.random.default_rng(1)
    x = random.normal(size=(SAMPLES, *model.input_shape[1:])).astype(np.float32)
    return x, np.arange(SAMPLES) % 3


def _kept(model):
    return sum(int(mask.mask.numpy().sum()) for *_, mask in masked_weights(model).values())


def _check(masked, tmp_path, monkeypatch):
    """All that is promised of a sparse model; returns it."""
    fast = po.sparsify(masked, layers="all", verbose=0)
    x, y = _data(masked)
    np.testing.assert_allclose(fast(x), masked(x), atol=1e-5)
    np.testing.assert_allclose(fast(x[:3]), masked(x[:3]), atol=1e-5)
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "needs_tensorflow", lambda: True)
        np.testing.assert_allclose(fast(x), masked(x), atol=1e-5)
    sizes = [v.shape for v in fast.trainable_variables if v.name == "kernel"]
    assert sum(int(np.prod(size)) for size in sizes) == _kept(masked)
    assert len({v.path for v in fast.variables}) == len(fast.variables)

    fast.save(tmp_path / "fast.keras")
    loaded = keras.saving.load_model(tmp_path / "fast.keras")
    np.testing.assert_allclose(loaded(x), fast(x), atol=1e-6)
    before = po.densify(loaded)
    for one, other in zip(masked.get_weights(), before.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)

    losses = []
    for model in (masked, fast):
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        fitted = model.fit(x, y, batch_size=7, epochs=3, shuffle=False, verbose=0)
        losses.append(fitted.history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-3)
    np.testing.assert_allclose(fast(x), masked(x), atol=1e-3)
    again = po.densify(fast)
    np.testing.assert_allclose(again(x), fast(x), atol=1e-5)
    assert _kept(again) == _kept(masked)
    return fast


@pytest.mark.parametrize(
    "layer",
    [
        layers.DepthwiseConv2D(3, padding="same", activation="relu"),
        layers.DepthwiseConv2D((2, 3), strides=2, padding="same", depth_multiplier=2),
        layers.DepthwiseConv2D(3, dilation_rate=2, use_bias=False, depthwise_regularizer="l2"),
    ],
    ids=["same", "multiplied", "dilated"],
)
def test_depthwise_convolutions(layer, tmp_path, monkeypatch):
    layer = type(layer).from_config(layer.get_config())
    norm = layers.BatchNormalization()
    masked = _masked(layers.Conv2D(5, 3), layer, norm, layers.ReLU(6), shape=(10, 9, 2))
    fast = _check(masked, tmp_path, monkeypatch)
    (sparse,) = [one for one in fast.layers if one.name == layer.name]
    assert sparse.filters.depthwise
    assert sparse.filters.constants()[0].shape == sparse.kernel.shape


def test_depthwise_convolutions_along_one_axis(tmp_path, monkeypatch):
    layer = layers.DepthwiseConv1D(3, strides=2, padding="same", depth_multiplier=3)
    _check(_masked(layer, shape=(9, 4)), tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("equation", "shape", "bias", "shape_in"),
    [
        ("abc,cde->abde", (5, 2, 3), "de", (5, 4)),
        ("abcd,cde->abe", (5, 6), "e", (5, 2, 3)),
        ("...x,xy->...y", 7, None, (3, 2, 4)),
        ("ab,bc->ac", 5, "c", (4,)),
    ],
)
def test_products_by_einsum(equation, shape, bias, shape_in, tmp_path, monkeypatch):
    layer = layers.EinsumDense(equation, shape, bias_axes=bias, activation="relu", name="product")
    fast = _check(_masked(layer, shape=shape_in), tmp_path, monkeypatch)
    assert type(fast.get_layer("product")).__name__ == "SparseLayer"


@pytest.mark.parametrize(
    ("equation", "bias", "axes"),
    [
        ("abc,cde->abde", "de", 1),
        ("abcd,cde->abe", "e", 2),
        ("abc,cde->abde", "d", None),  # the bias is shared by the last axis
        ("abc,bd->adc", None, None),  # the sum is over an axis in the middle
        ("abc,bcd->abd", None, None),  # each position has a matrix of its own
        ("abc,cd->adb", None, None),  # the result is transposed
        ("a,ab->b", None, None),  # nothing is before the axis that is summed over
        ("abcd,dce->abe", None, None),  # two axes in another order
    ],
)
def test_which_equations_are_products(equation, bias, axes):
    layer = layers.EinsumDense(equation, output_shape=(None,), bias_axes=bias)
    assert contracted_axes(layer) == axes


@_UNSAVED
def test_layers_within_layers(tmp_path, monkeypatch):
    attention = layers.MultiHeadAttention(4, 2, name="attention")
    masked = _masked(Block(8, name="first"), attention, Block(8, name="second"), shape=(6, 8))
    fast = _check(masked, tmp_path, monkeypatch)
    assert sum(isinstance(layer, WithSparseParts) for layer in fast.layers) == 3
    parts = [layer for layer in fast._flatten_layers() if isinstance(layer, SparsePart)]
    assert len(parts) == 3 * 4 + 2 * 2
    x, _ = _data(masked)
    assert not np.allclose(fast(x, training=True), fast(x))  # what is within knows of training


@_UNSAVED
def test_masks_of_steps_reach_layers_within_layers():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 8, mask_zero=True)(inputs)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    masked = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
    options = {"method": "magnitude", "scope": "layer", "verbose": 0}
    po.prune(masked, None, sparsity=0.5, **options)
    fast = po.sparsify(masked, layers=["attention"], verbose=0)
    tokens = np.random.default_rng(0).integers(0, 9, (20, 6)) * [1, 1, 1, 1, 0, 0]
    np.testing.assert_allclose(fast(tokens), masked(tokens), atol=1e-5)


@_UNSAVED
def test_what_is_called_in_another_way_stays_dense(capsys):
    dense = layers.Dense(6, name="inner")
    masked = _masked(layers.TimeDistributed(dense, name="times"), Tied(name="tied"), shape=(4, 6))
    fast = po.sparsify(masked, layers="all")
    assert "tied/inner: AttributeError: layer 'inner' is sparse" in capsys.readouterr().out
    x, _ = _data(masked)
    np.testing.assert_allclose(fast(x), masked(x), atol=1e-5)
    for name, reason in {
        "times": "TimeDistributed calls it in its own way",
        "times/inner": "TimeDistributed calls it in its own way",
        "tied/inner": "fails with a sparse one",
    }.items():
        with pytest.raises(ValueError, match=f"cannot go sparse: {{'{name}': .*{reason}"):
            po.sparsify(masked, layers=[name], verbose=0)


def test_a_layer_of_which_nothing_is_kept(tmp_path, monkeypatch):
    stack = [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Conv2D(2, 1, name="empty")]
    masked = _masked(*stack, shape=(6, 6, 2))
    po.apply_masks(masked, {"empty/kernel": np.zeros(stack[-1].kernel.shape, bool)})
    _check(masked, tmp_path, monkeypatch)


@_UNSAVED
@pytest.mark.parametrize("policy", ["mixed_float16", "float64"])
def test_policies_set_after_the_model_was_made_are_nothing_to_it(policy, tmp_path):
    attention = layers.MultiHeadAttention(4, 2, name="attention")
    stack = [layers.Conv1D(8, 3), layers.BatchNormalization(), layers.MaxPooling1D(), attention]
    masked = _masked(*stack, shape=(9, 4))
    expected = masked(x := _data(masked)[0])
    keras.config.set_dtype_policy(policy)
    try:
        fast = po.sparsify(masked, layers="all", verbose=0)
        fast.save(tmp_path / "fast.keras")
        loaded = keras.saving.load_model(tmp_path / "fast.keras")
        for model in (fast, loaded, po.densify(loaded)):
            np.testing.assert_allclose(model(x), expected, atol=1e-5)
    finally:
        keras.config.set_dtype_policy("float32")


def test_a_whole_mobile_network_stays_in_blocks():
    model = keras.applications.MobileNetV2((96, 96, 3), weights=None, classes=10)
    po.prune(model, None, sparsity=0.9, method="magnitude", scope="layer", verbose=0)
    fast = po.sparsify(model, batch_size=32, verbose=0)
    kinds = [type(layer).__name__ for layer in fast.layers]
    assert kinds.count("ToBlocks") == kinds.count("FromBlocks") == 1
    assert "DepthwiseConv2D" not in kinds


@keras.saving.register_keras_serializable("tests")
class Chain(layers.Layer):
    """Layers one after another, which its configuration holds."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, x):
        for layer in self.inner:
            x = layer(x)
        return x

    def get_config(self):
        inner = [keras.saving.serialize_keras_object(layer) for layer in self.inner]
        return {**super().get_config(), "inner": inner}

    @classmethod
    def from_config(cls, config):
        inner = [keras.saving.deserialize_keras_object(layer) for layer in config.pop("inner")]
        return cls(inner, **config)


def _chain(name, *inner):
    return Chain(
        [layers.Dense(6, name=one) if isinstance(one, str) else one for one in inner], name=name
    )


@_UNSAVED
def test_configurations_that_hold_inner_layers(tmp_path, monkeypatch):
    stack = _chain("outer", "a", _chain("inner", "b", layers.BatchNormalization()))
    _check(_masked(stack, shape=(4, 6)), tmp_path, monkeypatch)


@_UNSAVED
def test_inner_layers_of_one_name():
    masked = _masked(_chain("outer", "same", "same"), shape=(4, 6))
    random = np.random.default_rng(2)
    po.apply_masks(masked, {"outer/same/kernel#2": random.random((6, 6)) < 0.4})
    fast = po.sparsify(masked, layers="all", verbose=0)
    x, _ = _data(masked)
    np.testing.assert_allclose(po.densify(fast)(x), masked(x), atol=1e-5)
    assert _kept(po.densify(fast)) == _kept(masked)


@_UNSAVED
def test_calls_by_name_alone_that_give_two_tensors(tmp_path):
    query, value = keras.Input((6, 8)), keras.Input((4, 8))
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    # Keras tells the shape of the scores as if there were as many values as queries.
    outputs = attention(query=query, value=value, return_attention_scores=True)
    masked = keras.Model([query, value], outputs)
    po.prune(masked, None, sparsity=0.5, method="magnitude", scope="layer", verbose=0)
    fast = po.sparsify(masked, layers="all", verbose=0)
    random = np.random.default_rng(0)
    x = [random.normal(size=(20, steps, 8)).astype(np.float32) for steps in (6, 4)]
    assert sum(isinstance(layer, SparsePart) for layer in fast._flatten_layers()) == 4
    fast.save(tmp_path / "fast.keras")
    loaded = keras.saving.load_model(tmp_path / "fast.keras")
    for model in (fast, loaded, po.densify(loaded), po.strip(fast)):
        for one, other in zip(model(x), masked(x), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@_UNSAVED
@pytest.mark.parametrize("frozen", ["outer", "a", "norm", "bias"])
def test_what_is_frozen_stays_frozen(frozen, tmp_path):
    norm = layers.BatchNormalization(name="norm")
    outer = _chain("outer", "a", "b", norm)
    masked = _masked(outer, shape=(4, 6))
    parts = {"outer": outer, "a": outer.inner[0], "norm": norm, "bias": outer.inner[1].bias}
    parts[frozen].trainable = False
    fast = po.sparsify(masked, layers="all", verbose=0)
    dense = po.densify(fast)
    assert len(fast.trainable_weights) < len(fast.weights) - 2  # and the moving averages
    for copy in (fast, dense):
        assert [v.trainable for v in copy.weights] == [v.trainable for v in masked.weights]
    assert dense.get_layer("outer").inner[2].trainable is norm.trainable
    if frozen in ("outer", "a"):  # the others no configuration carries
        fast.save(tmp_path / "fast.keras")
        loaded = keras.saving.load_model(tmp_path / "fast.keras")
        trained = {v.path for v in loaded.trainable_weights}
        assert trained == {v.path for v in fast.trainable_weights}


def test_names_of_layers_around_others():
    built = layers.Dense(6, name="before")
    built.build((None, 4, 6))  # its path does not begin with what it is within
    masked = _masked(_chain("first", built), shape=(4, 6))
    within = keras.Sequential([keras.Input((4, 6)), _chain("second", "a")])
    po.prune(within, None, sparsity=0.5, method="magnitude", verbose=0)
    for model, name in ((masked, "first"), (within, "second")):
        fast = po.sparsify(model, layers=[name], verbose=0)
        assert isinstance(fast.get_layer(name), WithSparseParts)


@keras.saving.register_keras_serializable("tests")
class Unusual(layers.Layer):
    """Holds and uses its inner layer in another way than in an attribute by calling it."""

    def __init__(self, how, **kwargs):
        super().__init__(**kwargs)
        self.how = how
        self.inner = layers.Dense(6, name="inner")
        inner = self.inner
        self.function = lambda x: 1 * inner(x)
        self.norm = layers.SpectralNormalization(inner) if how == "wrapped" else None
        self.pair = Pair(inner, 1)

    def build(self, shape):
        self.inner.build(shape)
        if self.norm is not None:
            self.norm.build(shape)

    def call(self, x, training=None):
        if self.how == "wrapped":
            return self.norm(x, training=training)
        x = {"hidden": self.function, "pair": self.pair.one}.get(self.how, self.inner)(x)
        if self.how == "in training" and training:
            x += keras.ops.mean(self.inner.kernel)
        return x

    def get_config(self):
        return {**super().get_config(), "how": self.how}


class Pair(NamedTuple):
    """Two things."""

    one: object
    other: object


@_UNSAVED
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("hidden", "holds an inner layer other than"),
        ("in training", "'inner' is sparse, so that it has no kernel"),
        ("wrapped", "SpectralNormalization"),
        ("pair", ""),
    ],
)
def test_inner_layers_that_are_held_or_used_otherwise(how, reason):
    masked = _masked(Unusual(how, name="unusual"), shape=(4, 6))
    fast = po.sparsify(masked, layers="all", verbose=0)
    x, _ = _data(masked)
    for training in (False, True):
        np.testing.assert_allclose(
            fast(x, training=training), masked(x, training=training), atol=1e-5
        )
    if reason:
        with pytest.raises(ValueError, match=f"cannot go sparse: .*{reason}"):
            po.sparsify(masked, layers=["unusual"], verbose=0)
    else:
        po.sparsify(masked, layers=["unusual"], verbose=0)


@_UNSAVED
def test_integers_are_as_good_as_numbers_to_sparse_layers():
    x = np.arange(20 * 6).reshape(20, 6) % 5
    for first in (layers.Dense(4), _chain("outer", "a")):
        inputs = keras.Input((6,), dtype="int32")
        masked = keras.Model(inputs, first(inputs))
        po.prune(masked, None, sparsity=0.5, method="magnitude", verbose=0)
        fast = po.sparsify(masked, layers="all", verbose=0)
        for samples in (3, 20):
            np.testing.assert_allclose(fast(x[:samples]), masked(x[:samples]), atol=1e-5)


@_UNSAVED
@pytest.mark.parametrize("within", [False, True])
def test_calls_that_say_themselves_that_they_are_of_training(within):
    norm = layers.BatchNormalization(momentum=1.0)  # whose averages stay
    inputs = keras.Input((4, 6))
    x = layers.Dense(6)(inputs)
    outputs = (_chain("outer", "a", norm) if within else norm)(x, training=True)
    masked = keras.Model(inputs, outputs)
    po.prune(masked, None, sparsity=0.5, method="magnitude", verbose=0)
    fast = po.sparsify(masked, layers="all", verbose=0)
    x, _ = _data(masked)
    for samples in (3, 20):
        for how in ({}, {"training": False}, {"training": True}):
            wanted = masked(x[:samples], **how)
            np.testing.assert_allclose(fast(x[:samples], **how), wanted, atol=1e-4)
    assert not np.allclose(masked(x), masked(x, training=False), atol=1e-2)
