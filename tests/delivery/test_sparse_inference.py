"""Inference of sparse models, where normalisation is done by the sparse layer before it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import prospr_ops as po
from prospr_ops import ops
from prospr_ops.sparse import planning
from prospr_ops.sparse.folding import folds
from prospr_ops.sparse.layers import SparseLayer

SHAPE = (10, 10, 3)


def _normalised(random, x):
    """A normalisation with or without scale and offset, of averages that tell it from none."""
    scale, center = random.random(2) < 0.6
    layer = keras.layers.BatchNormalization(scale=scale, center=center)
    y = layer(x)
    for variable in layer.variables:
        variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return y


def _random_graph(seed):
    """Convolutions, normalisations, ReLUs, sums and pooling, as a seed wants them."""
    random = np.random.default_rng(seed)
    layers = keras.layers
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(6, 3, padding="same", name="stem")(inputs)
    shared_norm, shared_conv = (
        layers.BatchNormalization(),
        layers.Conv2D(6, 3, padding="same", name="shared"),
    )
    for i in range(6):
        conv = layers.Conv2D(
            6,
            int(random.integers(1, 4)),
            padding="same",
            use_bias=bool(random.random() < 0.5),
            activation=random.choice(["linear", "linear", "linear", "relu", "tanh"]),
            name=f"conv{i}",
        )
        kind, y = random.integers(7), conv(x)
        if kind == 0:  # two normalisations of one convolution
            y = layers.Add()([_normalised(random, y), _normalised(random, y)])
        elif kind == 1:  # one normalisation of two convolutions
            y = layers.Add()([shared_norm(y), shared_norm(shared_conv(x))])
        elif kind == 2:  # a convolution that something else reads
            y = layers.Add()([_normalised(random, y), y])
        elif kind == 3:
            y = layers.Add()([x, _normalised(random, y)])
        elif kind < 6:
            y = _normalised(random, y)
        if random.random() < 0.7:
            ceiling = random.choice([None, 0.5, 6.0])
            y = layers.ReLU(ceiling)(y) if random.random() < 0.7 else layers.Activation("relu6")(y)
        x = y
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(5, 3, strides=2, name="last", use_bias=False)(x)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(_normalised(random, x)))


def _masked(model, density=0.4):
    random = np.random.default_rng(0)
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]
    return (
        po.apply_masks(model, {v.path: random.random(v.shape) < density for v in kernels}) or model
    )


def _kinds(model, x):
    """The kinds of operations of its inference."""
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(x)
    return [operation.type for operation in function.graph.get_operations()]


def _layer_by_layer(model):
    """The model without what inference does at once."""
    return keras.Model(model.inputs, model.outputs)


@pytest.mark.parametrize("seed", range(12))
def test_it_computes_what_its_layers_compute(seed):
    keras.utils.set_random_seed(seed)
    masked = _masked(_random_graph(seed))
    fast = po.sparsify(masked, layers="all", verbose=0)
    assert folds(fast)
    x = tf.random.normal((19, *SHAPE))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        at_once, one_by_one = fast(x), _layer_by_layer(fast)(x)
        losses = [tf.reduce_sum(tf.sin(outputs)) for outputs in (at_once, one_by_one)]
    tolerance = 1e-5 * float(np.abs(one_by_one).max())
    np.testing.assert_allclose(at_once, one_by_one, rtol=0, atol=tolerance)
    np.testing.assert_allclose(at_once, masked(x), rtol=0, atol=tolerance)
    np.testing.assert_allclose(fast.predict(x, verbose=0), masked(x), rtol=0, atol=tolerance)
    variables = [x, *(v.value for v in fast.trainable_variables)]
    gradients = [tape.gradient(loss, variables) for loss in losses]
    for ours, theirs in zip(*gradients, strict=True):
        scale = max(1, float(np.abs(theirs).max()))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3 * scale)


@keras.saving.register_keras_serializable("test_sparse_inference")
class Swish:
    """An activation function that has no hash."""

    __hash__ = None

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, _):
        return cls()

    def __call__(self, x):
        return x * keras.ops.sigmoid(x)


@pytest.mark.parametrize("samples", [3, 19])
@pytest.mark.parametrize(
    "kinds",
    [
        lambda: [keras.layers.ReLU(activity_regularizer="l2")],
        lambda: [keras.layers.BatchNormalization(activity_regularizer="l2")],
        lambda: [
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(6.0, activity_regularizer="l2"),
        ],
        lambda: [keras.layers.MaxPooling2D(activity_regularizer="l2")],
        lambda: [keras.layers.ReLU(dtype="float64")],
        lambda: [keras.layers.MaxPooling2D(dtype="float64")],
        lambda: [keras.layers.Activation(Swish())],
        lambda: [keras.layers.Conv2D(4, 3, activation=Swish())],
    ],
)
def test_layers_that_add_losses_or_compute_in_another_dtype_do_so(kinds, samples):
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(6, 3)(inputs)
    for kind in kinds():
        x = kind(x)
    masked = _masked(keras.Model(inputs, x))
    fast = po.sparsify(masked, layers="all", verbose=0)
    assert any(isinstance(layer, SparseLayer) for layer in fast.layers)
    images = tf.random.normal((samples, *SHAPE))
    ours, theirs = fast(images), masked(images)
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fast.losses, masked.losses, rtol=1e-4)
    assert len(fast.losses) == len(masked.losses)
    np.testing.assert_allclose(fast.predict(images, verbose=0), theirs, rtol=1e-5, atol=1e-5)


def test_no_pass_is_left_for_a_normalisation():
    fast = po.sparsify(_masked(po.models.resnet20(SHAPE)), layers="all", verbose=0)
    x = tf.TensorSpec((32, *SHAPE))  # not so few that no blocks are used
    kinds = _kinds(fast, x)
    assert "Prospr>BlockNorm" in _kinds(_layer_by_layer(fast), x)
    assert not {"Prospr>BlockNorm", "Relu"} & set(kinds)
    sparse = [layer for layer in fast.layers if isinstance(layer, SparseLayer)]
    assert kinds.count("Prospr>SparseConv") == len(sparse)


def test_the_next_inference_sees_averages_that_fit_has_changed(tmp_path):
    keras.utils.set_random_seed(0)
    fast = po.sparsify(_masked(po.models.resnet20(SHAPE)), layers="all", verbose=0)
    fast.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = np.random.default_rng(1).normal(3, 2, size=(20, *SHAPE)), np.arange(20) % 3
    before = fast.predict(x, verbose=0)
    fast.fit(x, y, batch_size=20, epochs=2, verbose=0)
    after = fast.predict(x, verbose=0)
    assert np.abs(after - before).max() > 0.01 * np.abs(after).max()
    tolerance = 1e-5 * np.abs(after).max()
    np.testing.assert_allclose(after, po.densify(fast)(x), rtol=0, atol=tolerance)
    po.export(fast, tmp_path / "fast")
    exported = tf.saved_model.load(str(tmp_path / "fast"))
    np.testing.assert_allclose(exported.serve(x.astype(np.float32)), after, rtol=0, atol=tolerance)


def test_a_frozen_normalisation_trains_nothing_of_its_own():
    """In training nothing is done at once, frozen or not."""
    fast = po.sparsify(_masked(_random_graph(3)), layers="all", verbose=0)
    for layer in fast.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    x = tf.random.normal((19, *SHAPE))
    np.testing.assert_allclose(fast(x, training=True), fast(x), atol=1e-5)


def test_models_of_two_inputs_and_models_within_models():
    layers = keras.layers
    inner = keras.Sequential(
        [keras.Input(SHAPE), layers.Conv2D(6, 3), layers.BatchNormalization(), layers.ReLU()]
    )
    inputs = [keras.Input(SHAPE), keras.Input(SHAPE)]
    x = layers.Concatenate()([inner(one) for one in inputs])
    x = layers.BatchNormalization()(layers.Conv2D(5, 3, name="outer")(x))
    masked = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    random = np.random.default_rng(0)
    kernels = [v for v in masked.trainable_variables if v.name == "kernel"]
    po.apply_masks(masked, {v.path: random.random(v.shape) < 0.5 for v in kernels})
    fast = po.sparsify(masked, layers="all", verbose=0)
    x = [tf.random.normal((18, *SHAPE)), tf.random.normal((18, *SHAPE))]
    assert "Prospr>BlockNorm" not in _kinds(fast, x)
    np.testing.assert_allclose(fast(x), masked(x), atol=1e-5)


@pytest.mark.parametrize("samples", [1, 16, 40])
def test_few_blocks_are_divided_among_threads(samples):
    """Positions and filters are cut into parts; every part must be there once."""
    random = np.random.default_rng(samples)
    for pixels, channels, filters in ((33, 3, 5), (16, 5, 40), (9, 40, 70), (4, 20, 30), (2, 9, 9)):
        image = ops.to_blocks(tf.constant(random.normal(size=(samples, pixels, 7, channels))))
        kept = random.random((filters, 9 * channels)) < 0.3
        taps = tf.constant(np.nonzero(kept)[1], tf.int32)
        splits = tf.constant(np.concatenate([[0], np.cumsum(kept.sum(1))]), tf.int32)
        weights, bias = random.normal(size=len(taps)), random.normal(size=filters)
        given = (image, weights, bias, taps, splits, (3, 3), (1, 1), (1, 1), "same")
        exact = po.reference.sparse_conv(*given)
        np.testing.assert_allclose(ops.sparse_conv(*given), exact, atol=1e-10)


def test_a_model_that_would_gain_too_little_stays_dense(monkeypatch, capsys):
    masked = _masked(po.models.resnet20((32, 32, 3)), 0.05)
    assert any(isinstance(layer, SparseLayer) for layer in po.sparsify(masked, verbose=0).layers)
    monkeypatch.setattr(planning, "_LEAST_GAIN", 100)
    fast = po.sparsify(masked)
    assert not any(isinstance(layer, SparseLayer) for layer in fast.layers)
    assert "too little" in " ".join(capsys.readouterr().out.split())
    assert any(
        isinstance(layer, SparseLayer)
        for layer in po.sparsify(masked, layers="all", verbose=0).layers
    )


def test_weights_that_are_nearly_all_kept_stay_dense():
    for make in (po.models.resnet20, po.models.vgg16):
        fast = po.sparsify(_masked(make((32, 32, 3)), 0.9), verbose=0)
        assert not any(isinstance(layer, SparseLayer) for layer in fast.layers)
