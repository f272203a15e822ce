from __future__ import annotations

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from problems import LOGITS

import prospr_ops as po
from prospr_ops.pruning.masks import MaskConstraint, masked_weights, masks_lifted

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5),
    "lion": lambda: keras.optimizers.Lion(0.01, weight_decay=0.1),
    "clipped": lambda: keras.optimizers.Adam(0.01, global_clipnorm=1.0),
    "accumulating": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
    "averaging": lambda: keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.5),
    "averaging often": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=2),
    "scaling": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, use_ema=True)),
}


def _model() -> keras.Model:
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(3)]
    )


def _data() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.standard_normal((64, 6)).astype("float32"), random.integers(0, 3, 64)


def _masks(model: keras.Model) -> dict[str, np.ndarray]:
    return po.select(po.score(model, None, method="random", seed=1, verbose=0), 0.6)


def _pairs(model: keras.Model, masks: dict[str, np.ndarray]) -> list:
    """Each masked variable with its mask, whether the model's name is in the path or not."""

    def end(path):
        return tuple(path.split("/")[-2:])

    by_end = {end(variable.path): variable for variable in model.variables}
    return [(by_end[end(path)], mask) for path, mask in masks.items()]


def _assert_held(model: keras.Model, masks: dict[str, np.ndarray]) -> None:
    for variable, mask in _pairs(model, masks):
        np.testing.assert_array_equal(variable.numpy() != 0, mask)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_masks_hold_under_fit(optimizer, jit_compile):
    model = _model()
    masks = _masks(model)
    po.apply_masks(model, masks)
    _assert_held(model, masks)
    model.compile(OPTIMIZERS[optimizer](), LOGITS, jit_compile=jit_compile)
    before = [variable.numpy() for variable in model.trainable_variables]
    model.fit(*_data(), epochs=2, batch_size=16, verbose=0)
    _assert_held(model, masks)
    for old, variable in zip(before, model.trainable_variables, strict=True):
        assert not np.array_equal(old, variable.numpy()), "nothing was trained"


def test_masks_hold_after_a_fit_that_was_compiled_without_them():
    model = _model()
    model.compile("sgd", LOGITS)
    model.fit(*_data(), verbose=0)
    masks = _masks(model)
    po.apply_masks(model, masks)
    model.fit(*_data(), verbose=0)
    _assert_held(model, masks)


def test_an_own_constraint_goes_on_and_a_new_mask_replaces_the_old():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(3, kernel_constraint=keras.constraints.MaxNorm(0.1))]
    )
    kernel = model.layers[0].kernel
    first = np.zeros((6, 3), bool)
    first[:3] = True
    po.apply_masks(model, {kernel.path: first})
    po.apply_masks(model, {kernel.path: ~first})
    model.compile(keras.optimizers.SGD(1.0), LOGITS)
    model.fit(*_data(), epochs=3, verbose=0)
    values = kernel.numpy()
    assert (values[:3] == 0).all()
    assert (values[3:] != 0).all()
    assert (np.linalg.norm(values, axis=0) <= 0.1 + 1e-6).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda masks: {**masks, "nowhere": np.ones(3, bool)}, ValueError, "'nowhere'.; it has"),
        (lambda masks: {"old": masks.popitem()[1], **masks}, ValueError, "has, .*dense.*/kernel"),
        (lambda masks: {p: m.T for p, m in masks.items()}, ValueError, r"shape \(8, 6\)"),
        (lambda masks: {p: m.astype(float) for p, m in masks.items()}, TypeError, "float64"),
    ],
)
def test_bad_masks_change_nothing(change, error, message):
    model = _model()
    before = [variable.numpy() for variable in model.variables]
    with pytest.raises(error, match=message):
        po.apply_masks(model, change(_masks(model)))
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable)
    assert all(variable.constraint is None for variable in model.trainable_variables)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_stops_it_half_way_changes_nothing(error, monkeypatch):
    model = _model()
    masks = _masks(model)
    first, second = (layer.kernel for layer in model.layers)
    first.constraint = model.layers[0].kernel_constraint = keras.constraints.MaxNorm(2.0)
    before, constraint = model.get_weights(), first.constraint
    make = MaskConstraint.__init__

    def stop(self, mask, inner=None, path=""):
        if path == second.path:
            raise error
        make(self, mask, inner, path)

    monkeypatch.setattr(MaskConstraint, "__init__", stop)
    with pytest.raises(error):
        po.apply_masks(model, masks)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert first.constraint is model.layers[0].kernel_constraint is constraint
    assert second.constraint is None


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_masks_hold_in_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = _model()
    finally:
        keras.config.set_dtype_policy("float32")
    masks = _masks(model)
    po.apply_masks(model, masks)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOGITS)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (
        policy == "mixed_float16"
    )
    model.fit(*_data(), verbose=0)
    _assert_held(model, masks)


