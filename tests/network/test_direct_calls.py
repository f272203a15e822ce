"""Stock layers that are called directly compute what they compute when Keras calls them."""

from contextlib import nullcontext
from dataclasses import dataclass

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
# What Keras and TensorFlow raise of shapes that do not fit.
REFUSALS = (ValueError, tf.errors.InvalidArgumentError)


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
        layers.LayerNormalization(center=options["use_bias"], scale=bool(random.integers(2))),
        layers.LayerNormalization(axis=int(random.choice([1, 3]))),
        layers.LayerNormalization(axis=[1, 3]),
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
def test_it_computes_the_same(seed, monkeypatch):
    def make():
        return _random_model(seed)

    sides = [
        _loss_and_gradients(make, _images(), directly=directly, monkeypatch=monkeypatch)
        for directly in (True, False)
    ]
    for ours, theirs in zip(*sides, strict=True):
        scale = max(1e-30, float(np.abs(theirs).max()))
        # Layer normalisation, and products of more axes than two, add in another order.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * scale + 1e-7)


def test_convolutional_networks_give_the_same_bits(monkeypatch):
    def make():
        return keras.applications.MobileNetV2(
            weights=None, input_shape=(32, 32, 3), classes=3, classifier_activation=None
        )

    batch = _images()
    batch = batch._replace(x=tf.random.stateless_normal((6, 32, 32, 3), (0, 1)))
    sides = [
        _loss_and_gradients(make, batch, directly=directly, monkeypatch=monkeypatch)
        for directly in (True, False)
    ]
    for ours, theirs in zip(*sides, strict=True):
        np.testing.assert_array_equal(ours, theirs)


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
    with pytest.raises(REFUSALS) as stock:
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


@dataclass
class Swish:
    """An activation function that has no hash."""

    slope: float = 1.5

    def __call__(self, x):
        return x * keras.ops.sigmoid(self.slope * x)


class Passed(layers.Layer):
    """Gives a function of its input, and tells the graph of another shape."""

    def __init__(self, shape, function):
        super().__init__()
        self.told, self.function = shape, function

    def call(self, x):
        return self.function(x)

    def compute_output_shape(self, _):
        return self.told


