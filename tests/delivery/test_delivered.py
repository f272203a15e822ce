"""What is delivered computes what was trained, in a process without prospr_ops, or is refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from elsewhere import predictions
from keras import layers

import prospr_ops as po
from prospr_ops.delivery.exporting import FORMATS
from prospr_ops.pruning.masks import masked_weights

RANDOM = np.random.default_rng(0)


def _magnitude(model: keras.Model) -> None:
    po.prune(model, None, sparsity=0.5, scope="layer", method="magnitude", verbose=0)


def _close(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def _transformer() -> tuple[keras.Model, dict[str, np.ndarray]]:
    """Words and measured facts: embedding, attention, GELU, an adapted normalisation."""
    tokens = keras.Input((12,), dtype="int32", name="tokens")
    facts = keras.Input((5,), name="facts")
    x = {
        "tokens": RANDOM.integers(0, 30, (16, 12)).astype("int32"),
        "facts": RANDOM.normal(300, 20, (16, 5)).astype("float32"),
    }
    scale = layers.Normalization(name="scale")
    scale.adapt(x["facts"])
    h = layers.Embedding(30, 16)(tokens)
    h = layers.LayerNormalization()(h + layers.MultiHeadAttention(2, 8)(h, h))
    h = h + layers.Dense(16)(layers.Dense(32, "gelu")(h))
    h = layers.Concatenate()([layers.GlobalAveragePooling1D()(h), scale(facts)])
    return keras.Model({"tokens": tokens, "facts": facts}, layers.Dense(3)(h)), x


def _series() -> tuple[keras.Model, np.ndarray]:
    x = RANDOM.normal(5, 2, (16, 7, 4)).astype("float32")
    scale = layers.Normalization()
    scale.adapt(x)
    recurrent = [layers.Bidirectional(layers.GRU(6, return_sequences=True)), layers.LSTM(5)]
    return keras.Sequential([keras.Input((7, 4)), scale, *recurrent, layers.Dense(3)]), x


PATHS = {"transformer": _transformer, "series": _series}


@pytest.mark.parametrize("name", PATHS)
def test_from_pruning_to_every_file(name, tmp_path):
    """The tutorial's path: prune, fit, save, load, fit, strip, export."""
    model, x = PATHS[name]()
    y = np.arange(16) % 3
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    if name == "transformer":  # whose attention no plain file keeps the masks of
        with pytest.warns(UserWarning, match="save_model will"):
            _magnitude(model)
    else:
        _magnitude(model)
    model.fit(x, y, verbose=0)
    po.save_model(model, tmp_path / "trained.keras")
    model = po.load_model(tmp_path / "trained.keras")
    model.fit(x, y, verbose=0)
    for _, variable, mask in masked_weights(model).values():
        np.testing.assert_array_equal(variable.numpy() != 0, mask.mask)
    expected = model.predict(x, verbose=0)

    po.save_model(model, tmp_path / "saved.keras")
    po.strip(model).save(tmp_path / "stripped.keras")
    paths = [tmp_path / "saved.keras", tmp_path / "stripped.keras"]
    paths += [po.export(model, tmp_path / f"file{end}", f).path for f, end in FORMATS.items()]
    for path, found in predictions(tmp_path, x, paths).items():
        assert found.shape == expected.shape, path
        _close(found, expected)
    assert masked_weights(model)


def _scaled_by(factor: float):
    def scaled(x):
        return keras.ops.tanh(x) * factor

    return scaled


