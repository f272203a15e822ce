"""Stock layers that are called directly compute what they compute when Keras calls them."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from prospr_ops.network import keras_private
from prospr_ops.network import loss as loss_module
from prospr_ops.network.direct_calls import layers_called_directly
from prospr_ops.network.layer_calls import recorded_calls
from prospr_ops.network.loss import Batch, Objective
from prospr_ops.ops.nn.replacements import fast_calls

SHAPE = (12, 12, 4)


@keras.saving.register_keras_serializable("test_direct_calls")
class Doubled(layers.Layer):
    """A layer of a user's own, with another in it that only trains if it is told so."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dropout = layers.Dropout(0.5)

    def call(self, x):
        return 2.0 * self.dropout(x)


def _some_layers(random):
    """A layer of each kind that keeps the number of axes, with settings that vary."""
    filters = int(random.integers(2, 7)) * 2
    options = {
        "padding": random.choice(["same", "valid"]),
        "use_bias": bool(random.integers(2)),
        "activation": random.choice([None, "relu", "relu6", "silu", "linear", "tanh"]),
    }
    stride = int(random.integers(1, 3))
    regularizer = random.choice([None, keras.regularizers.L2(0.1)])
    return [
        layers.Conv2D(filters, 3, strides=stride, **options),
        layers.Conv2D(filters, (1, 3), strides=(stride, 1), **options),
        layers.Conv2D(filters, 2, dilation_rate=2, **options),
        layers.Conv2D(filters, 1, activity_regularizer=regularizer, **options),
        layers.DepthwiseConv2D(3, strides=stride, depth_multiplier=stride, **options),
        layers.DepthwiseConv2D(2, dilation_rate=(2, 2), **options),
        layers.SeparableConv2D(filters, 2, **options),
        layers.BatchNormalization(center=options["use_bias"], scale=bool(random.integers(2))),
        layers.BatchNormalization(trainable=False),
        layers.BatchNormalization(axis=random.choice([1, 3])),
        layers.LayerNormalization(),
        layers.Dense(filters, activation=options["activation"]),
        layers.ReLU(random.choice([None, 6.0, 1.5]), negative_slope=random.choice([0.0, 0.1])),
        layers.ReLU(threshold=0.2),
        layers.Activation(random.choice(["relu", "relu6", "gelu", "linear"])),
        layers.Dropout(0.3),
        layers.ZeroPadding2D(1),
        layers.MaxPooling2D(2, 1),
        layers.AveragePooling2D(2, 1),
        layers.Conv2D(4, 3, padding="same", dtype="float64"),
        Doubled(),
    ]


def _random_model(seed):
    random = np.random.default_rng(seed)
    inputs = x = layers.Input(SHAPE)
    for _ in range(7):
        kind = random.choice(_some_layers(random))
        before, x = x, kind(x)
        if before.shape == x.shape and random.random() < 0.5:
            x = random.choice([layers.Add(), layers.Multiply(), layers.Concatenate()])([x, before])
        if min(x.shape[1:3]) < 4:
            x = layers.UpSampling2D(2)(x)
    if random.random() < 0.5:  # one model within another, called twice
        within = layers.Input(x.shape[1:])
        inner = keras.Model(within, layers.ReLU()(layers.BatchNormalization()(within)))
        x = layers.Add()([inner(x), inner(layers.Activation("tanh")(x))])
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(5, activation=random.choice([None, "relu"]))(layers.Dropout(0.1)(x))
    return keras.Model(inputs, layers.Dense(3)(x))


def _images(seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(6, *SHAPE)).astype(np.float32)
    return Batch(tf.constant(x), tf.constant(random.integers(0, 3, 6)))


