"""Data sets as NumPy arrays: from a folder, from Keras, or from the sample in this package."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import math
import os
import socket
import threading
import urllib.request
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

_MNIST_SAMPLE = Path(__file__).parent / "digits"
_DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
_NETWORK_SECONDS = 3.0


@dataclass(frozen=True)
class _Facts:
    """What tells a data set of 28 x 28 pixels from another.

    `mean` and `std` are those of all pixels (0 to 255) of its 60,000 training images. They are used
    for every source, so that a sample and the full set are scaled alike.
    """

    name: str
    mean: float
    std: float
    archive: str  # name of a file with Keras's keys
    cached: str  # what Keras keeps in its cache, a file or the first of several
    url: str
    of_keras: str  # module of keras.datasets


_MNIST = _Facts(
    name="MNIST",
    mean=33.318421449829934,
    std=78.56748998339798,
    archive="mnist.npz",
    cached="mnist.npz",
    url="https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
    of_keras="mnist",
)
_FASHION = _Facts(
    name="Fashion-MNIST",
    mean=72.94035223214286,
    std=90.02118235130526,
    archive="fashion_mnist.npz",
    cached="fashion-mnist/train-images-idx3-ubyte.gz",
    url="https://storage.googleapis.com/tensorflow/tf-keras-datasets/train-images-idx3-ubyte.gz",
    of_keras="fashion_mnist",
)

# How far the mean of a set may lie from that of the full set for the two to be told apart: a sample
# of a few thousand images is off by less than 1, and the two data sets differ by 40.
_MEAN_TOLERANCE = 3.0

# Training images and labels, test images and labels: uint8 [n, 28, 28] and integers [n].
_Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Dataset:
    """A labelled training set and test set.

    Attributes:
        x_train: Training inputs, float32 `[n, ...]`, standardised.
        y_train: Training labels, int64 `[n]`, in `[0, classes)`.
        x_test: Test inputs, float32 `[m, ...]`, standardised by the constants of the training set.
        y_test: Test labels, int64 `[m]`, in `[0, classes)`.
        name: Name of the data set, for example `"MNIST"`.
        classes: Number of classes.
        source: Where the arrays came from, in words.

    Examples:
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> x, y = np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1])
        >>> data = po.data.Dataset(x, y, x, y, name="zeros", classes=2, source="memory")
        >>> data.classes
        2
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    name: str
    classes: int
    source: str


def mnist(folder: str | os.PathLike[str] | None = None) -> Dataset:
    """Loads MNIST: handwritten digits, 28 x 28 grey pixels, 10 classes.

    The first of these sources that exists is used:

    1. `folder`, or the folder in the environment variable `PROSPR_DATA`. It holds the four IDX
       files under their usual names, plain or `.gz`, or `mnist.npz` with Keras's keys.
    2. Keras's copy, from its cache or by download.
    3. A sample of 6,000 training and 2,000 test digits in this package, with a warning.

    Images are standardised by the mean and standard deviation of the full training set.

    Args:
        folder: Folder to read; None for the folder in `PROSPR_DATA`, if that is set.

    Returns:
        The digits, with `x_train` and `x_test` of shape `[n, 28, 28, 1]`. `source` names the
        source.

    Raises:
        FileNotFoundError: `folder` or `PROSPR_DATA` is given and does not hold MNIST.
        ValueError: A file there is damaged or is not what its name says; the message names the
            file.

    Examples:
        >>> from pathlib import Path
        >>> import prospr_ops as po
        >>> data = po.data.mnist(Path(po.data.__file__).parent / "digits")  # the embedded sample
        >>> data.x_train.shape, data.x_test.shape
        ((6000, 28, 28, 1), (2000, 28, 28, 1))
    """
    folder = folder or os.environ.get("PROSPR_DATA")
    if folder:
        arrays = _read_folder(Path(folder), _MNIST)
        source = f"files in {folder}"
    elif (copy := _copy_of_keras(_MNIST)) is not None:
        arrays = copy
        source = "Keras's mnist.npz"
    else:
        arrays = _read_folder(_MNIST_SAMPLE, _MNIST)
        source = f"embedded sample of {len(arrays[1]):,} + {len(arrays[3]):,} digits"
        warnings.warn(
            f"MNIST is the {source}: PROSPR_DATA is not set, and Keras has no copy and could not"
            " download one. Accuracies are lower than with all 70,000 digits.",
            stacklevel=2,
        )
    return _dataset(_MNIST, arrays, source)


