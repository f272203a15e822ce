from __future__ import annotations

import functools
import gzip
import http.server
import socket
import threading
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

from prospr_ops.data import datasets as data

TRAIN, TEST = 20, 10
NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
KEYS = ("x_train", "y_train", "x_test", "y_test")


def arrays() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    return tuple(
        array
        for count in (TRAIN, TEST)
        for array in (
            rng.integers(0, 256, (count, 28, 28), dtype=np.uint8),
            rng.integers(0, 10, count, dtype=np.uint8),
        )
    )


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim])
    return header + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


def write_idx_folder(folder: Path, *, compressed: bool) -> Path:
    for name, array in zip(NAMES, arrays(), strict=True):
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return folder


def write_npz(folder: Path, **changes) -> Path:
    contents = {**dict(zip(KEYS, arrays(), strict=True)), **changes}
    np.savez(folder / "mnist.npz", **{k: v for k, v in contents.items() if v is not None})
    return folder


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Neither PROSPR_DATA, nor a cache of Keras, nor a network."""
    monkeypatch.delenv("PROSPR_DATA", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(data, "_answers", lambda _: False)
    return tmp_path / "keras"


@pytest.mark.parametrize(
    "write",
    [
        functools.partial(write_idx_folder, compressed=False),
        functools.partial(write_idx_folder, compressed=True),
        write_npz,
    ],
    ids=["idx", "idx.gz", "npz"],
)
def test_folder_of_the_environment(write, tmp_path, monkeypatch):
    monkeypatch.setenv("PROSPR_DATA", str(write(tmp_path)))
    digits = data.mnist()
    x_train, y_train, x_test, y_test = arrays()
    assert (digits.name, digits.classes) == ("MNIST", 10)
    assert str(tmp_path) in digits.source
    assert digits.x_train.shape == (TRAIN, 28, 28, 1)
    assert digits.x_test.shape == (TEST, 28, 28, 1)
    assert digits.x_train.dtype == digits.x_test.dtype == np.float32
    assert digits.y_train.dtype == digits.y_test.dtype == np.int64
    np.testing.assert_allclose(digits.x_train[..., 0] * 78.56749 + 33.318421, x_train, atol=1e-4)
    np.testing.assert_allclose(digits.x_test[..., 0] * 78.56749 + 33.318421, x_test, atol=1e-4)
    np.testing.assert_array_equal(digits.y_train, y_train)
    np.testing.assert_array_equal(digits.y_test, y_test)


def test_argument_goes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PROSPR_DATA", str(tmp_path / "absent"))
    assert len(data.mnist(data._MNIST_SAMPLE).x_train) == 6000


def test_absent_folder_is_no_silent_fallback(tmp_path, monkeypatch):
    monkeypatch.setenv("PROSPR_DATA", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="absent is not a folder"):
        data.mnist()


def test_incomplete_folder_names_what_is_missing(tmp_path):
    write_idx_folder(tmp_path, compressed=True)
    (tmp_path / f"{NAMES[3]}.gz").unlink()
    with pytest.raises(FileNotFoundError, match=f"no {NAMES[3]} "):
        data.mnist(tmp_path)


IMAGES = idx(arrays()[0])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (NAMES[0], b""),
        (NAMES[0], IMAGES[:3]),
        (NAMES[0], IMAGES[:-1]),
        (NAMES[0], IMAGES + b"\0"),
        (NAMES[0], b"GIF89a" + IMAGES[6:]),
        (NAMES[0], b"\0\0\x0d" + IMAGES[3:]),  # announces floats
        (NAMES[0], IMAGES[:4] + b"\xff" * 12 + IMAGES[16:]),  # announces 2^96 pixels
        (NAMES[0], idx(np.zeros((TRAIN, 32, 32), np.uint8))),
        (NAMES[0], idx(np.zeros((0, 28, 28), np.uint8))),
        (NAMES[1], IMAGES),
        (NAMES[1], idx(np.zeros(TRAIN - 1, np.uint8))),
        (NAMES[3], idx(np.full(TEST, 10, np.uint8))),
    ],
)
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gz"])
def test_damaged_idx_is_named(name, content, compressed, tmp_path):
    write_idx_folder(tmp_path, compressed=compressed)
    if compressed:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        data.mnist(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(IMAGES)[:-20]])
def test_damaged_gzip_is_named(content, tmp_path):
    write_idx_folder(tmp_path, compressed=True)
    (tmp_path / f"{NAMES[0]}.gz").write_bytes(content)
    with pytest.raises(ValueError, match=NAMES[0]):
        data.mnist(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"y_test": None},
        {"x_train": np.zeros((TRAIN, 28, 28))},
        {"x_train": np.array(None, dtype=object)},
        {"y_train": np.zeros(TRAIN)},
        {"y_train": np.full(TRAIN, -1)},
    ],
)
def test_foreign_npz_is_named(changes, tmp_path):
    with pytest.raises(ValueError, match=r"mnist\.npz"):
        data.mnist(write_npz(tmp_path, **changes))


def test_damaged_npz_is_named(tmp_path):
    file = write_npz(tmp_path) / "mnist.npz"
    intact = file.read_bytes()
    np.save(tmp_path / "one.npy", np.zeros(3))
    for content in (b"", b"text", intact[:1000], (tmp_path / "one.npy").read_bytes()):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"mnist\.npz"):
            data.mnist(tmp_path)


@pytest.mark.usefixtures("offline")
def test_embedded_sample_says_so():
    with pytest.warns(UserWarning, match="embedded sample of 6,000"):
        digits = data.mnist()
    assert digits.source == "embedded sample of 6,000 + 2,000 digits"
    np.testing.assert_array_equal(np.bincount(digits.y_train), [600] * 10)
    np.testing.assert_array_equal(np.bincount(digits.y_test), [200] * 10)
    # Standardised by the constants of the full set, which a sample meets nearly.
    assert digits.x_train.mean() == pytest.approx(0, abs=0.01)
    assert digits.x_train.std() == pytest.approx(1, abs=0.01)


def test_embedded_sample_is_small():
    files = [file for file in data._MNIST_SAMPLE.parent.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 1_500_000


def test_cache_of_keras(offline, monkeypatch):
    x_train, y_train, x_test, y_test = arrays()
    loaded = (x_train, y_train), (x_test, y_test)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: loaded)
    cache = offline / "datasets" / "mnist.npz"
    cache.parent.mkdir(parents=True)
    cache.touch()
    digits = data.mnist()
    assert digits.source == "Keras's mnist.npz"
    np.testing.assert_array_equal(digits.y_test, y_test)


@pytest.mark.usefixtures("offline")
def test_failed_download_falls_back(monkeypatch):
    def fail():
        message = "URL fetch failure"
        raise Exception(message)  # noqa: TRY002 - what Keras raises

    monkeypatch.setattr(data, "_answers", lambda _: True)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    with pytest.warns(UserWarning, match="could not download"):
        digits = data.mnist()
    assert digits.source.startswith("embedded sample")
    assert socket.getdefaulttimeout() is None


def test_server_answers():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert data._answers(f"http://127.0.0.1:{server.server_port}/")
        thread.join()


def test_server_is_absent_or_silent(monkeypatch):
    monkeypatch.setattr(data, "_NETWORK_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert not data._answers(url)
    assert not data._answers(url)


def like(mean: float) -> tuple[np.ndarray, ...]:
    """Arrays whose pixels have a mean."""
    x_train, y_train, x_test, y_test = arrays()
    scale = mean / x_train.mean()
    return (x_train * scale).astype(np.uint8), y_train, (x_test * scale).astype(np.uint8), y_test


def write_like(folder: Path, mean: float) -> Path:
    folder.mkdir(exist_ok=True)
    for name, array in zip(NAMES, like(mean), strict=True):
        (folder / name).write_bytes(idx(array))
    return folder


def test_fashion_beside_digits(tmp_path, monkeypatch):
    monkeypatch.setenv("PROSPR_DATA", str(write_like(tmp_path, 33.3)))
    write_like(tmp_path / "fashion-mnist", 72.9)
    clothes, digits = data.fashion_mnist(), data.mnist()
    assert (clothes.name, digits.name) == ("Fashion-MNIST", "MNIST")
    assert clothes.source.endswith("fashion-mnist")
    np.testing.assert_allclose(
        clothes.x_train[..., 0] * 90.02118 + 72.94035, like(72.9)[0], atol=1e-4
    )


def test_fashion_alone_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PROSPR_DATA", str(write_like(tmp_path, 72.9)))
    assert data.fashion_mnist().source == f"files in {tmp_path}"
    with pytest.raises(ValueError, match="holds Fashion-MNIST and not MNIST"):
        data.mnist()


def test_digits_are_not_taken_for_fashion(tmp_path, offline, monkeypatch):
    del offline
    monkeypatch.setattr(data, "_DEBIAN_FASHION", tmp_path / "absent")
    monkeypatch.setenv("PROSPR_DATA", str(write_like(tmp_path, 33.3)))
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        data.fashion_mnist()
    with pytest.raises(ValueError, match="holds MNIST and not Fashion-MNIST"):
        data.fashion_mnist(tmp_path)
    with pytest.raises(ValueError, match="holds MNIST and not Fashion-MNIST"):
        data.fashion_mnist(data._MNIST_SAMPLE)


@pytest.mark.usefixtures("offline")
def test_fashion_of_debian(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_DEBIAN_FASHION", write_like(tmp_path / "debian", 72.9))
    assert data.fashion_mnist().source == f"files in {tmp_path / 'debian'}"


def test_fashion_in_the_cache_of_keras(offline, monkeypatch):
    x_train, y_train, x_test, y_test = like(72.9)
    monkeypatch.setattr(
        keras.datasets.fashion_mnist, "load_data", lambda: ((x_train, y_train), (x_test, y_test))
    )
    cache = offline / "datasets" / "fashion-mnist" / NAMES[0]
    cache.parent.mkdir(parents=True)
    cache.with_suffix(".gz").touch()
    assert data.fashion_mnist().source == "Keras's copy of Fashion-MNIST"


def test_full_sets_have_the_constants_of_their_names():
    """Where they are at hand: the mean and deviation that standardise, of all training pixels."""
    found = 0
    for load in data.DATASETS.values():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                full = load()
        except FileNotFoundError:
            continue
        if len(full.x_train) == 60_000:
            assert abs(full.x_train.mean(dtype=np.float64)) < 1e-5
            assert abs(full.x_train.std(dtype=np.float64) - 1) < 1e-5
            found += 1
    if not found:
        pytest.skip("no full data set is at hand")
