from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import prospr_ops as po
from prospr_ops.data import datasets as data


def model(loss="sparse_categorical_crossentropy", classes=3, shape=(4, 4, 1)):
    network = keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(classes)])
    network.compile("sgd", loss)
    return network


def arrays(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 4, 4, 1)), np.arange(count) % 3


def archive(tmp_path, **changes):
    (x, y), (x_test, y_test) = arrays(12), arrays(6)
    contents = {"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test, **changes}
    file = tmp_path / "data.npz"
    np.savez(file, **{name: array for name, array in contents.items() if array is not None})
    return file


def images(folder, count=4, size=(6, 5), channels=3):
    for number in range(count):
        file = folder / f"class_{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(file, np.full((*size, channels), 10 * number), scale=False)
    return folder


def test_arrays_come_as_they_are(tmp_path):
    samples = po.load_data(archive(tmp_path), model())
    for read, written in zip((samples.train, samples.test), (arrays(12), arrays(6)), strict=True):
        np.testing.assert_array_equal(read[0], written[0])
        np.testing.assert_array_equal(read[1], written[1])
    assert str(tmp_path) in samples.source


def test_short_names_and_no_test_set(tmp_path):
    x, y = arrays(5)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    train, test, _ = po.load_data(str(tmp_path / "data.npz"), model())
    np.testing.assert_array_equal(train[0], x)
    assert test is None


def test_mnist(monkeypatch):
    monkeypatch.setenv("PROSPR_DATA", str(data._MNIST_SAMPLE))
    samples = po.load_data("mnist", model(classes=10, shape=(28, 28, 1)))
    assert samples.train[0].shape == (6000, 28, 28, 1)
    assert samples.test[1].shape == (2000,)
    with pytest.raises(ValueError, match=r"of mnist has shape .*; the model takes \[n, 4, 4, 1\]"):
        po.load_data("mnist", model())


@pytest.mark.parametrize(
    ("loss", "classes", "y"),
    [
        ("sparse_categorical_crossentropy", 3, np.zeros((12, 1), np.uint8)),
        ("categorical_crossentropy", 3, np.eye(3)[np.arange(12) % 3]),
        ("binary_crossentropy", 1, np.arange(12) % 2),
        ("mse", 1, np.linspace(0, 1, 12)),
        ("mse", 2, np.zeros((12, 2))),
        (keras.losses.SparseCategoricalCrossentropy(ignore_class=-1), 3, np.arange(12) % 4 - 1),
    ],
)
def test_targets_that_fit(loss, classes, y, tmp_path):
    file = archive(tmp_path, y_train=y, x_test=None)
    np.testing.assert_array_equal(po.load_data(file, model(loss, classes)).train[1], y)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": None}, "it has y_train, .*; there must be x_train and y_train, or x and y"),
        ({"y_train": None}, "it has x_train, .*; there must be"),
        ({"y_test": None}, "y_test"),
        ({"x_train": np.array([None] * 12)}, "allow_pickle"),
        ({"x_train": np.array(["text"] * 12)}, "x of the training set .* of numbers, not <U4"),
        ({"x_train": np.array(3.0)}, "x of the training set .* not float64 of shape "),
        ({"x_train": arrays(11)[0]}, "equally long, at least 1: 11 and 12"),
        ({"x_train": arrays(0)[0], "y_train": arrays(0)[1]}, "at least 1: 0 and 0"),
        ({"x_train": np.zeros((12, 5, 4, 1))}, r"has shape \[12, 5, 4, 1\]; .* \[n, 4, 4, 1\]"),
        ({"x_train": np.zeros((12, 4, 4))}, r"has shape \[12, 4, 4\]"),
        ({"x_test": np.full((6, 4, 4, 1), np.nan)}, "x of the test set .* NaN or infinity"),
        ({"y_train": np.arange(12)}, "range from 0 to 11; the model has 3 outputs, so they must"),
        ({"y_test": np.arange(6) - 1}, "labels of the test set .* range from -1 to 4"),
        ({"y_train": np.zeros(12)}, r"is float64 of shape \[12\]; .* class indices of shape"),
        ({"y_train": np.zeros((12, 3), int)}, r"\[12, 3\]; .* of shape \[12\] or \[12, 1\]"),
    ],
)
def test_bad_arrays(changes, message, tmp_path):
    file = archive(tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"(?s)data\.npz.*{message}|{message}"):
        po.load_data(file, model())


