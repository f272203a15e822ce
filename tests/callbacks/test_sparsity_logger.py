from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import prospr_ops as po


def scalars(folder) -> dict[str, dict[int, float]]:
    """By tag and step, what the event files hold."""
    found: dict[str, dict[int, float]] = {}
    for file in sorted(folder.iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                tensor = tf.make_ndarray(value.tensor)
                assert (tensor.shape, tensor.dtype) == ((), np.float32)
                found.setdefault(value.tag, {})[event.step] = float(tensor)
    return found


def trained(folder, epochs=2, *callbacks, **options):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu", name="first"),
            keras.layers.Dense(3, name="second"),
        ],
        name="net",
    )
    result = po.prune(model, None, sparsity=0.75, method="magnitude", min_keep=5, verbose=0)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"])
    random = np.random.default_rng(0)
    x, y = random.normal(size=(32, 6)).astype("f"), random.integers(0, 3, 32)
    logger = po.callbacks.SparsityLogger(folder, **options)
    history = model.fit(
        x, y, epochs=epochs, validation_split=0.25, verbose=0, callbacks=[*callbacks, logger]
    )
    return result, history.history


def test_density_and_metrics_of_every_epoch(tmp_path):
    result, history = trained(tmp_path / "logs")
    found = scalars(tmp_path / "logs")
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= history.keys()
    expected = {f"metrics/{name}": values for name, values in history.items()}
    expected |= {f"density/{path}": [mask.mean()] * 2 for path, mask in result.masks.items()}
    expected["density/all"] = [result.kept / result.weights] * 2
    assert found.keys() == expected.keys()
    for tag, values in expected.items():
        assert list(found[tag]) == [0, 1]
        np.testing.assert_allclose(list(found[tag].values()), values, rtol=1e-6)


def test_drift_is_seen(tmp_path):
    class Drift(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, _=None):
            if epoch == 1:
                kernel = self.model.get_layer("second").kernel
                kernel.assign(np.ones(kernel.shape))

    result, _ = trained(tmp_path, 2, Drift())
    density = scalars(tmp_path)["density/net/second/kernel"]
    assert density[0] == pytest.approx(result.masks["net/second/kernel"].mean())
    assert density[1] == 1


def test_a_choice_of_weights(tmp_path):
    result, _ = trained(tmp_path, prunable="*first/kernel")
    found = scalars(tmp_path)
    assert [tag for tag in found if tag.startswith("density")] == [
        "density/all",
        "density/net/first/kernel",
    ]
    assert found["density/all"][0] == pytest.approx(result.masks["net/first/kernel"].mean())


def test_nothing_to_log_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="'guess' matches none"):
        trained(tmp_path, prunable="guess")


def test_a_folder_that_cannot_be_is_an_error(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(tf.errors.OpError, match="file"):
        trained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
