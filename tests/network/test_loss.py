"""The loss is the one that `fit` minimises: Keras's own numbers are what is expected."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import prospr_ops as po

SAMPLES = 24
RANDOM = np.random.default_rng(0)
WIDE = RANDOM.standard_normal((SAMPLES, 6)).astype("float32")
NARROW = RANDOM.standard_normal((SAMPLES, 4)).astype("float32")
LABELS = RANDOM.integers(0, 3, SAMPLES)
NUMBERS = RANDOM.standard_normal((SAMPLES, 1)).astype("float32")
WEIGHTS = RANDOM.uniform(0.5, 2.0, SAMPLES).astype("float32")
SPARSE = "sparse_categorical_crossentropy"


@pytest.fixture(autouse=True)
def _names_start_over() -> None:
    keras.backend.clear_session(free_memory=False)


def _small(last: Any, units: int = 3) -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, activation="tanh"), layers.Dense(units, last)],
        name="net",
    )


def _two_heads(outputs: str) -> keras.Model:
    """Classes "kind" and a number "size", of the inputs "wide" and "narrow"."""
    keras.utils.set_random_seed(0)
    wide, narrow = keras.Input((6,), name="wide"), keras.Input((4,), name="narrow")
    hidden = layers.Dense(8, activation="tanh")(layers.Concatenate()([wide, narrow]))
    kind = layers.Dense(3, activation="softmax", name="kind")(hidden)
    size = layers.Dense(1, name="size")(hidden)
    structure = {
        "list": [size, kind],
        "tuple": (size, kind),
        "dictionary": {"kind": kind, "size": size},
        "nested": {"classes": {"kind": kind}, "size": size},
    }[outputs]
    return keras.Model({"wide": wide, "narrow": narrow}, structure, name="net")


INPUTS = {"wide": WIDE, "narrow": NARROW}
BOTH = {"kind": LABELS, "size": NUMBERS}


def _kept(model: keras.Model) -> list[bytes]:
    return [variable.numpy().tobytes() for variable in model.variables]


def _gradient_of_keras(model: keras.Model, batch: tuple) -> list[np.ndarray]:
    """∇L ⊙ w of every kernel, by the model's own `compute_loss`, eagerly."""
    x, y, weight = keras.utils.unpack_x_y_sample_weight(
        keras.tree.map_structure(tf.convert_to_tensor, batch)
    )
    kernels = [v for v in model.trainable_variables if v.name.endswith(("kernel", "embeddings"))]
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True), weight)
    gradients = tape.gradient(
        loss, [kernel.value for kernel in kernels], unconnected_gradients="zero"
    )
    return [
        np.abs(tf.convert_to_tensor(g) * kernel.value)
        for kernel, g in zip(kernels, gradients, strict=True)
    ]


def _assert_scores(found, expected: list[np.ndarray]) -> None:
    for values, wanted in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(np.exp(values), wanted, rtol=2e-4, atol=1e-7)


def _as_keras(make, loss, batch, **compiled) -> None:
    """SNIP's scores by `compile(loss)`, and by `loss=`, are those of Keras's own loss."""
    model = make()
    model.compile("sgd", loss, **compiled)
    expected = _gradient_of_keras(model, batch)
    ways: list[dict[str, Any]] = [{}] if compiled else [{}, {"loss": loss}]
    for given in ways:
        model = make()
        if not given:
            model.compile("sgd", loss, **compiled)
        before = _kept(model)
        found = po.score(model, [batch], method="snip", seed=0, verbose=0, **given)
        assert _kept(model)[: len(before)] == before
        _assert_scores(found, expected)


def _absolute(target, output):
    return ops.mean(ops.abs(target - output), axis=-1)


@pytest.mark.parametrize(
    ("last", "units", "loss", "y"),
    [
        ("sigmoid", 1, "binary_crossentropy", (LABELS > 0).astype("float32")),
        ("sigmoid", 1, "crossentropy", (LABELS > 0).astype("float32")),
        ("sigmoid", 1, keras.losses.BinaryFocalCrossentropy(), (LABELS > 0).astype("float32")),
        (None, 1, _absolute, NUMBERS[:, 0]),
        (None, 1, "mae", NUMBERS[:, 0]),
        (None, 1, [keras.losses.Huber()], NUMBERS[:, 0]),
        ("softmax", 3, "crossentropy", LABELS),
        ("softmax", 3, "crossentropy", np.eye(3, dtype="float32")[LABELS]),
        ("softmax", 3, keras.losses.SparseCategoricalCrossentropy(), LABELS[:, None]),
    ],
)
def test_one_output(last, units, loss, y):
    _as_keras(lambda: _small(last, units), loss, (WIDE, y))
    _as_keras(lambda: _small(last, units), loss, (WIDE, y, WEIGHTS))


