from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import prospr_ops as po
from prospr_ops.delivery.exporting import FORMATS

X = np.random.default_rng(0).standard_normal((5, 8, 8, 1)).astype("float32")


def _pruned() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu", kernel_constraint="max_norm"),
            layers.BatchNormalization(),
            layers.Flatten(),
            keras.Sequential([layers.Dense(64, activation="relu"), layers.Dense(3)]),
        ]
    )
    po.prune(model, None, sparsity=0.95, method="magnitude", verbose=0)
    return model


def _assert_same_predictions(model, predictions):
    np.testing.assert_allclose(model.predict(X, verbose=0), predictions, rtol=1e-5, atol=1e-6)


def test_strip_gives_a_stock_model_and_leaves_the_given_one():
    model = _pruned()
    configuration = model.to_json()
    plain = po.strip(model)
    assert "prospr_ops" not in plain.to_json()
    assert isinstance(plain.layers[0].kernel_constraint, keras.constraints.MaxNorm)
    assert isinstance(plain.layers[0].kernel.constraint, keras.constraints.MaxNorm)
    assert plain.layers[3].layers[0].kernel.constraint is None
    assert model.to_json() == configuration
    assert "MaskConstraint" in configuration
    for one, other in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


_ELSEWHERE = """
import sys
sys.modules["prospr_ops"] = None  # any import of it fails
import keras, numpy as np
model = keras.saving.load_model({!r})
np.save({!r}, model.predict(np.load({!r}), verbose=0))
"""


def test_a_stripped_model_loads_where_the_package_is_not(tmp_path):
    model = _pruned()
    po.strip(model).save(tmp_path / "plain.keras")
    np.save(tmp_path / "x.npy", X)
    files = [str(tmp_path / name) for name in ("plain.keras", "y.npy", "x.npy")]
    code = _ELSEWHERE.format(*files)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    _assert_same_predictions(model, np.load(tmp_path / "y.npy"))


@keras.saving.register_keras_serializable("test_exporting")
class Subclassed(keras.Model):
    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.flatten = layers.Flatten()
        self.dense = layers.Dense(units)

    def call(self, x):
        return self.dense(self.flatten(x))

    def get_config(self):
        return {**super().get_config(), "units": self.dense.units}


def test_strip_a_subclassed_model():
    model = Subclassed(3)
    model(X)
    plain = po.strip(model)
    assert type(plain) is Subclassed
    _assert_same_predictions(model, plain.predict(X, verbose=0))


def test_strip_refuses_what_is_no_model():
    with pytest.raises(TypeError, match=r"must be a keras\.Model, not Dense"):
        po.strip(layers.Dense(3))
    with pytest.raises(ValueError, match="not built"):
        po.strip(keras.Sequential([layers.Dense(3)]))


def _run_keras(path):
    return keras.saving.load_model(path).predict(X, verbose=0)


def _run_saved_model(path):
    loaded = tf.saved_model.load(str(path))  # whose variables live as long as it does
    return loaded.serve(X).numpy()


def _run_litert(path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", exc_type=ImportError)
    runner = interpreter.Interpreter(str(path)).get_signature_runner()
    (name,) = runner.get_input_details()
    (outputs,) = runner(**{name: X}).values()
    return outputs


def _run_onnx(path):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path))
    (outputs,) = session.run(None, {session.get_inputs()[0].name: X})
    return outputs


RUNTIMES = {
    "keras": _run_keras,
    "saved_model": _run_saved_model,
    "litert": _run_litert,
    "onnx": _run_onnx,
}


@pytest.mark.parametrize("format", FORMATS)
def test_exports_predict_the_same_and_zeros_compress(format, tmp_path):
    if format == "onnx":
        pytest.importorskip("tf2onnx")
    model = _pruned()
    exported = po.export(model, tmp_path / f"model{FORMATS[format]}", format)
    _assert_same_predictions(model, RUNTIMES[format](exported.path))
    weights = model.get_weights()
    assert exported.weights == sum(weight.size for weight in weights)
    assert exported.nonzero == sum(np.count_nonzero(weight) for weight in weights)
    assert exported.nonzero < 0.1 * exported.weights

    assert exported.size > 4 * exported.weights
    dense = keras.models.clone_model(model)  # with new weights, none of them zero
    other = po.export(dense, tmp_path / f"dense{FORMATS[format]}", format)
    assert exported.compressed < 0.5 * other.compressed


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [("model.tflite", "onnx", r"must end in \.onnx"), ("model.h5", "h5", "format must be one of")],
)
def test_export_refuses_other_names(name, format, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        po.export(_pruned(), tmp_path / name, format)
    assert not list(tmp_path.iterdir())


def test_the_end_of_the_path_tells_the_format(tmp_path):
    model = _pruned()
    exported = po.export(model, tmp_path / "plain.keras")
    _assert_same_predictions(model, _run_keras(exported.path))
    with pytest.raises(ValueError, match=r"tells no format; it can be \.keras, \.tflite, \.onnx"):
        po.export(model, tmp_path / "plain.h5")


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path):
    (tmp_path / "precious.txt").touch()
    with pytest.raises(FileExistsError, match="holds no SavedModel"):
        po.export(_pruned(), tmp_path, "saved_model")
    assert [file.name for file in tmp_path.iterdir()] == ["precious.txt"]


def test_a_failed_export_leaves_what_was_there(tmp_path, monkeypatch):
    def full(_, path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Sequential, "save", full)
    (tmp_path / "model.keras").write_text("precious")
    with pytest.raises(OSError, match="No space"):
        po.export(_pruned(), tmp_path / "model.keras")
    assert (tmp_path / "model.keras").read_text() == "precious"
    assert len([*tmp_path.iterdir()]) == 1


def test_onnx_without_its_packages_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'prospr_ops\[export\]'"):
        po.export(_pruned(), tmp_path / "model.onnx", "onnx")