class Traced(layers.Layer):
    """Runs a graph of the model around it in a tf.function of its own, for images of any size."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.function = tf.function(
            lambda x: model(x, training=True),
            input_signature=[tf.TensorSpec((None, None, None, SHAPE[-1]))],
        )

    def call(self, x):
        return self.function(x) if tf.executing_eagerly() else self.model(x)


def _of(*kinds, shape=SHAPE):
    """A model of layers, one behind the other."""
    x = inputs = layers.Input(shape)
    for kind in kinds:
        x = kind(x)
    return keras.Model(inputs, x)


def _traced_within():
    sized = layers.Input((None, None, SHAPE[-1]))
    within = keras.Model(sized, layers.Conv2D(4, 3, activation="relu")(sized))
    return _of(within, Traced(within))


def _with_bias_left_out():
    model = _of(layers.Flatten(), layers.Dense(3))
    model.layers[-1].bias.assign([1.0, 2.0, 3.0])
    model.layers[-1].use_bias = False
    return model


def _with_a_tensor_as_kernel():
    model = _of(layers.Conv2D(3, 2))
    vars(model.layers[-1])["_kernel"] = tf.ones((2, 2, SHAPE[-1], 3))
    return model


def _without_a_bias():
    model = _of(layers.Flatten(), layers.Dense(3))
    vars(model.layers[-1])["bias"] = None
    return model


def _called_by_name():
    inputs = layers.Input(SHAPE)
    return keras.Model(inputs, layers.Activation("relu")(inputs=layers.Dense(3)(inputs=inputs)))


def _within(policy, inner_policy, layer_policy):
    """A model of one dtype in a model of another, with layers of a third."""
    keras.config.set_dtype_policy(inner_policy)
    convolution = layers.Conv2D(3, 3, activation="relu", dtype=layer_policy)
    inner = _of(
        convolution, layers.Flatten(dtype=layer_policy), layers.Dense(2, dtype=layer_policy)
    )
    keras.config.set_dtype_policy(policy)
    model = _of(inner)
    keras.config.set_dtype_policy("float32")
    return model


def _sequential_that_was_mixed_later():
    model = _sequential()
    model.dtype_policy = "mixed_bfloat16"
    return model


_MODELS = {
    "called by name": _called_by_name,
    "an output in a tuple": lambda: keras.Model(
        inputs := layers.Input(SHAPE), (layers.Dense(3)(inputs),)
    ),
    "an activation without a hash": lambda: _of(
        layers.Dense(3, activation=Swish()), layers.Activation(Swish())
    ),
    "float64 in float32 in mixed": lambda: _within("mixed_bfloat16", "float32", "float64"),
    "float32 in float64 in mixed": lambda: _within("mixed_float16", "float64", "float32"),
    "mixed later": _sequential_that_was_mixed_later,
    "a bias left out": _with_bias_left_out,
    "no bias": _without_a_bias,
    "a tensor as kernel": _with_a_tensor_as_kernel,
    "traced within": _traced_within,
}


@pytest.mark.parametrize("make", _MODELS.values(), ids=_MODELS)
def test_it_gives_what_keras_gives(make):
    keras.utils.set_random_seed(0)
    model, x = make(), tf.random.normal((2, *SHAPE))
    with layers_called_directly(model):
        ours = model(x, training=True)
    theirs = model(x, training=True)
    assert type(ours) is type(theirs)
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(
        *(tf.cast(one, tf.float64) for one in (ours, theirs)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("of_class", [False, True])
@pytest.mark.parametrize(
    ("kind", "method", "function"),
    [
        ("ReLU", "call", lambda x: -x),
        ("Activation", "call", lambda x: -x),
        ("Add", "call", lambda x: x[0] - 2.0 * x[1]),
        ("Add", "_merge_function", lambda x: x[0] - 2.0 * x[1]),
        ("Dense", "call", lambda x, training=None: x * (3.0 if training else 1.0)),
        ("Conv2D", "convolution_op", lambda x, kernel: tf.nn.conv2d(x, 2 * kernel, 1, "VALID")),
    ],
)
def test_methods_that_others_have_replaced_are_called(
    kind, method, function, of_class, monkeypatch
):
    given = {"Activation": ("relu",), "Dense": (SHAPE[-1],), "Conv2D": (3, 2)}
    layer = getattr(layers, kind)(*given.get(kind, ()))
    model = _of(lambda inputs: layer([inputs] * 2 if kind == "Add" else inputs))
    x = tf.random.normal((2, *SHAPE))
    before = model(x, training=True)
    if of_class:
        monkeypatch.setattr(type(layer), method, lambda _, *args, **named: function(*args, **named))
    else:
        monkeypatch.setitem(vars(layer), method, function)
    theirs = model(x, training=True)
    with layers_called_directly(model):
        ours = model(x, training=True)
    np.testing.assert_array_equal(ours, theirs)
    assert np.abs(ours - before).max() > 0.1


def test_masks_that_others_compute_are_attached(monkeypatch):
    model = _of(layer := layers.Activation("relu"))
    monkeypatch.setitem(vars(layer), "compute_mask", lambda x, _=None: x[..., 0] > 0)
    with layers_called_directly(model):
        assert keras_private.mask_of(model(tf.ones((2, *SHAPE)), training=True)) is not None


@pytest.mark.parametrize(
    ("told", "function", "layer"),
    [
        ((None, 8, 8, 2), tf.identity, layers.Conv2D(4, 3)),
        ((None, 8, 8, 1), tf.identity, layers.DepthwiseConv2D(3)),
        ((None, 8, 8, 1), tf.identity, layers.BatchNormalization()),
        ((None, 7), lambda x: x[:, 0, 0], layers.Dense(3)),
        ((None, 8, 8, 4), lambda x: x[:, 0], layers.MaxPooling2D()),
        # Called with five axes, the operation would end the process.
        ((None, 8, 8, 4), lambda x: x[:, tf.newaxis], layers.Conv2D(4, 3)),
    ],
)
def test_shapes_that_the_graph_does_not_tell_of_are_refused_as_ever(told, function, layer):
    model = _of(Passed(told, function), layer)
    x = tf.ones((2, *SHAPE))
    with pytest.raises(REFUSALS) as theirs:
        model(x, training=True)
    with layers_called_directly(model), pytest.raises(theirs.type) as ours:
        model(x, training=True)
    sense = [str(error.value).splitlines()[2].split(";")[0] for error in (ours, theirs)]
    assert sense[0] == sense[1]


def test_the_gradient_of_a_bias_is_a_sum_in_float16_too():
    convolution = layers.Conv2D(8, 1, dtype="float16")
    model = _of(layers.Activation("linear", dtype="float16"), convolution, shape=(64, 64, 4))
    with layers_called_directly(model), tf.GradientTape() as tape:
        outputs = model(tf.zeros((16, 64, 64, 4)), training=True)
    gradient = tape.gradient(outputs, convolution.bias.value, 0.01 * tf.ones_like(outputs))
    np.testing.assert_allclose(gradient, 0.01 * 16 * 64 * 64, rtol=1e-2)


def test_moments_that_others_have_replaced_are_used(monkeypatch):
    model = _of(layer := layers.BatchNormalization(), layers.Flatten())
    moments = (tf.fill(SHAPE[-1:], 3.0), tf.fill(SHAPE[-1:], 4.0))
    monkeypatch.setitem(vars(layer), "_moments", lambda *_: moments)
    loss = Objective.of(model, "mse")(Batch(tf.fill((2, *SHAPE), 5.0), tf.zeros((2, 576))))
    np.testing.assert_allclose(loss, 1, atol=1e-3)  # ((5 - 3) / 2)²


def test_models_of_two_inputs_are_called_directly_too(monkeypatch):
    inputs = [layers.Input((4,)), layers.Input((4,))]
    model = keras.Model(inputs, layers.Add()([layers.Dense(3)(one) for one in inputs]))
    listener = _Listener(monkeypatch)
    with layers_called_directly(model):
        model([tf.ones((2, 4))] * 2, training=True)
    assert len(listener.called) == 1