@pytest.mark.parametrize(
    ("outputs", "loss", "y"),
    [
        ("list", ["mse", SPARSE], (NUMBERS, LABELS)),
        ("list", {"kind": SPARSE, "size": _absolute}, BOTH),
        ("list", [None, SPARSE], (NUMBERS, LABELS)),
        ("tuple", ("mse", SPARSE), (NUMBERS, LABELS)),
        ("dictionary", {"kind": SPARSE, "size": "mse"}, BOTH),
        ("dictionary", {"kind": keras.losses.SparseCategoricalCrossentropy()}, BOTH),
        (
            "nested",
            {"classes": {"kind": SPARSE}, "size": "mse"},
            {"classes": {"kind": LABELS}, "size": NUMBERS},
        ),
    ],
)
def test_several_outputs(outputs, loss, y):
    _as_keras(lambda: _two_heads(outputs), loss, (INPUTS, y))


def test_weights_of_losses_and_of_samples():
    loss = {"kind": SPARSE, "size": "mse"}
    batch = (INPUTS, BOTH, {"kind": WEIGHTS, "size": WEIGHTS[::-1].copy()})
    _as_keras(
        lambda: _two_heads("dictionary"), loss, batch, loss_weights={"kind": 3.0, "size": 0.1}
    )
    _as_keras(lambda: _two_heads("dictionary"), loss, (INPUTS, BOTH, WEIGHTS))


def test_a_mask_of_time_steps_counts_as_in_keras():
    def make():
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [
                keras.Input((5,), dtype="int32"),
                layers.Embedding(7, 4, mask_zero=True),
                layers.Dense(3, "softmax"),
            ]
        )

    words = RANDOM.integers(0, 7, (SAMPLES, 5)).astype("int32")
    _as_keras(make, SPARSE, (words, RANDOM.integers(0, 3, (SAMPLES, 5))))


class Autoencoder(keras.Model):
    """Its loss is of its inputs, and is all in `compute_loss`."""

    def __init__(self):
        super().__init__(name="net")
        self.encode, self.decode = layers.Dense(4, "tanh"), layers.Dense(6)

    def call(self, inputs):
        return self.decode(self.encode(inputs))

    def compute_loss(
        self,
        x=None,
        y=None,  # noqa: ARG002 - the signature is Keras's
        y_pred=None,
        sample_weight=None,  # noqa: ARG002 - the signature is Keras's
        training=True,  # noqa: ARG002 - the signature is Keras's
    ):
        return ops.mean(ops.square(x - y_pred))


class Penalised(layers.Layer):
    def call(self, inputs):
        self.add_loss(ops.mean(ops.abs(inputs)))
        return inputs


def _autoencoder() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = Autoencoder()
    model(WIDE[:2])
    return model


def _penalised() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    return keras.Model(inputs, Penalised()(layers.Dense(3, name="body")(inputs)), name="net")


@pytest.mark.parametrize("make", [_autoencoder, _penalised])
def test_a_loss_that_the_model_brings_needs_no_targets(make):
    model = make()
    model.compile("sgd")
    expected = _gradient_of_keras(model, (WIDE,))
    alone = tf.data.Dataset.from_tensor_slices(WIDE).batch(SAMPLES)
    for data in (alone, [(WIDE,)], [WIDE]):
        found = po.score(model, data, method="snip", seed=0, verbose=0)
        _assert_scores(found, expected)
    found = po.score(model, WIDE, method="exact", steps=1, batch_size=8, seed=0, verbose=0)
    assert all(np.isfinite(values).any() for values in found.values())


class OwnStep(keras.Model):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x, training=True) - y) ** 4)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


def test_a_train_step_with_a_loss_of_its_own_is_refused_by_name():
    inputs = keras.Input((6,))
    model = OwnStep(inputs, layers.Dense(1)(inputs), name="net")
    model.compile("sgd")
    model.fit(WIDE, NUMBERS, verbose=0)
    before = _kept(model)
    with pytest.raises(ValueError, match=r"'net' trains by a train_step of its own.*pass loss="):
        po.prune(model, (WIDE, NUMBERS), sparsity=0.5, method="snip", verbose=0)
    assert _kept(model) == before
    po.prune(model, (WIDE, NUMBERS), sparsity=0.5, method="snip", loss="mse", verbose=0)