def test_targets_that_do_not_fit_the_loss(tmp_path):
    with pytest.raises(ValueError, match=r"takes numbers of shape \[12, 3\]"):
        po.load_data(archive(tmp_path), model("categorical_crossentropy"))


def test_damaged_archives(tmp_path):
    file = archive(tmp_path)
    intact = file.read_bytes()
    np.save(tmp_path / "one.npy", np.zeros(3))
    one = (tmp_path / "one.npy").read_bytes()
    for content in (b"", b"text", intact[:700], intact[: len(intact) // 2], one):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"data\.npz is no NumPy archive of samples"):
            po.load_data(file, model())


def test_absent(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*absent: data is an .npz file, a folder"):
        po.load_data(tmp_path / "absent", model())


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.flatten, self.dense = layers.Flatten(), layers.Dense(3)

    def call(self, x):
        return self.dense(self.flatten(x))


def test_a_subclassed_model(tmp_path):
    network = Subclassed()
    network.compile("sgd", "sparse_categorical_crossentropy")
    assert po.load_data(archive(tmp_path), network).test[1].shape == (6,)
    with pytest.raises(ValueError, match=r"need a model of one input.* 'subclassed.*' are \[\]"):
        po.load_data(images(tmp_path / "photos"), network)


def test_loss_of_the_call(tmp_path):
    plain = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(3)])
    with pytest.raises(ValueError, match="no loss is given"):
        po.load_data(archive(tmp_path), plain)
    assert po.load_data(archive(tmp_path), plain, loss="sparse_categorical_crossentropy").test


@pytest.mark.parametrize(
    ("loss", "classes", "labels"),
    [
        ("sparse_categorical_crossentropy", 2, [0, 1, 0, 1]),
        ("categorical_crossentropy", 2, [[1, 0], [0, 1], [1, 0], [0, 1]]),
        ("binary_crossentropy", 1, [[0], [1], [0], [1]]),
    ],
)
def test_images(loss, classes, labels, tmp_path):
    folder = images(tmp_path / "photos")
    samples = po.load_data(folder, model(loss, classes, shape=(3, 2, 3)), batch_size=3)
    assert samples.test is None
    assert samples.source == f"4 images in {folder}"
    batches = list(samples.train)
    assert [batch[0].shape for batch in batches] == [(3, 3, 2, 3), (1, 3, 2, 3)]
    x, y = (tf.concat(parts, 0).numpy() for parts in zip(*batches, strict=True))
    order = np.argsort(x[:, 0, 0, 0])
    np.testing.assert_array_equal(x[order, 0, 0, 0], [0, 10, 20, 30])
    np.testing.assert_array_equal(y[order], labels)


def test_images_to_train_and_to_test_on(tmp_path):
    images(tmp_path / "train", 4, channels=1)
    images(tmp_path / "test", 2, channels=1)
    train, test, _ = po.load_data(tmp_path, model(classes=2))
    assert train.element_spec[0].shape == (None, 4, 4, 1)
    assert [len(part.file_paths) for part in (train, test)] == [4, 2]


def test_the_seed_orders_the_images(tmp_path):
    folder = images(tmp_path, 16)

    def order(seed):
        part = po.load_data(folder, model(classes=2), seed=seed).train
        return next(iter(part))[0].numpy()[:, 0, 0, 0].tolist()

    assert order(1) == order(1) != order(2)


def test_bad_folders_of_images(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"No images found in directory .*empty"):
        po.load_data(tmp_path / "empty", model())
    folder = images(tmp_path / "photos")
    with pytest.raises(ValueError, match=r"has 2 folders of classes; .*tells 3 classes apart"):
        po.load_data(folder, model())
    images(tmp_path / "photos" / "train", 3)
    (folder / "test" / "other").mkdir(parents=True)
    with pytest.raises(ValueError, match="class_names"):
        po.load_data(folder, model(classes=2))
    with pytest.raises(ValueError, match=r"need a model of one input, \[n, height.* 4, 4, 2\)"):
        po.load_data(folder, model(shape=(4, 4, 2)))
    with pytest.raises(ValueError, match=r"need a model of one input.*\(None, 7\)"):
        po.load_data(folder, model(shape=(7,)))
