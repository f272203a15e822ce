"""Files that keep the masks of any model."""

from __future__ import annotations

import contextlib
import zipfile

import keras
import numpy as np
import pytest
from elsewhere import predictions
from keras import layers

import prospr_ops as po
from prospr_ops.pruning.masks import masked_weights

MEMBER = "prospr_ops_masks.npz"


@keras.saving.register_keras_serializable("test_saving")
class Block(layers.Layer):
    """Makes its inner layers anew from its own configuration, like those of KerasHub."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.attention = layers.MultiHeadAttention(2, units // 2)
        self.norm = layers.LayerNormalization()
        self.inner = [layers.Dense(2 * units, "gelu"), layers.Dense(units)]

    def build(self, shape):
        self.attention.build(shape, shape)
        self.norm.build(shape)
        self.inner[0].build(shape)
        self.inner[1].build((*shape[:-1], 2 * self.units))

    def call(self, x):
        x = self.norm(x + self.attention(x, x))
        return x + self.inner[1](self.inner[0](x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("test_saving")
class Towers(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.head = layers.Dense(3)
        self.towers = {name: layers.Dense(4, "relu") for name in ("b", "a")}

    def call(self, x):
        return self.head(keras.ops.concatenate([self.towers[name](x[name]) for name in "ab"], -1))


@keras.saving.register_keras_serializable("test_saving")
class Backbone(keras.Model):
    """A functional model made of a few numbers, as KerasHub's are."""

    def __init__(self, width, **kwargs):
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        padding = keras.Input((None,), dtype="int32", name="padding")
        h = layers.Embedding(20, width, name="table")(tokens)
        seen = keras.ops.cast(padding, "bool")[:, None, :]
        attended = layers.MultiHeadAttention(2, width // 2, name="attention")
        h = layers.LayerNormalization(name="norm")(h + attended(h, h, attention_mask=seen))
        super().__init__({"tokens": tokens, "padding": padding}, h, **kwargs)
        self.width = width

    def get_config(self):
        return {"name": self.name, "trainable": self.trainable, "width": self.width}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def _backbone() -> tuple[keras.Model, dict[str, np.ndarray]]:
    backbone = Backbone(8, name="backbone")
    outputs = layers.Dense(3, name="head")(backbone(backbone.input)[:, 0, :])
    random = np.random.default_rng(0)
    x = {"tokens": random.integers(0, 20, (16, 7)), "padding": np.ones((16, 7), int)}
    return keras.Model(backbone.input, outputs, name="classifier"), x


def _transformer() -> tuple[keras.Model, np.ndarray]:
    inputs = keras.Input((5, 8), name="x")
    x = Block(8, name="second")(Block(8, name="first")(inputs))
    outputs = layers.Dense(3, name="head")(layers.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, outputs, name="transformer")
    return model, np.random.default_rng(0).standard_normal((16, 5, 8)).astype("float32")


def _towers() -> tuple[keras.Model, dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    x = {
        "a": random.standard_normal((16, 5)).astype("f"),
        "b": random.standard_normal((16, 7)).astype("f"),
    }
    model = Towers(name="towers")
    model(x)
    return model, x


def _frozen() -> tuple[keras.Model, np.ndarray]:
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, "relu", name="base"),
            keras.Sequential([layers.Dense(4, "relu", name="inner")], name="part"),
            layers.Dense(3, name="head"),
        ],
        name="frozen",
    )
    model.get_layer("base").trainable = False
    return model, np.random.default_rng(0).standard_normal((16, 6)).astype("float32")


MODELS = {"transformer": _transformer, "backbone": _backbone, "towers": _towers, "frozen": _frozen}


def _loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _pruned(name: str) -> tuple[keras.Model, np.ndarray | dict[str, np.ndarray]]:
    """A trained model with a mask on each kernel, frozen ones too."""
    model, x = MODELS[name]()
    frozen = [layer for layer in model._flatten_layers() if not layer.trainable]
    for layer in frozen:
        layer.trainable = True
    with (
        pytest.warns(UserWarning, match=r"save_model will")
        if name != "frozen"
        else contextlib.nullcontext()
    ):
        po.prune(model, None, sparsity=0.5, scope="layer", method="magnitude", verbose=0)
    for layer in frozen:
        layer.trainable = False
    model.compile(keras.optimizers.Adam(0.01), _loss())
    model.fit(x, np.arange(16) % 3, verbose=0)
    return model, x