@pytest.mark.parametrize(
    ("loss", "data", "message"),
    [
        ({"kind": SPARSE, "colour": "mse"}, (INPUTS, BOTH), "loss of model 'net' .*colour"),
        ({"kind": SPARSE, "size": "mse"}, (INPUTS, LABELS), "loss of model 'net' cannot be"),
        ({"kind": None, "size": None}, (INPUTS, BOTH), "loss must be .* holds none"),
        ({"kind": "cube", "size": "mse"}, (INPUTS, BOTH), "cube"),
        (
            {"kind": SPARSE, "size": "mse"},
            (INPUTS, {"kind": LABELS + 1, "size": NUMBERS}),
            "labels of batch 0 for output 0 range from 1 to 3",
        ),
        ({"kind": SPARSE, "size": "mse"}, (INPUTS,), "data has no targets"),
    ],
)
def test_a_loss_that_does_not_fit_leaves_the_model_alone(loss, data, message):
    model = _two_heads("dictionary")
    before = _kept(model)
    with pytest.raises(ValueError, match=message):
        po.prune(model, data, sparsity=0.5, loss=loss, method="snip", verbose=0)
    assert _kept(model) == before


def test_a_loss_that_does_not_fit_an_eager_model():
    model = _two_heads("dictionary")
    model.compile("sgd", {"kind": SPARSE, "colour": "mse"}, run_eagerly=True)
    with pytest.raises(ValueError, match=r"loss of model 'net' .*colour"):
        po.score(model, (INPUTS, BOTH), method="snip", verbose=0)


def test_a_loss_of_a_type_that_is_none():
    with pytest.raises(
        TypeError, match="loss must be a Keras loss, its name or a function, not int"
    ):
        po.score(_two_heads("list"), (INPUTS, (NUMBERS, LABELS)), loss=["mse", 3], verbose=0)


def test_regularisation_alone_is_no_loss():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3, kernel_regularizer="l2")])
    model.compile("sgd")
    with pytest.raises(ValueError, match="is compiled with none and its layers add none"):
        po.score(model, (WIDE, NUMBERS), method="snip", verbose=0)


def test_the_metrics_of_several_losses_are_reset():
    model = _two_heads("dictionary")
    model.compile("sgd", {"kind": SPARSE, "size": "mse"})
    po.score(model, (INPUTS, BOTH), method="first_order", steps=2, verbose=0)
    assert len(model.metrics) == 3
    assert not any(np.any(variable.numpy()) for variable in model.metrics_variables)


# --- the closed form -----------------------------------------------------------------------------


def _powers(target, output):
    return ops.mean((output - target) ** 2, axis=-1)


def _squared_difference(target, output):
    return tf.reduce_mean(tf.math.squared_difference(target, output), -1)


def _fourth(target, output):
    return ops.mean(ops.square(ops.square(target - output)), axis=-1)


def _of_half(target, output):
    return ops.mean(ops.square(target - output / 2), axis=-1)


def _over_samples(target, output):
    return ops.mean(ops.square(target - output), axis=0)


@pytest.mark.parametrize("loss", [_powers, _squared_difference, "mean_squared_error"])
@pytest.mark.parametrize("targets", [NUMBERS, NUMBERS[:, 0]])
def test_a_function_that_is_the_squared_error_has_its_closed_form(loss, targets):
    diagonal = po.curvature.diagonal
    expected = diagonal(_small(None, 1), WIDE, NUMBERS, loss="mse", estimator="ggn")
    found = diagonal(_small(None, 1), WIDE, targets, loss=loss, estimator="ggn")
    for values, wanted in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_allclose(values, wanted, rtol=1e-5)


@pytest.mark.parametrize("loss", [_fourth, _of_half, _over_samples, _absolute])
def test_a_function_that_only_resembles_it_has_none(loss):
    with pytest.raises(ValueError, match="has no closed form"):
        po.curvature.diagonal(_small(None, 3), WIDE, WIDE[:, :3], loss=loss, estimator="ggn")


# --- nothing is run to prepare the loss -----------------------------------------------------------


def test_the_first_draw_of_dropout_is_the_models_own():
    """Also within recurrent cells, which draw in inference too."""

    def make():
        keras.utils.set_random_seed(3)
        return keras.Sequential(
            [
                keras.Input((4, 6)),
                layers.GRU(5, recurrent_dropout=0.4, dropout=0.3, seed=1),
                layers.Dropout(0.5, seed=2),
                layers.Dense(1),
            ],
            name="net",
        )

    series = RANDOM.standard_normal((SAMPLES, 4, 6)).astype("float32")
    model = make()
    expected = keras.losses.MeanSquaredError()(NUMBERS, model(series, training=True))
    result = po.prune(
        make(), [(series, NUMBERS)], sparsity=0.5, loss="mse", method="snip", seed=0, verbose=0
    )
    assert result.losses == pytest.approx([float(expected)], rel=1e-5)


def test_a_batch_size_that_the_model_insists_on():
    def make():
        inputs = keras.Input(batch_shape=(8, 6))
        hidden = ops.reshape(layers.Dense(4, "relu")(inputs), (8, 2, 2))
        return keras.Model(inputs, layers.Dense(1)(layers.Flatten()(hidden)), name="net")

    for method in ("snip", "diagonal", "exact", "synflow"):
        scores = po.score(
            make(), (WIDE, NUMBERS), loss="mse", method=method, batch_size=8, verbose=0
        )
        assert all(np.isfinite(values).any() for values in scores.values())
    with pytest.raises(ValueError, match=r"takes \(8, 6\), so batch_size must be 8"):
        po.score(make(), (WIDE, NUMBERS), loss="mse", batch_size=12, verbose=0)