def _loss_and_gradients(make, batch, *, directly, monkeypatch):
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy("float32")
    model = make()
    objective = Objective.of(model, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    objective.build(batch)
    context = layers_called_directly if directly else lambda _: nullcontext()
    monkeypatch.setattr(loss_module, "layers_called_directly", context)
    with tf.GradientTape() as tape:
        loss = objective(batch, fast_calls())
    variables = [variable.value for variable in model.trainable_variables]
    return [loss, *tape.gradient(loss, variables, unconnected_gradients="zero")]


@pytest.mark.parametrize("seed", range(24))
def test_it_computes_the_same_bits(seed, monkeypatch):
    def make():
        return _random_model(seed)

    sides = [
        _loss_and_gradients(make, _images(), directly=directly, monkeypatch=monkeypatch)
        for directly in (True, False)
    ]
    for ours, theirs in zip(*sides, strict=True):
        scale = max(1e-30, float(np.abs(theirs).max()))
        # Sums of a bias's gradient are taken in another order.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * scale + 1e-9)
    assert float(sides[0][0]) == float(sides[1][0])


def _sequential():
    return keras.Sequential(
        [
            layers.Input(SHAPE),
            layers.Conv2D(6, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def _masked():
    """A model in which a mask goes from the words through a stock layer to one that takes it."""
    words = layers.Input((7,), dtype="int32")
    x = layers.Embedding(11, 6, mask_zero=True)(words)
    x = layers.Dropout(0.2)(layers.Activation("tanh")(x))
    return keras.Model(words, layers.Dense(3)(layers.LSTM(4)(layers.LayerNormalization()(x))))


def _mixed():
    model = _random_model(3)
    assert model.dtype_policy.name == "mixed_bfloat16"
    return model


@pytest.mark.parametrize("make", [_sequential, _masked, _mixed])
def test_it_computes_the_same_on_other_models(make, monkeypatch):
    batch = _images()
    if make is _masked:
        batch = batch._replace(x=tf.constant(np.random.default_rng(0).integers(0, 11, (6, 7))))

    def of_policy():
        keras.config.set_dtype_policy("mixed_bfloat16" if make is _mixed else "float32")
        try:
            return make()
        finally:
            keras.config.set_dtype_policy("float32")

    sides = [
        _loss_and_gradients(of_policy, batch, directly=directly, monkeypatch=monkeypatch)
        for directly in (True, False)
    ]
    for ours, theirs in zip(*sides, strict=True):
        pair = map(tf.convert_to_tensor, (ours, theirs))
        np.testing.assert_allclose(*pair, rtol=1e-5, atol=1e-7)


class _Listener:
    """Counts which layers Keras calls around `call`."""

    def __init__(self, monkeypatch):
        self.called = []
        stock = layers.Layer.__call__

        def __call__(layer, *args, **named):
            self.called.append(type(layer))
            return stock(layer, *args, **named)

        monkeypatch.setattr(layers.Layer, "__call__", __call__)


def test_keras_is_left_out_where_it_has_nothing_to_do(monkeypatch):
    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=3)
    listener = _Listener(monkeypatch)
    with layers_called_directly(model):
        model(tf.zeros((1, 32, 32, 3)), training=True)
    assert len(listener.called) == 1


def test_keras_is_asked_where_it_has_something_to_do(monkeypatch):
    inputs = layers.Input(SHAPE)
    x = layers.Conv2D(4, 3, activity_regularizer=keras.regularizers.L2(0.1))(inputs)
    x = layers.Conv2D(4, 3, dtype="float64")(Doubled()(x))
    model = keras.Model(inputs, layers.Activation("relu", dtype="mixed_float16")(x))
    listener = _Listener(monkeypatch)
    with layers_called_directly(model):
        outputs = model(tf.ones((1, *SHAPE)), training=True)
    wanted = [layers.Conv2D, Doubled, layers.Dropout, layers.Conv2D, layers.Activation]
    assert listener.called[1:] == wanted
    assert outputs.dtype == tf.float16
    assert len(model.losses) == 1


def test_in_inference_and_in_graphs_keras_calls_as_ever(monkeypatch):
    model = _sequential()
    listener = _Listener(monkeypatch)
    x = tf.ones((1, *SHAPE))
    with layers_called_directly(model):
        model(x)
    eagerly = len(listener.called)

    @tf.function(autograph=False)
    def traced(x):
        with layers_called_directly(model):
            return model(x, training=True)

    traced(x)
    assert len(listener.called) == 2 * eagerly > 2 * len(model.layers)


def test_an_image_too_small_is_refused_as_ever():
    inputs = layers.Input((None, None, 3))
    model = keras.Model(inputs, layers.Conv2D(2, 5)(inputs))
    x = tf.zeros((1, 4, 8, 3))
    with pytest.raises(Exception) as stock:  # noqa: PT011 - whatever Keras raises
        model(x, training=True)
    with layers_called_directly(model), pytest.raises(stock.type) as ours:
        model(x, training=True)
    assert str(ours.value).splitlines()[2] == str(stock.value).splitlines()[2]


def test_who_listens_to_a_layer_hears_of_its_call():
    model = _sequential()
    listened = [model.layers[0], model.layers[-1]]
    x = tf.random.normal((2, *SHAPE))
    with recorded_calls(listened) as calls, layers_called_directly(model):
        outputs = model(x, training=True)
    assert calls[id(listened[0])][0].inputs is x
    assert calls[id(listened[1])][0].outputs is outputs


def test_nothing_stays_behind():
    model = _random_model(1)
    with layers_called_directly(model):
        assert "call" in vars(model)
    assert not any("call" in vars(layer) for layer in keras_private.all_layers(model))
