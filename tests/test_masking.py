from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from problems import LOGITS

import prospr_ops as po

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5),
    "lion": lambda: keras.optimizers.Lion(0.01, weight_decay=0.1),
    "clipped": lambda: keras.optimizers.Adam(0.01, global_clipnorm=1.0),
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


def _assert_held(model: keras.Model, masks: dict[str, np.ndarray]) -> None:
    kernels = {variable.path: variable.numpy() for variable in model.trainable_variables}
    for path, mask in masks.items():
        assert (kernels[path][~mask] == 0).all()
        assert (kernels[path][mask] != 0).all()


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
        (lambda masks: {**masks, "nowhere": np.ones(3, bool)}, ValueError, "'nowhere'; it has"),
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
