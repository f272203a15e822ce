"""Second derivatives that TensorFlow lacks, against twins that it can differentiate."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import prospr_ops as po
from prospr_ops.methods import METHODS


class Does(keras.layers.Layer):
    """A layer that is a function."""

    def __init__(self, function, **options):
        super().__init__(**options)
        self.function = function

    def call(self, x):
        return self.function(x)


def as_matrix(resize):
    """The twin of what is linear in an image of 4 × 4: a product with a matrix."""
    columns = resize(tf.reshape(tf.eye(16), (16, 4, 4, 1)))
    height, width = columns.shape[1:3]
    matrix = tf.reshape(columns, (16, height * width))

    def product(x):
        flat = tf.reshape(tf.transpose(x, (0, 3, 1, 2)), (-1, x.shape[3], 16))
        return tf.reshape(tf.transpose(flat @ matrix, (0, 2, 1)), (-1, height, width, x.shape[3]))

    return product


def resized(method, size=(7, 5), **options):
    return lambda x: tf.image.resize(x, size, method=method, **options)


def cropped(x):
    rows = x.shape[0]
    return tf.image.crop_and_resize(x, [[0.1, 0.0, 1.0, 0.8]] * rows, list(range(rows)), (3, 5))


def fake_quant(x):
    return tf.quantization.fake_quant_with_min_max_args(x, -0.5, 0.5, num_bits=16)


def fake_quant_to(x):
    top = tf.reduce_max(x)
    return tf.quantization.fake_quant_with_min_max_vars(x, -top / 2, top / 2, num_bits=16)


def fake_quant_per_channel(x):
    top = tf.reduce_max(x, (0, 1, 2))
    return tf.quantization.fake_quant_with_min_max_vars_per_channel(x, -top, top / 2, num_bits=16)


def clipped_per_channel(x):
    top = tf.reduce_max(x, (0, 1, 2))
    return tf.minimum(tf.maximum(x, -top), top / 2)


TWINS = {
    "bilinear": (resized("bilinear"), as_matrix(resized("bilinear"))),
    "bicubic": (resized("bicubic"), as_matrix(resized("bicubic"))),
    "nearest": (resized("nearest"), as_matrix(resized("nearest"))),
    "lanczos": (resized("lanczos3"), as_matrix(resized("lanczos3"))),
    "antialiased": (
        resized("bilinear", (3, 3), antialias=True),
        as_matrix(resized("bilinear", (3, 3), antialias=True)),
    ),
    "softsign": (tf.nn.softsign, lambda x: x / (1.0 + tf.abs(x))),
    "fake_quant": (fake_quant, lambda x: tf.clip_by_value(x, -0.5, 0.5)),
    "fake_quant_to": (
        fake_quant_to,
        lambda x: tf.minimum(tf.maximum(x, -tf.reduce_max(x) / 2), tf.reduce_max(x) / 2),
    ),
    "fake_quant_per_channel": (fake_quant_per_channel, clipped_per_channel),
    "cropped": (
        cropped,
        as_matrix(cropped),
    ),
}


def model_and_data(function):
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2), batch_size=6),
            keras.layers.Conv2D(3, 3, padding="same", activation="tanh", name="before"),
            Does(function, name="between"),
            keras.layers.Conv2D(1, 3, padding="same", name="after"),
        ]
    )
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 4, 4, 2)).astype("float32")
    y = rng.standard_normal((6, *model.output_shape[1:])).astype("float32")
    return model, (x, y)


@pytest.mark.parametrize("steps", [2, 12])  # eager passes, and traced ones
@pytest.mark.parametrize("name", TWINS)
def test_exact_is_that_of_a_twin(name, steps):
    found = []
    for function in TWINS[name]:
        model, data = model_and_data(function)
        scores = po.score(
            model,
            [data],
            method="exact",
            steps=steps,
            learning_rate=0.1,
            loss="mse",
            seed=0,
            verbose=0,
        )
        found.append(np.exp(np.concatenate([s.ravel() for s in scores.values()])))
    scores, twins = found
    assert np.abs(scores - twins).max() < 2e-3 * twins.max()


@pytest.mark.parametrize("name", ["bilinear", "fake_quant_to", "softsign"])
def test_hutchinson_is_that_of_a_twin(name):
    found = []
    for function in TWINS[name]:
        model, (x, y) = model_and_data(function)
        diagonal = po.curvature.diagonal(
            model, x, y, loss="mse", estimator="hutchinson", probes=3, seed=0
        )
        found.append(np.concatenate([np.ravel(d) for d in diagonal.values()]))
    diagonal, twins = found
    assert np.abs(diagonal - twins).max() < 2e-3 * np.abs(twins).max()


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].needs_data])
@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (tf.nn.local_response_normalization, "LRNGrad"),
        (lambda x: tf.nn.max_pool_with_argmax(x, 2, 2, "VALID")[0], "MaxPoolGradWithArgmax"),
    ],
)
def test_what_has_none_is_refused_where_it_is_needed(method, function, operation):
    model, data = model_and_data(function)
    before = [v.numpy() for v in model.variables]
    options = {"method": method, "loss": "mse", "seed": 0, "verbose": 0}
    if METHODS[method].second_derivatives:
        with pytest.raises(ValueError, match=f"{operation}.*'first_order', 'snip'"):
            po.score(model, [data], **options)
    else:
        po.score(model, [data], **options)
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, variable.numpy())
