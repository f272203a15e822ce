"""Schedules that begin in a trained model, or go on in another `fit`."""

from __future__ import annotations

from contextlib import nullcontext

import keras
import numpy as np
import pytest

import prospr_ops as po

STEPS = 10  # per epoch


def _data():
    random = np.random.default_rng(0)
    return random.standard_normal([80, 6]).astype(np.float32), random.standard_normal([80, 2])


def _model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input([6]), keras.layers.Dense(30, activation="relu"), keras.layers.Dense(2)]
    )
    model.compile("adam", "mse")
    return model


def _fit(model, callback, *, epochs, initial_epoch=0, more=()):
    sparsities = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: sparsities.append(callback.sparsity)
    )
    model.fit(
        *_data(),
        batch_size=8,
        epochs=epochs,
        initial_epoch=initial_epoch,
        callbacks=[callback, note, *more],
        verbose=0,
    )
    return sparsities


def test_dynamic_sparsity_moves_weights_of_a_model_that_was_trained_before():
    model = _model()
    model.fit(*_data(), batch_size=8, epochs=5, verbose=0)
    result = po.prune(model, _data(), sparsity=0.7, loss="mse", verbose=0)
    before = dict(result.masks)
    moving = po.callbacks.DynamicSparsity(every=4)
    _fit(model, moving, epochs=4)
    assert (moving.begin, moving.end) == (5 * STEPS + 4, 5 * STEPS + 3 * STEPS)
    assert all((moving.masks[path] != mask).any() for path, mask in before.items())
    assert [m.sum() for m in moving.masks.values()] == [m.sum() for m in before.values()]


def test_dynamic_sparsity_goes_on_where_epochs_do():
    model = _model()
    for first in range(3):
        moving = po.callbacks.DynamicSparsity(None if first else 0.8, every=4)
        _fit(model, moving, epochs=first + 1, initial_epoch=first)
        assert moving.begin == 4


def test_an_end_that_is_over_is_refused():
    model = _model()
    model.fit(*_data(), batch_size=8, epochs=2, verbose=0)
    weights = model.get_weights()
    with pytest.raises(ValueError, match="end is step 15, and the optimizer has taken 20 steps"):
        _fit(model, po.callbacks.DynamicSparsity(0.8, every=4, end=15), epochs=1)
    for value, old in zip(model.get_weights(), weights, strict=False):
        np.testing.assert_array_equal(value, old)


@pytest.mark.parametrize("same_callback", [True, False])
@pytest.mark.parametrize("schedule", ["cubic", "linear"])
def test_gradual_pruning_in_parts_takes_the_course_of_one_fit(schedule, same_callback):
    def pruning():
        return po.callbacks.GradualPruning(0.9, begin=0, end=60, every=10, schedule=schedule)

    expected = _fit(_model(), pruning(), epochs=6)
    model, callback, found = _model(), pruning(), []
    for epoch in range(6):
        callback = callback if same_callback else pruning()
        with pytest.warns(UserWarning, match="training ended") if epoch < 5 else nullcontext():
            found += _fit(model, callback, epochs=epoch + 1, initial_epoch=epoch)
    np.testing.assert_allclose(found, expected, atol=2 / 240)