def test_the_state_of_recurrent_layers_is_put_back():
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(8, 4, 6)),
            layers.Bidirectional(layers.GRU(3, stateful=True)),
            layers.Dense(1),
        ]
    )
    series = RANDOM.standard_normal((SAMPLES, 4, 6)).astype("float32")
    model.compile("sgd", "mse")
    model.fit(series, NUMBERS, batch_size=8, shuffle=False, verbose=0)
    before = _kept(model)
    for method in ("exact", "synflow", "grasp"):
        po.score(model, (series, NUMBERS), method=method, batch_size=8, verbose=0)
        assert _kept(model) == before


class Peeking(layers.Layer):
    """Looks at values, which only an eager run has."""

    def compute_output_shape(self, shape):
        return shape

    def call(self, inputs):
        return inputs * (2.0 if float(tf.reduce_mean(inputs).numpy()) > 0 else 1.0)


def _peeking(run_eagerly: bool) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8), Peeking(), layers.Dense(1)], name="net"
    )
    model.compile("sgd", "mse", run_eagerly=run_eagerly)
    return model


@pytest.mark.parametrize("method", ["snip", "exact", "diagonal", "grasp", "first_order"])
def test_what_runs_eagerly_only(method):
    model = _peeking(run_eagerly=True)
    model.fit(WIDE, NUMBERS, verbose=0)
    result = po.prune(model, (WIDE, NUMBERS), sparsity=0.5, method=method, steps=1, verbose=0)
    assert result.kept == 28
    if method == "diagonal":
        assert all("runs eagerly" in origin for origin in result.estimators.values())
    if method == "snip":
        model = _peeking(run_eagerly=True)
        found = po.score(model, [(WIDE, NUMBERS)], method="snip", verbose=0)
        _assert_scores(found, _gradient_of_keras(model, (WIDE, NUMBERS)))


def test_what_runs_eagerly_only_is_told_so():
    model = _peeking(run_eagerly=False)
    before = _kept(model)
    with pytest.raises(ValueError, match=r"'net' cannot be traced.*run_eagerly=True"):
        po.prune(model, (WIDE, NUMBERS), sparsity=0.5, method="diagonal", verbose=0)
    assert _kept(model) == before
    model = _peeking(run_eagerly=True)
    with pytest.raises(ValueError, match="runs eagerly, and the closed form is read off a graph"):
        po.score(model, (WIDE, NUMBERS), method="diagonal", curvature="ggn", verbose=0)
    with pytest.raises(ValueError, match=r"microbatch needs .* the model runs eagerly"):
        po.score(model, (WIDE, NUMBERS), method="snip", microbatch=4, verbose=0)


def test_a_loss_in_numpy():
    def in_numpy(target, output):
        assert np.isfinite(output.numpy()).all()
        return tf.reduce_mean(tf.abs(target - output), -1)

    model = _small(None, 1)
    model.compile("sgd", in_numpy, run_eagerly=True)
    found = po.score(model, [(WIDE, NUMBERS)], method="snip", verbose=0)
    expected = po.score(model, [(WIDE, NUMBERS)], method="snip", loss="mae", verbose=0)
    for path, values in expected.items():
        np.testing.assert_allclose(found[path], values, rtol=1e-4)
    model.compile("sgd", in_numpy)
    with pytest.raises(ValueError, match=r"'numpy'; if it runs only eagerly"):
        po.score(model, [(WIDE, NUMBERS)], method="snip", verbose=0)


def test_class_weights_as_sample_weights_are_those_of_fit():
    class_weight = {0: 1.0, 1: 2.0, 2: 5.0}
    sample_weight = np.array([class_weight[label] for label in LABELS])
    model = _small("softmax")
    kernels = {v.path: v for v in model.trainable_variables if v.name == "kernel"}
    before = {path: v.numpy() for path, v in kernels.items()}
    model.compile(keras.optimizers.SGD(1.0), SPARSE)
    options = {"method": "snip", "batch_size": SAMPLES, "verbose": 0}
    scores = po.score(model, (WIDE, LABELS, sample_weight), **options)
    plain = po.score(model, (WIDE, LABELS), **options)
    model.fit(WIDE, LABELS, class_weight=class_weight, batch_size=SAMPLES, verbose=0)
    for path, variable in kernels.items():
        expected = np.abs((before[path] - variable.numpy()) * before[path])
        np.testing.assert_allclose(np.exp(scores[path]), expected, rtol=1e-3, atol=1e-6)
        assert not np.allclose(scores[path], plain[path])
