"""Files that version 0.1.0 wrote, read today."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from problems import LOGITS

import prospr_ops as po
from prospr_ops.pruning.masks import masked_weights

FILES = Path(__file__).parents[1] / "files"
MODEL, MASKS = FILES / "pruned_by_0.1.0.keras", FILES / "masks_of_0.1.0.npz"


def _x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((32, 8, 8, 1)).astype("float32")


def _kernels(model: keras.Model) -> dict[str, np.ndarray]:
    return {layer.name: layer.kernel.numpy() for layer in model.layers if hasattr(layer, "kernel")}


@pytest.mark.parametrize("load", [keras.saving.load_model, po.load_model])
def test_the_masks_of_a_model_hold(load):
    model = load(MODEL)
    assert np.isfinite(model.predict(_x(), verbose=0)).all()
    masks = {
        path.split("/")[-2]: mask.mask.numpy() for path, (*_, mask) in masked_weights(model).items()
    }
    before = _kernels(model)
    assert masks.keys() == before.keys()
    model.compile(keras.optimizers.Adam(0.01), LOGITS)
    model.fit(_x(), np.arange(32) % 3, epochs=2, verbose=0)
    for name, values in _kernels(model).items():
        assert 0 < masks[name].sum() < masks[name].size
        assert not values[~masks[name]].any()
        assert not np.array_equal(values, before[name]), "nothing was trained"


def test_a_file_of_masks_fits_the_model():
    result = po.PruneResult.load(MASKS)
    model = po.load_model(MODEL)
    plain = po.strip(model)
    assert not masked_weights(plain)
    for masks in (MASKS, result.masks):
        po.apply_masks(plain, masks)
        for path, (_, variable, mask) in masked_weights(plain).items():
            expected = next(values for name, values in result.masks.items() if name.endswith(path))
            np.testing.assert_array_equal(mask.mask, expected)
            np.testing.assert_array_equal(variable.numpy() != 0, expected)


def test_it_is_delivered_and_saved_again(tmp_path):
    model = po.load_model(MODEL)
    po.save_model(model, tmp_path / "again.keras")
    again = po.load_model(tmp_path / "again.keras")
    expected = model.predict(_x(), verbose=0)
    np.testing.assert_allclose(again.predict(_x(), verbose=0), expected, rtol=1e-5, atol=1e-6)
    assert masked_weights(again).keys() == masked_weights(model).keys()
    for name, values in _kernels(po.strip(model)).items():
        np.testing.assert_array_equal(values, _kernels(model)[name])
