"""Labelled samples to prune, train and test on: NumPy archives, folders of images, MNIST."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from prospr_ops.data.datasets import mnist
from prospr_ops.network.loss import Loss, Objective

_COLOURS = {1: "grayscale", 3: "rgb", 4: "rgba"}


class Samples(NamedTuple):
    """Samples in the form that `prune`, `model.fit` and `model.evaluate` take.

    Attributes:
        train: Arrays (x, y), or a batched `tf.data.Dataset` of such.
        test: The same to test on; None if there is no test set.
        source: Where they came from, in words.
    """

    train: tuple[np.ndarray, np.ndarray] | tf.data.Dataset
    test: tuple[np.ndarray, np.ndarray] | tf.data.Dataset | None
    source: str


def load_data(
    source: str | os.PathLike[str],
    model: keras.Model,
    *,
    loss: Loss | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> Samples:
    """Reads labelled samples for a model, and checks that they fit it.

    `source` is one of these:

    * An .npz file (`numpy.savez`) of the arrays x_train and y_train, or x and y, and, for a test set,
      x_test and y_test. They are given to the model as they are.
    * A folder of images (.png, .jpg, .bmp, .gif) with a folder for each class; or with folders train
      and test, each with a folder for each class. The classes are numbered by their names' order.
      Images are resized to what the model takes, and converted to grey or colour; pixels are from 0
      to 255, so a model that wants others begins with a `keras.layers.Rescaling`. They are read
      while they are used. Their labels are class indices, one-hot vectors, or 0 and 1 for a single
      output, as the loss wants them.
    * "mnist", see `prospr_ops.data.mnist`.

    Args:
        source: A file, a folder or "mnist".
        model: A built model with one input and one output.
        loss: That the samples are for; None for the one the model is compiled with.
        batch_size: Images a batch; arrays are not batched.
        seed: Of the order of images.

    Returns:
        The training set, and the test set if there is one.

    Raises:
        OSError: `source` does not exist or cannot be read.
        TypeError: `loss` is not a loss, a name or a function.
        ValueError: The file is damaged, holds other arrays or would execute code; there are no
            images; or the samples do not fit the model: their shape, their number, their labels.
    """
    objective = Objective.of(model, loss)
    path = Path(source)
    if str(source) == "mnist":
        digits = mnist()
        train, test = (digits.x_train, digits.y_train), (digits.x_test, digits.y_test)
        where = digits.source
    elif path.is_dir():
        return _read_images(path, objective, batch_size, seed)
    elif path.is_file():
        train, test = _read_arrays(path)
        where = str(path)
    else:
        msg = f"there is no {source}: data is an .npz file, a folder of images, or mnist"
        raise FileNotFoundError(msg)
    for part, arrays in (("training", train), ("test", test)):
        if arrays is not None:
            _check(*arrays, objective, f"the {part} set of {source}")
    return Samples(train, test, where)


def _read_arrays(file: Path) -> tuple[Any, Any]:
    """Reads (x, y) to train on, and to test on or None."""
    try:
        with file.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            names = getattr(archive, "files", [])
            wanted = ("x", "y") if "x" in names else ("x_train", "y_train")
            missing = [name for name in wanted if name not in names]
            if missing:
                msg = f"it has no {missing[0]}; there must be x_train and y_train, or x and y"
                raise ValueError(msg)
            train = archive[wanted[0]], archive[wanted[1]]
            if "x_test" not in names:
                return train, None
            return train, (archive["x_test"], archive["y_test"])
    except (EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        msg = f"{file} is no NumPy archive of samples, or is damaged: {error}"
        raise ValueError(msg) from error


def _check(x: np.ndarray, y: np.ndarray, objective: Objective, name: str) -> None:
    for letter, array in (("x", x), ("y", y)):
        if array.dtype.kind not in "biuf" or array.ndim == 0:
            msg = f"{letter} of {name} must be an array of numbers, not {_describe(array)}"
            raise ValueError(msg)
        if not np.isfinite(array).all():
            msg = f"{letter} of {name} holds NaN or infinity"
            raise ValueError(msg)
    if len(x) != len(y) or len(x) == 0:
        msg = f"x and y of {name} must be equally long, at least 1: {len(x)} and {len(y)}"
        raise ValueError(msg)
    _check_inputs(x, objective.model, name)
    _check_targets(x, y, objective, name)


def _check_inputs(x: np.ndarray, model: keras.Model, name: str) -> None:
    inputs = _shapes(model, "inputs")
    if len(inputs) > 1 or len(_shapes(model, "outputs")) > 1:
        msg = f"load_data is for models with one input and one output; {model.name!r} has more"
        raise ValueError(msg)
    if inputs and not _fits(x.shape, inputs[0]):
        sizes = ", ".join("n" if size is None else str(size) for size in inputs[0])
        msg = f"x of {name} has shape {[*x.shape]}; the model takes [{sizes}]"
        raise ValueError(msg)


def _check_targets(x: np.ndarray, y: np.ndarray, objective: Objective, name: str) -> None:
    outputs = objective.prediction(x).shape[1:]
    labels = objective.label_range(outputs[-1])
    if labels is None:
        kind, kinds = "numbers", "biuf"
        shapes = [outputs, *([outputs[:-1]] if outputs[-1] == 1 else [])]
    else:
        kind, kinds = "class indices", "biu"
        shapes = [outputs[:-1], (*outputs[:-1], 1)]
    if y.shape[1:] not in shapes or y.dtype.kind not in kinds:
        wanted = " or ".join(str([len(x), *shape]) for shape in shapes)
        msg = f"y of {name} is {_describe(y)}; the model's loss takes {kind} of shape {wanted}"
        raise ValueError(msg)
    if labels is None:
        return
    found = y if labels.ignored is None else y[y != labels.ignored]
    if found.size and not 0 <= found.min() <= found.max() < labels.classes:
        msg = (
            f"the labels of {name} range from {found.min()} to {found.max()}; the model has "
            f"{labels.classes} outputs, so they must be from 0 to {labels.classes - 1}"
        )
        raise ValueError(msg)


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        wanted in (None, size) for size, wanted in zip(shape, expected, strict=True)
    )


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {[*array.shape]}"


def _shapes(model: keras.Model, ends: str) -> list[tuple[int | None, ...]]:
    """The shapes of a model's "inputs" or "outputs"; none of a subclassed model."""
    return [tensor.shape for tensor in getattr(model, ends, None) or []]