def _same_masks(one: keras.Model, other: keras.Model) -> None:
    pairs = list(zip(masked_weights(one).values(), masked_weights(other).values(), strict=True))
    assert pairs
    for (_, variable, mask), (_, its, its_mask) in pairs:
        assert variable.name == its.name
        np.testing.assert_array_equal(mask.mask, its_mask.mask)
        np.testing.assert_array_equal(variable, its)


@pytest.mark.parametrize("name", MODELS)
def test_masks_of_any_model_come_back_and_hold(name, tmp_path):
    model, x = _pruned(name)
    path = tmp_path / "model.keras"
    po.save_model(model, path)
    assert masked_weights(model), "the model itself keeps its masks"
    loaded = po.load_model(path)
    _same_masks(model, loaded)
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6
    )
    assert loaded.optimizer.iterations.numpy() == model.optimizer.iterations.numpy()
    for layer in loaded._flatten_layers():
        layer.trainable = True
    loaded.compile(keras.optimizers.Adam(0.01, weight_decay=0.1), _loss())
    before = [variable.numpy() for _, variable, _ in masked_weights(loaded).values()]
    loaded.fit(x, np.arange(16) % 3, epochs=2, verbose=0)
    for old, (_, variable, mask) in zip(before, masked_weights(loaded).values(), strict=True):
        np.testing.assert_array_equal(variable.numpy() != 0, mask.mask)
        assert not np.array_equal(old, variable), "nothing was trained"