def fashion_mnist(folder: str | os.PathLike[str] | None = None) -> Dataset:
    """Loads Fashion-MNIST: articles of clothing, 28 x 28 grey pixels, 10 classes.

    The data set of Xiao, Rasul and Vollgraf (arXiv 1708.07747). The first of these sources that
    exists is used:

    1. `folder`: the four IDX files under their usual names, plain or `.gz`, or
       `fashion_mnist.npz` with Keras's keys.
    2. The folder `fashion-mnist` in the folder of the environment variable `PROSPR_DATA`, or that
       folder itself unless it holds MNIST, whose files have the same names.
    3. Keras's copy, from its cache or by download.
    4. /usr/share/datasets/fashion-mnist, of Debian's package `dataset-fashion-mnist`.

    Images are standardised by the mean and standard deviation of the full training set.

    Args:
        folder: Folder to read; None for the other sources.

    Returns:
        The images, with `x_train` and `x_test` of shape `[n, 28, 28, 1]`. `source` names the
        source.

    Raises:
        FileNotFoundError: There is no source, or `folder` does not hold the files.
        ValueError: A file is damaged or is not what its name says, or `folder` holds MNIST.

    Examples:
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> images, labels = np.full((10, 28, 28), 73, np.uint8), np.arange(10)
        >>> np.savez("fashion_mnist.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
        >>> data = po.data.fashion_mnist(".")
        >>> data.name, data.x_train.shape
        ('Fashion-MNIST', (10, 28, 28, 1))
    """
    if folder:
        return _dataset(_FASHION, _read_folder(Path(folder), _FASHION), f"files in {folder}")
    given = os.environ.get("PROSPR_DATA")
    inside = Path(given, "fashion-mnist") if given else None
    if inside is not None and inside.is_dir():
        return _dataset(_FASHION, _read_folder(inside, _FASHION), f"files in {inside}")
    if given and _holds(Path(given), _FASHION):
        return _dataset(_FASHION, _read_folder(Path(given), _FASHION), f"files in {given}")
    if (copy := _copy_of_keras(_FASHION)) is not None:
        return _dataset(_FASHION, copy, "Keras's copy of Fashion-MNIST")
    if _DEBIAN_FASHION.is_dir():
        arrays = _read_folder(_DEBIAN_FASHION, _FASHION)
        return _dataset(_FASHION, arrays, f"files in {_DEBIAN_FASHION}")
    msg = (
        f"there is no Fashion-MNIST: not in PROSPR_DATA ({given or 'not set'}) nor in its folder "
        f"fashion-mnist, not in Keras's cache nor by its download, and not in {_DEBIAN_FASHION} "
        "(Debian's package dataset-fashion-mnist)"
    )
    raise FileNotFoundError(msg)


def _dataset(facts: _Facts, arrays: _Arrays, source: str) -> Dataset:
    x_train, y_train, x_test, y_test = arrays
    return Dataset(
        x_train=_standardise(x_train, facts),
        y_train=y_train.astype(np.int64),
        x_test=_standardise(x_test, facts),
        y_test=y_test.astype(np.int64),
        name=facts.name,
        classes=10,
        source=source,
    )


def _standardise(images: np.ndarray, facts: _Facts) -> np.ndarray:
    x = images[..., np.newaxis].astype(np.float32)
    x -= np.float32(facts.mean)
    x /= np.float32(facts.std)
    return x


