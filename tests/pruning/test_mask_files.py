from __future__ import annotations

import keras
import numpy as np
import pytest

import prospr_ops as po
from prospr_ops.pruning import mask_files
from prospr_ops.utils import archives


def _model() -> keras.Model:
    keras.utils.clear_session()
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(3)])


def _result(structure: str = "weight") -> po.PruneResult:
    return po.prune(
        _model(), None, sparsity=0.6, method="random", structure=structure, seed=1, verbose=0
    )


def _assert_same(one, other):
    assert one.keys() == other.keys()
    for path, values in one.items():
        assert values.dtype == other[path].dtype
        np.testing.assert_array_equal(values, other[path])


@pytest.mark.parametrize("structure", ["weight", "channel"])
def test_a_result_comes_back_whole(tmp_path, structure):
    result = _result(structure)
    result.save(tmp_path / "result.npz")
    loaded = po.PruneResult.load(tmp_path / "result.npz")
    _assert_same(result.masks, loaded.masks)
    _assert_same(result.scores, loaded.scores)
    assert repr(loaded) == repr(result)
    assert loaded.settings == result.settings
    assert (loaded.losses, loaded.estimators) == (result.losses, result.estimators)
    assert [file.name for file in tmp_path.iterdir()] == ["result.npz"]


def test_masks_are_bits(tmp_path):
    mask_files.write_masks(tmp_path / "masks.npz", {"kernel": np.ones((1000, 800), bool)}, {}, {})
    assert 100_000 < (tmp_path / "masks.npz").stat().st_size < 102_000


@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 5), (0, 4)])
def test_any_shape_is_packed(shape):
    mask = np.asarray(np.random.default_rng(0).random(shape) < 0.5)
    np.testing.assert_array_equal(archives.unpacked(archives.packed(mask), shape), mask)


def test_masks_of_a_file_are_applied_to_a_model_built_anew(tmp_path):
    result = _result()
    result.save(tmp_path / "result.npz")
    model = _model()
    po.apply_masks(model, tmp_path / "result.npz")
    weights = {variable.path: variable.numpy() for variable in model.trainable_variables}
    for path, mask in result.masks.items():
        np.testing.assert_array_equal(weights[path] != 0, mask)


def test_what_does_not_fit_is_named_and_nothing_changed(tmp_path):
    _result().save(tmp_path / "result.npz")
    keras.utils.clear_session()
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(9), keras.layers.Dense(3, name="renamed")]
    )
    before = model.get_weights()
    with pytest.raises(ValueError, match="do not fit") as caught:
        po.apply_masks(model, str(tmp_path / "result.npz"))
    message = str(caught.value)
    assert "no ['sequential/dense_1/kernel']" in message
    assert "'sequential/renamed/kernel'" in message
    assert "sequential/dense/kernel has shape (6, 8); the variable has (6, 9)" in message
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_damage_is_refused_wherever_it_is(tmp_path):
    masks = {"kernel": np.random.default_rng(0).random((5, 5)) < 0.5}
    file = tmp_path / "masks.npz"
    mask_files.write_masks(file, masks, {}, {})
    data = file.read_bytes()
    for length in range(0, len(data), 7):
        file.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"masks\.npz is no file of masks"):
            mask_files.read_masks(file)
    refused = 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        file.write_bytes(damaged)
        try:
            _assert_same(mask_files.read_masks(file)[0], masks)  # a date, say, was hit
        except ValueError:
            refused += 1
    assert refused > len(data) / 2


def _foreign(tmp_path, kind):
    file = tmp_path / "foreign.npz"
    if kind == "array":
        with file.open("wb") as stream:
            np.save(stream, np.ones(3))
    elif kind == "archive":
        np.savez(file, kernel=np.ones(3, bool))
    elif kind == "pickle":
        np.savez(file, header=np.array([{}], dtype=object))
    elif kind == "text":
        file.write_text("precious")
    else:
        mask_files.write_masks(file, {}, {}, {})
    return file


@pytest.mark.parametrize("kind", ["array", "archive", "pickle", "text"])
def test_a_foreign_file_is_refused(kind, tmp_path):
    file = _foreign(tmp_path, kind)
    for reader in (po.PruneResult.load, lambda path: po.apply_masks(_model(), path)):
        with pytest.raises(ValueError, match=r"foreign\.npz is no file of masks"):
            reader(file)


def test_a_newer_file_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "new.npz"
    with monkeypatch.context() as newer:
        newer.setattr(mask_files, "_VERSION", 2)
        mask_files.write_masks(file, {}, {}, {})
    with pytest.raises(ValueError, match="it is of version 2, and this prospr_ops reads 1"):
        mask_files.read_masks(file)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        po.PruneResult.load(tmp_path / "absent.npz")


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "result.npz"
    file.write_text("precious")

    def full(stream, *_, **__):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="No space"):
        _result().save(file)
    assert file.read_text() == "precious"
    assert [other.name for other in tmp_path.iterdir()] == ["result.npz"]