def test_functions_that_nobody_registered_are_those_of_the_copy():
    """Lambdas over what is around them, two functions of one name, a compiled part."""
    shift = tf.constant(3.0)

    def nearly(y_true, y_pred):
        return keras.ops.mean(keras.ops.abs(y_true - y_pred) ** 1.5, axis=-1)

    part = keras.Sequential([keras.Input((8,)), layers.Dense(6, _scaled_by(5.0), name="part")])
    part.compile("sgd", nearly, metrics=[nearly])
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Lambda(lambda x: tf.nn.relu(x) + shift, name="shifted"),
            layers.Dense(8, _scaled_by(2.0)),
            part,
            layers.Dense(3, lambda x: x + 1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), nearly, metrics=[nearly])
    x = RANDOM.standard_normal((8, 4)).astype("float32")
    _magnitude(model)
    model.fit(x, np.zeros((8, 3)), verbose=0)
    plain = po.strip(model)
    _close(plain.predict(x, verbose=0), model.predict(x, verbose=0))
    assert not plain.compiled
    assert not any(part.compiled for part in plain.layers if isinstance(part, keras.Model))
    assert model.compiled
    assert model.optimizer is not None
    assert part.compiled
    assert model.get_layer("shifted").function.__name__ == "<lambda>"
    assert _scaled_by(1.0).__name__ == model.layers[1].activation.__name__ == "scaled"
    small = po.shrink(model)
    _close(small.predict(x, verbose=0), model.predict(x, verbose=0))


def test_classes_that_the_user_has_in_scope_are_found():
    class Doubled(layers.Layer):
        def call(self, x):
            return 2 * x

    class Holder(layers.Layer):
        """Makes its part, which it does not keep, when it is made again."""

        def __init__(self, part="Doubled", **kwargs):
            super().__init__(**kwargs)
            known = keras.saving.get_registered_object(part)
            self.factor = float(known().call(1.0))

        def call(self, x):
            return x * self.factor

    with keras.saving.custom_object_scope({"Doubled": Doubled}):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(3), Holder()])
        plain = po.strip(model)
        assert keras.saving.get_registered_object("Doubled") is Doubled
    assert plain.layers[1].factor == 2.0


def test_a_part_of_the_state_that_no_file_keeps_is_refused_and_named():
    @keras.saving.register_keras_serializable("test_delivered")
    class Shift(layers.Layer):
        by = 0.0

        def call(self, x):
            return x + self.by

    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(8), Shift(name="moved"), layers.Dense(2, name="after")]
    )
    model.get_layer("moved").by = 3.0
    _magnitude(model)
    for deliver in (po.strip, lambda model: po.save_model(model, "never.keras")):
        with pytest.raises(ValueError, match="first layer that differs is 'moved'"):
            deliver(model)
    with (
        pytest.warns(UserWarning, match="stay whole at moved"),
        pytest.raises(ValueError, match="first layer that differs is 'moved'"),
    ):
        po.shrink(model)


@pytest.mark.parametrize("format", ["litert", "onnx"])
def test_what_a_format_cannot_say_is_refused_without_a_file(format, tmp_path):
    class Incomplete(layers.Layer):
        def call(self, x):
            return tf.math.igamma(tf.abs(x) + 1, tf.abs(x) + 0.5)

    model = keras.Sequential([keras.Input((4,)), layers.Dense(8), Incomplete(), layers.Dense(2)])
    with pytest.raises(ValueError, match=rf"cannot be exported to {format}.*(?i:igamma)"):
        po.export(model, tmp_path / f"model{FORMATS[format]}")
    assert not list(tmp_path.iterdir())


def test_a_file_that_needs_the_flex_delegate_is_said_to(tmp_path):
    model = keras.Sequential(
        [keras.Input((None, 4)), layers.GRU(3, name="any_length"), layers.Dense(2)]
    )
    with pytest.warns(
        UserWarning, match=r"needs the Flex.* 'any_length'.*make them with unroll=True"
    ):
        po.export(model, tmp_path / "model.tflite")
    assert model.get_layer("any_length").unroll is False