def _read_images(folder: Path, objective: Objective, batch_size: int, seed: int) -> Samples:
    model = objective.model
    match _shapes(model, "inputs"):
        case [(_, int(height), int(width), channels)] if channels in _COLOURS:
            pass
        case shapes:
            msg = (
                f"the images in {folder} need a model of one input, [n, height, width, channels] "
                f"with 1, 3 or 4 channels; the inputs of {model.name!r} are {shapes}"
            )
            raise ValueError(msg)
    classes = model.outputs[0].shape[-1]
    if objective.label_range(classes) is not None:
        label_mode = "int"
    else:
        label_mode = "binary" if classes == 1 else "categorical"
    options = {
        "label_mode": label_mode,
        "color_mode": _COLOURS[channels],
        "image_size": (height, width),
        "batch_size": batch_size,
        "verbose": False,
    }
    read = keras.utils.image_dataset_from_directory
    parts = folder / "train", folder / "test"
    train = read(parts[0] if parts[0].is_dir() else folder, seed=seed, **options)
    found = train.class_names
    if label_mode != "binary" and len(found) != classes:
        msg = (
            f"{folder} has {len(found)} folders of classes; model {model.name!r} tells {classes} "
            "classes apart"
        )
        raise ValueError(msg)
    test = None
    if all(part.is_dir() for part in parts):
        test = read(parts[1], class_names=found, shuffle=False, **options)
    return Samples(train, test, f"{len(train.file_paths):,} images in {folder}")