def test_plain_keras_reads_the_file_where_the_package_is_not(tmp_path):
    model, x = _pruned("frozen")
    path = tmp_path / "model.keras"
    po.save_model(model, path)
    with zipfile.ZipFile(path) as archive:
        assert b"prospr_ops" not in archive.read("config.json")
    found = predictions(tmp_path, x, [path])[path]
    np.testing.assert_allclose(found, model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
    loaded = keras.saving.load_model(path)
    assert not masked_weights(loaded)


def test_vocabularies_are_in_the_file_beside_the_masks(tmp_path):
    words = layers.TextVectorization(output_sequence_length=4, name="words")
    words.adapt(["a dog ran", "the cat sat down", "cats and dogs"])
    model = keras.Sequential(
        [
            keras.Input((), dtype="string"),
            words,
            layers.Embedding(words.vocabulary_size(), 6, name="table"),
            layers.Flatten(),
            layers.Dense(3, name="head"),
        ]
    )
    po.prune(model, None, sparsity=0.5, scope="layer", method="magnitude", verbose=0)
    po.save_model(model, tmp_path / "model.keras")
    loaded = po.load_model(tmp_path / "model.keras")
    _same_masks(model, loaded)
    assert loaded.get_layer("words").get_vocabulary() == words.get_vocabulary()


def test_weights_of_one_value_get_their_own_masks(tmp_path):
    model = keras.Sequential([keras.Input((4,)), *(layers.Dense(4, name=n) for n in "zab")])
    masks = {}
    for number, layer in enumerate(model.layers):
        layer.kernel.assign(np.zeros((4, 4)))
        masks[layer.kernel.path] = np.roll(np.arange(16) < 5, number).reshape(4, 4)
    po.apply_masks(model, masks)
    po.save_model(model, tmp_path / "model.keras")
    _same_masks(model, po.load_model(tmp_path / "model.keras"))


def _rewritten(path, change) -> None:
    """Replaces the masks' member by what `change` makes of it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[MEMBER] = change(members[MEMBER])
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def _flipped(data: bytes) -> bytes:
    middle = data.index(b"NUMPY", 600) + 130  # in the first mask's bits
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "change",
    [lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"not an archive", _flipped],
    ids=["truncated", "empty", "foreign", "flipped"],
)
def test_damaged_masks_are_refused(change, tmp_path):
    model, _ = _frozen()
    po.prune(model, None, sparsity=0.5, scope="layer", method="magnitude", verbose=0)
    path = tmp_path / "model.keras"
    po.save_model(model, path)
    _rewritten(path, change)
    with pytest.raises(ValueError, match=r"the masks in .*model\.keras are none of prospr_ops"):
        po.load_model(path)


def test_masks_of_another_model_are_refused(tmp_path):
    for seed, name in enumerate(("one", "other")):
        keras.utils.set_random_seed(seed)
        model, _ = _frozen()
        po.prune(model, None, sparsity=0.5, scope="layer", method="magnitude", verbose=0)
        po.save_model(model, tmp_path / f"{name}.keras")
    with zipfile.ZipFile(tmp_path / "other.keras") as archive:
        foreign = archive.read(MEMBER)
    _rewritten(tmp_path / "one.keras", lambda _: foreign)
    with pytest.raises(ValueError, match=r"are not of the model in it: no weight fits .*kernel"):
        po.load_model(tmp_path / "one.keras")


def test_what_is_no_keras_file_is_refused(tmp_path):
    (tmp_path / "model.keras").write_text("nothing")
    with pytest.raises(ValueError, match=r"is no \.keras file, or a damaged one"):
        po.load_model(tmp_path / "model.keras")
    for function in (po.load_model, lambda path: po.save_model(_frozen()[0], path)):
        with pytest.raises(ValueError, match=r"must end in \.keras, got .*model\.h5"):
            function(tmp_path / "model.h5")
    with pytest.raises(FileNotFoundError):
        po.load_model(tmp_path / "absent.keras")


def test_pruned_weights_that_are_not_zero_are_not_saved(tmp_path):
    model, _ = _frozen()
    dense = model.get_weights()
    po.prune(model, None, sparsity=0.5, scope="layer", method="magnitude", verbose=0)
    model.set_weights(dense)
    with pytest.raises(ValueError, match=r"not zero in .*head/kernel.*call apply_masks again"):
        po.save_model(model, tmp_path / "model.keras")
    assert not list(tmp_path.iterdir())


def test_masks_from_the_zeros_of_a_checkpoint(tmp_path):
    model, x = _pruned("transformer")
    model.save_weights(tmp_path / "model.weights.h5")
    again, _ = _transformer()
    again.load_weights(tmp_path / "model.weights.h5")
    with pytest.warns(UserWarning, match="save_model will"):
        po.apply_masks(again, "zeros")
    _same_masks(model, again)
    again.compile(keras.optimizers.Adam(0.01), _loss())
    again.fit(x, np.arange(16) % 3, verbose=0)
    for _, variable, mask in masked_weights(again).values():
        np.testing.assert_array_equal(variable.numpy() != 0, mask.mask)


def test_no_zeros_make_no_masks():
    model, _ = _frozen()
    with pytest.raises(ValueError, match="no kernel of model 'frozen' has a zero"):
        po.apply_masks(model, "zeros")


def test_a_file_without_its_masks_is_said_to_be_when_it_is_loaded(tmp_path):
    model, _ = _frozen()
    po.prune(model, None, sparsity=0.5, scope="layer", method="magnitude", verbose=0)
    po.export(model, tmp_path / "plain.keras")
    with pytest.warns(
        UserWarning, match=r"no masks, and many zeros in .*apply_masks\(model, \"zeros\"\)"
    ):
        po.load_model(tmp_path / "plain.keras")


def test_fit_says_which_masks_were_lost_on_the_way(tmp_path):
    model, x = _pruned("transformer")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(masked_weights(loaded)) == 1  # of the head
    with pytest.warns(UserWarning, match=r"masks of .*first.*query/kernel.* were lost"):
        loaded.fit(x, np.arange(16) % 3, verbose=0)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="save_model will"):
        po.apply_masks(loaded, "zeros")
    _same_masks(model, loaded)
    loaded.compile("adam", _loss())
    loaded.fit(x, np.arange(16) % 3, verbose=0)  # and warns no more


@pytest.mark.parametrize("frozen_first", [True, False])
def test_a_file_of_masks_fits_whatever_is_frozen_since(frozen_first, tmp_path):
    model, _ = _frozen()
    model.get_layer("base").trainable = True
    result = po.prune(model, None, sparsity=0.5, scope="layer", method="magnitude", verbose=0)
    result.save(tmp_path / "masks.npz")
    again, x = _frozen()
    if not frozen_first:
        again.get_layer("head").trainable = False
    po.apply_masks(again, tmp_path / "masks.npz")
    _same_masks_only(model, again)
    again.trainable = True
    again.compile("adam", _loss())
    again.fit(x, np.arange(16) % 3, verbose=0)
    for _, variable, mask in masked_weights(again).values():
        np.testing.assert_array_equal(variable.numpy() != 0, mask.mask)


def _same_masks_only(one: keras.Model, other: keras.Model) -> None:
    pairs = zip(masked_weights(one).values(), masked_weights(other).values(), strict=True)
    for (*_, mask), (*_, its) in pairs:
        np.testing.assert_array_equal(mask.mask, its.mask)