def test_outputs_that_are_drawn_are_not_compared_by_value(tmp_path):
    @keras.saving.register_keras_serializable("test_delivered")
    class Sampling(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seed = keras.random.SeedGenerator(1)

        def call(self, x):
            return x + keras.random.normal(keras.ops.shape(x), seed=self.seed)

    model = keras.Sequential([keras.Input((4,)), Sampling(name="draws"), layers.Dense(2)])
    state = model.get_layer("draws").seed.state.numpy()
    x = RANDOM.standard_normal((3, 4)).astype("float32")
    plain = po.strip(model)
    po.export(model, tmp_path / "saved")
    np.testing.assert_array_equal(model.get_layer("draws").seed.state, state)
    np.testing.assert_array_equal(plain(x), model(x))


def test_an_output_that_is_never_the_same_is_said_not_to_be_compared():
    @keras.saving.register_keras_serializable("test_delivered")
    class Noise(layers.Layer):
        def call(self, x):
            return x + tf.random.normal(tf.shape(x))

    model = keras.Sequential([keras.Input((4,)), Noise(), layers.Dense(2)])
    with pytest.warns(UserWarning, match="strip: .* not compared .* other outputs each time"):
        po.strip(model)


def test_states_of_recurrent_layers_begin_anew_and_stay_in_the_model(tmp_path):
    model = keras.Sequential(
        [keras.Input(batch_shape=(3, 5, 4)), layers.LSTM(3, stateful=True), layers.Dense(2)]
    )
    x = RANDOM.standard_normal((3, 5, 4)).astype("float32")
    first = model(x).numpy()
    states = [state.numpy() for state in model.layers[0].states]
    assert any(state.any() for state in states)
    plain = po.strip(model)
    np.testing.assert_allclose(plain(x), first, rtol=1e-5, atol=1e-6)
    po.export(model, tmp_path / "saved")
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.serve(x), first, rtol=1e-5, atol=1e-6)
    for old, new in zip(states, model.layers[0].states, strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_model_that_keras_cannot_make_again_is_exported_itself(tmp_path):
    class Plain(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, x):
            return self.inner(x)

    model = Plain(layers.Dense(3, name="only"))
    x = RANDOM.standard_normal((4, 5)).astype("float32")
    expected = model(x).numpy()
    with pytest.raises(TypeError, match=r"cannot make the Plain .* again.*export to a SavedModel"):
        po.strip(model)
    with pytest.raises(ValueError, match="Keras cannot write model"):
        po.save_model(model, tmp_path / "model.keras")
    assert not list(tmp_path.iterdir())
    paths = [po.export(model, tmp_path / f"m{FORMATS[f]}", f).path for f in ("saved_model", "onnx")]
    for found in predictions(tmp_path, x, paths).values():
        _close(found, expected)


def test_inputs_of_strings_and_vocabularies_without_a_place_for_other_words(tmp_path):
    words = keras.Input((3,), dtype="string", name="words")
    kinds = keras.Input((1,), dtype="string", name="kinds")
    lookup = [
        layers.StringLookup(vocabulary=names, num_oov_indices=0, name=f"of_{names[0]}")
        for names in (["red", "green", "blue"], ["up", "down"])
    ]
    h = [
        layers.Flatten()(layers.Embedding(3, 4)(lookup[0](words))),
        layers.Flatten()(layers.Embedding(2, 4)(lookup[1](kinds))),
    ]
    model = keras.Model([words, kinds], layers.Dense(2)(layers.Concatenate()(h)))
    _magnitude(model)
    x = [tf.constant([["red", "blue", "green"]]), tf.constant([["down"]])]
    expected = model(x).numpy()
    _close(po.strip(model)(x), expected)
    po.export(model, tmp_path / "saved")
    loaded = tf.saved_model.load(str(tmp_path / "saved"))  # held on to while it runs
    _close(loaded.serve(x), expected)


def test_layers_that_share_a_weight_are_not_shrunk_apart():
    @keras.saving.register_keras_serializable("test_delivered")
    class Transposed(layers.Layer):
        def __init__(self, of, **kwargs):
            super().__init__(**kwargs)
            self.of = of

        def call(self, x):
            return keras.ops.matmul(x, keras.ops.transpose(self.of.kernel))

        def get_config(self):
            return {**super().get_config(), "of": keras.saving.serialize_keras_object(self.of)}

        @classmethod
        def from_config(cls, config):
            return cls(keras.saving.deserialize_keras_object(config.pop("of")), **config)

    inputs = keras.Input((6,))
    encode = layers.Dense(4, "tanh")
    model = keras.Model(inputs, Transposed(encode)(encode(inputs)))
    assert len(po.strip(model).weights) == len(model.weights)
    with pytest.raises(ValueError, match=r"shrink: .* has 4 weights instead of 2"):
        po.shrink(model)