@pytest.mark.parametrize("use_ema", [False, True])
def test_masks_hold_in_an_own_training_loop(use_ema):
    model = _model()
    masks = _masks(model)
    po.apply_masks(model, masks)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, use_ema=use_ema)
    x, y = _data()
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = LOGITS(y, model(x, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        _assert_held(model, masks)
    optimizer.finalize_variable_values(model.trainable_variables)
    _assert_held(model, masks)


def _varied_model() -> keras.Model:
    """Each kind of layer whose kernels are pruned by default, nested, wrapped and constrained."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 2, kernel_constraint="non_neg"),
            layers.DepthwiseConv2D(2),
            layers.SeparableConv2D(4, 2, pointwise_constraint=keras.constraints.MaxNorm(3.0)),
            layers.Conv2DTranspose(3, 2),
            layers.Reshape((16, 3)),
            layers.EinsumDense("abc,cd->abd", output_shape=(16, 5)),
            layers.TimeDistributed(layers.Dense(3)),
            keras.Sequential([layers.Flatten(), layers.Dense(4)], name="head"),
        ],
        name="varied",
    )


def _assert_same_masks(model: keras.Model, masks: dict[str, np.ndarray]) -> None:
    for variable, mask in _pairs(model, masks):
        np.testing.assert_array_equal(variable.constraint.mask.numpy(), mask)


def test_masks_are_in_the_file_and_in_a_clone(tmp_path):
    model = _varied_model()
    masks = po.select(po.score(model, None, method="random", seed=1, verbose=0), 0.5)
    assert len(masks) == 8
    po.apply_masks(model, masks)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    for copy in (loaded, clone):
        _assert_same_masks(copy, masks)
        for one, other in zip(model.variables, copy.variables, strict=True):
            np.testing.assert_array_equal(one, other)
        inner = copy.layers[0].kernel.constraint.inner
        assert isinstance(inner, keras.constraints.NonNeg)
        assert copy.layers[2].pointwise_kernel.constraint.inner.max_value == 3.0
        copy.compile(keras.optimizers.SGD(0.1), LOGITS)
        x = np.random.default_rng(0).standard_normal((8, 6, 6, 2)).astype("float32")
        copy.fit(x, np.arange(8) % 4, verbose=0)
        for variable, mask in _pairs(copy, masks):
            assert (variable.numpy()[~mask] == 0).all()


_LOAD = """
{}
model = keras.saving.load_model({!r})
print([int(v.constraint.mask.numpy().sum()) for v in model.trainable_variables if v.constraint])
"""


@pytest.mark.parametrize("imports", ["import prospr_ops, keras", "import keras, prospr_ops"])
def test_a_new_process_loads_the_masks(imports, tmp_path):
    model = _model()
    masks = _masks(model)
    po.apply_masks(model, masks)
    file = tmp_path / "model.keras"
    model.save(file)
    code = _LOAD.format(imports, str(file))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == str([int(mask.sum()) for mask in masks.values()]), run.stderr


def test_without_the_package_keras_names_it(tmp_path):
    model = _model()
    po.apply_masks(model, _masks(model))
    model.save(tmp_path / "model.keras")
    code = _LOAD.format("import keras", str(tmp_path / "model.keras"))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "{'module': 'prospr_ops.pruning.masks', 'class_name': 'MaskConstraint'" in run.stderr


def test_checkpoints_bring_pruned_weights_back(tmp_path):
    model = _model()
    masks = _masks(model)
    po.apply_masks(model, masks)
    model.compile(keras.optimizers.Adam(0.01), LOGITS)
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True),
        keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False),
    ]
    model.fit(*_data(), epochs=2, callbacks=callbacks, verbose=0)
    whole = keras.saving.load_model(tmp_path / "2.keras")
    partial, interrupted = keras.models.clone_model(model), keras.models.clone_model(model)
    partial.load_weights(tmp_path / "2.weights.h5")
    interrupted.compile(keras.optimizers.Adam(0.01), LOGITS)
    for continued in (whole, partial, interrupted):
        _assert_same_masks(continued, masks)
        if continued is not interrupted:
            _assert_held(continued, masks)
        continued.compile(keras.optimizers.Adam(0.01), LOGITS)
        restore = [callbacks[2]] if continued is interrupted else []
        continued.fit(*_data(), epochs=3, callbacks=restore, verbose=0)
        _assert_held(continued, masks)


def test_masks_fit_a_loaded_model_whose_paths_lack_its_name(tmp_path):
    model = _model()
    masks = _masks(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not masks.keys() & {variable.path for variable in loaded.variables}
    po.apply_masks(loaded, masks)
    _assert_held(loaded, masks)
    again = {variable.path: mask for variable, mask in _pairs(loaded, masks)}
    po.apply_masks(model, again)
    _assert_held(model, masks)


def test_set_weights_writes_what_it_is_given():
    model = _model()
    dense = model.get_weights()
    masks = _masks(model)
    po.apply_masks(model, masks)
    model.set_weights(dense)
    np.testing.assert_array_equal(model.get_weights()[0], dense[0])
    po.apply_masks(model, masks)
    _assert_held(model, masks)


@keras.saving.register_keras_serializable("test_masking")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(3)

    def call(self, x):
        return self.inner(x)


def test_masks_that_no_configuration_carries_are_named(tmp_path):
    model = Subclassed()
    model(_data()[0])
    masks = _masks(model)
    with pytest.warns(UserWarning, match=r"model.save will not write the masks of .*dense.*kernel"):
        po.apply_masks(model, masks)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.inner.kernel.constraint is None
    np.testing.assert_array_equal(loaded.inner.kernel, model.inner.kernel)


@pytest.mark.parametrize("shape", [(), (1,), (3, 3), (2, 4, 8), (0, 5)])
def test_the_configuration_of_a_mask_is_json(shape):
    mask = np.random.default_rng(0).random(shape) < 0.5
    config = json.loads(json.dumps(MaskConstraint(np.asarray(mask)).get_config()))
    np.testing.assert_array_equal(MaskConstraint.from_config(config).mask.numpy(), mask)


@pytest.mark.parametrize(
    "damage",
    [{"shape": [9, 9]}, {"mask": "eJw="}, {"mask": "!"}, {"mask": ""}, {"shape": [0]}],
)
def test_a_damaged_configuration_is_refused(damage):
    config = MaskConstraint(np.ones((3, 3), bool), path="a/kernel").get_config()
    with pytest.raises(ValueError, match="the mask of a/kernel is damaged"):
        MaskConstraint.from_config({**config, **damage})


def test_lifted_masks_are_back_whatever_happened():
    model = _varied_model()
    masks = po.select(po.score(model, None, method="random", seed=1, verbose=0), 0.5)
    po.apply_masks(model, masks)
    configuration, weights = model.to_json(), model.get_weights()
    held = {path: mask for path, (*_, mask) in masked_weights(model).items()}
    with pytest.raises(KeyboardInterrupt), masks_lifted(model):  # noqa: PT012 - what is seen before it is interrupted
        assert not masked_weights(model)
        assert "prospr_ops" not in model.to_json()
        assert isinstance(model.layers[0].kernel.constraint, keras.constraints.NonNeg)
        assert isinstance(model.layers[2].pointwise_constraint, keras.constraints.MaxNorm)
        raise KeyboardInterrupt
    assert model.to_json() == configuration
    assert {path: mask for path, (*_, mask) in masked_weights(model).items()} == held
    for one, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_path_is_of_the_same_weight_whatever_is_frozen():
    shared = [layers.Dense(3, name="twin") for _ in range(2)]
    model = keras.Sequential(
        [keras.Input((3,)), keras.Sequential([shared[0]], name="in"), shared[1]]
    )
    for layer in shared:  # of one path, as Keras lets them be
        layer.kernel._path = "twin/kernel"
    shared[0].trainable = False
    po.apply_masks(model, {"twin/kernel#2": np.eye(3, dtype=bool)})
    assert isinstance(shared[1].kernel.constraint, MaskConstraint)
    assert shared[0].kernel.constraint is None
    shared[0].trainable = True
    po.apply_masks(model, {"twin/kernel": ~np.eye(3, dtype=bool)})
    np.testing.assert_array_equal(shared[0].kernel.numpy() != 0, ~np.eye(3, dtype=bool))
    np.testing.assert_array_equal(shared[1].kernel.numpy() != 0, np.eye(3, dtype=bool))


def test_a_clone_says_when_it_is_trained_which_masks_it_lacks():
    inputs = keras.Input((4, 6))
    x = layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    model = keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(x)))
    with pytest.warns(UserWarning, match="model.save will not write the masks of .*attention"):
        po.apply_masks(model, _masks(model))
    clone = keras.models.clone_model(model)
    clone.compile("sgd", LOGITS)
    x = np.random.default_rng(0).standard_normal((8, 4, 6)).astype("float32")
    with pytest.warns(UserWarning, match="attention/query/kernel.* were lost"):
        clone.fit(x, np.arange(8) % 3, verbose=0)


@pytest.mark.parametrize("scaled", [False, True])
def test_averages_that_overwrite_the_weights_before_the_next_step_are_masked(scaled):
    keras.utils.clear_session()
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5), keras.layers.Dense(2)])
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.7)
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer, "mse")
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((16, 6)), rng.standard_normal((16, 2))
    model.fit(x, y, verbose=0)
    result = po.prune(model, None, sparsity=0.5, method="magnitude", verbose=0)
    optimizer.finalize_variable_values(model.trainable_variables)
    kernels = {v.path: v.numpy() for v in model.trainable_variables if v.ndim == 2}
    for path, mask in result.masks.items():
        assert not kernels[path][~mask].any()
        assert kernels[path][mask].all()


@pytest.mark.parametrize("depth", [1, 2])
def test_masks_hold_in_a_model_around_whose_step_was_compiled_before(depth):
    keras.utils.clear_session()
    inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5)], name="inner")
    outer = inner
    for _ in range(depth):
        outer = keras.Sequential([keras.Input((6,)), outer, keras.layers.Dense(6)])
    outer.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((16, 6)), rng.standard_normal((16, 6))
    outer.fit(x, y, verbose=0)
    result = po.prune(inner, None, sparsity=0.5, method="magnitude", verbose=0)
    outer.fit(x, y, epochs=2, verbose=0)
    (mask,) = result.masks.values()
    np.testing.assert_array_equal(inner.layers[0].kernel.numpy() != 0, mask)