def _holds(folder: Path, facts: _Facts) -> bool:
    """Whether a folder holds a data set, and not another one under the same names."""
    try:
        _read_folder(folder, facts)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _read_folder(folder: Path, facts: _Facts) -> _Arrays:
    """Reads a folder's IDX files or its archive, and checks what they hold."""
    if not folder.is_dir():
        msg = f"{folder} is not a folder; expected one that holds {facts.name} (see PROSPR_DATA)"
        raise FileNotFoundError(msg)
    archive = folder / facts.archive
    names = [
        f"{part}-{kind}-ubyte"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    found = [
        next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), archive)
        for name in names
    ]
    if archive not in found:
        x_train, y_train, x_test, y_test = (
            _read_idx(file, rank=rank) for file, rank in zip(found, (3, 1, 3, 1), strict=True)
        )
    elif archive.is_file():
        found = [archive] * 4
        x_train, y_train, x_test, y_test = _read_npz(archive)
    else:
        missing = ", ".join(n for n, file in zip(names, found, strict=True) if file == archive)
        msg = f"{folder} does not hold {facts.name}: no {missing} (plain or .gz) and no {archive.name}"
        raise FileNotFoundError(msg)
    _check_images(x_train, found[0])
    _check_labels(y_train, found[1], count=len(x_train))
    _check_images(x_test, found[2])
    _check_labels(y_test, found[3], count=len(x_test))
    other = _FASHION if facts is _MNIST else _MNIST
    if abs(x_train.mean() - other.mean) < _MEAN_TOLERANCE:
        msg = f"{found[0]} holds {other.name} and not {facts.name}, by the mean of its pixels"
        raise ValueError(msg)
    return x_train, y_train, x_test, y_test


def _read_idx(file: Path, *, rank: int) -> np.ndarray:
    """Reads an IDX file, plain or gzip, of unsigned bytes in `rank` dimensions."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            content = stream.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        msg = f"{file} is damaged: {error}"
        raise ValueError(msg) from error
    header = 4 + 4 * rank
    magic = bytes([0, 0, 8, rank])
    if len(content) < header or content[:4] != magic:
        msg = f"{file} is not an IDX file of {rank}-dimensional bytes: starts {content[:4]!r}"
        raise ValueError(msg)
    shape = np.frombuffer(content, dtype=">u4", count=rank, offset=4).tolist()
    if len(content) - header != math.prod(shape):
        msg = f"{file} announces {shape} bytes and has {len(content) - header:,}"
        raise ValueError(msg)
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _read_npz(file: Path) -> _Arrays:
    """Reads an archive with the keys of `keras.datasets.mnist`."""
    try:
        with file.open("rb") as stream:
            arrays = np.load(stream, allow_pickle=False)
            return arrays["x_train"], arrays["y_train"], arrays["x_test"], arrays["y_test"]
    except KeyError as error:
        msg = f"{file} lacks an array that the data set needs: {error.args[0]}"
        raise ValueError(msg) from error
    # A file with a single array instead of an archive raises IndexError here.
    except (EOFError, IndexError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        msg = f"{file} is not a NumPy archive, or is damaged: {error}"
        raise ValueError(msg) from error


def _check_images(images: np.ndarray, file: Path) -> None:
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28) or len(images) == 0:
        msg = f"{file}: images are {images.dtype} {[*images.shape]}, expected uint8 [n, 28, 28]"
        raise ValueError(msg)


def _check_labels(labels: np.ndarray, file: Path, *, count: int) -> None:
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        msg = (
            f"{file}: labels are {labels.dtype} {[*labels.shape]}, expected integers [{count}],"
            " one for each image"
        )
        raise ValueError(msg)
    if labels.min() < 0 or labels.max() > 9:
        msg = f"{file}: labels range from {labels.min()} to {labels.max()}, expected 0 to 9"
        raise ValueError(msg)


def _copy_of_keras(facts: _Facts) -> _Arrays | None:
    """A data set from Keras's cache or by download; None within seconds if there is neither."""
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    if not (home / "datasets" / facts.cached).is_file() and not _answers(facts.url):
        return None
    try:
        with _socket_timeout(_NETWORK_SECONDS):
            train, test = getattr(keras.datasets, facts.of_keras).load_data()
    except Exception:  # noqa: BLE001 - Keras raises a bare Exception when a download fails
        return None
    return *train, *test


def _answers(url: str) -> bool:
    """Whether a server answers for `url` within `_NETWORK_SECONDS`."""
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            urllib.request.urlopen(request, timeout=_NETWORK_SECONDS),
        ):
            answered.set()

    # In a thread, because no timeout covers the lookup of the server's name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_NETWORK_SECONDS)
    return answered.is_set()


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# The data sets by name, as the shell takes them.
DATASETS = {"mnist": mnist, "fashion_mnist": fashion_mnist}
