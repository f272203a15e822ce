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

from prospr_ops.data.datasets import DATASETS
from prospr_ops.network import keras_private
from prospr_ops.network.loss import Loss, Objective

_COLOURS = {1: "grayscale", 3: "rgb", 4: "rgba"}


class Samples(NamedTuple):
    """Samples in the form that `prune`, `model.fit` and `model.evaluate` take.

    Attributes:
        train: Training set: arrays (x, y), or a batched `tf.data.Dataset` of such pairs.
        test: Test set: arrays (x, y), or a batched `tf.data.Dataset` of such pairs; None if there
            is none.
        source: Where the samples came from, in words.
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
    """Reads labelled samples for a model, and checks that they fit the model.

    `source` is one of these:

    * An .npz file (`numpy.savez`) with the arrays x_train and y_train, or x and y, and for a test
      set x_test and y_test. The arrays are returned unchanged. A model with several inputs or
      outputs takes one array for each, with its layer's name appended: x_train_left, x_train_right.
    * A folder of images (.png, .jpg, .bmp, .gif) with one folder per class; or with the folders
      train and test, each with one folder per class. Classes are numbered in the order of their
      names. Images are resized to the model's input and converted to grey or colour; pixels range
      from 0 to 255, so a model that needs another range begins with a `keras.layers.Rescaling`.
      Images are read on use. Labels are class indices, one-hot vectors, or 0 and 1 for a single
      output, whichever the loss takes.
    * "mnist" or "fashion_mnist", see `prospr_ops.data.mnist` and `prospr_ops.data.fashion_mnist`.

    Args:
        source: An .npz file, a folder of images, "mnist" or "fashion_mnist".
        model: A built model; one with several inputs or outputs needs an .npz file.
        loss: Loss that the samples are for: a Keras loss, its name or a function of (y,
            prediction); None for the loss that the model is compiled with.
        batch_size: Images per batch; arrays are not batched.
        seed: Seed for shuffling images.

    Returns:
        The training set, and the test set if there is one.

    Raises:
        OSError: `source` does not exist or cannot be read.
        TypeError: `loss` is not a loss, a name or a function.
        ValueError: The file is damaged, holds other arrays or would execute code; there are no
            images; or the shape, number or labels of the samples do not fit the model.

    Examples:
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> np.savez("data.npz", x=np.zeros((4, 8), np.float32), y=np.array([0, 1, 2, 0]))
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> samples = po.load_data("data.npz", model, loss="sparse_categorical_crossentropy")
        >>> samples.train[0].shape, samples.test
        ((4, 8), None)
    """
    objective = Objective.of(model, loss)
    path = Path(source)
    if str(source) in DATASETS:
        known = DATASETS[str(source)]()
        train, test = (known.x_train, known.y_train), (known.x_test, known.y_test)
        where = known.source
    elif path.is_dir():
        return _read_images(path, objective, batch_size, seed)
    elif path.is_file():
        train, test = _read_arrays(path, model)
        where = str(path)
    else:
        msg = (
            f"there is no {source}: data is an .npz file, a folder of images, or "
            f"{' or '.join(DATASETS)}"
        )
        raise FileNotFoundError(msg)
    for part, arrays in (("training", train), ("test", test)):
        if arrays is not None:
            _check(*arrays, objective, f"the {part} set of {source}")
    return Samples(train, test, where)


def _read_arrays(file: Path, model: keras.Model) -> tuple[Any, Any]:
    """Reads (x, y) to train on, and (x, y) to test on or None."""
    try:
        with file.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            names = getattr(archive, "files", [])
            found = [
                keras.tree.map_structure(lambda name: archive[name], wanted)
                for wanted in (_names(model, "_train"), _names(model, ""))
                if set(keras.tree.flatten(wanted)) <= set(names)
            ]
            if not found:
                wanted = keras.tree.flatten(_names(model, "_train"))
                msg = (
                    f"it has {', '.join(names) or 'one array without a name'}; there must be "
                    f"{' and '.join(wanted)}, or {' and '.join(_without_train(wanted))}"
                )
                raise ValueError(msg)
            wanted = _names(model, "_test")
            if not set(keras.tree.flatten(wanted[0])) & set(names):
                return found[0], None
            return found[0], keras.tree.map_structure(lambda name: archive[name], wanted)
    except (EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        msg = f"{file} is no NumPy archive of samples, or is damaged: {error}"
        raise ValueError(msg) from error


def _without_train(names: list[str]) -> list[str]:
    return [name.replace("_train", "", 1) for name in names]


def _names(model: keras.Model, part: str) -> tuple[Any, Any]:
    """Names of the arrays x and y, in the structures that the model takes and gives."""

    def named(letter: str, structure: Any) -> Any:
        if structure is None or len(keras.tree.flatten(structure)) == 1:
            return f"{letter}{part}"
        return keras.tree.map_structure(
            lambda tensor: f"{letter}{part}_{keras_private.operation_of(tensor).name}", structure
        )

    return (
        named("x", keras_private.input_structure(model)),
        named("y", keras_private.output_structure(model)),
    )


def _check(x: Any, y: Any, objective: Objective, name: str) -> None:
    for letter, structure in (("x", x), ("y", y)):
        for array in keras.tree.flatten(structure):
            if array.dtype.kind not in "biuf" or array.ndim == 0:
                msg = f"{letter} of {name} must be an array of numbers, not {_describe(array)}"
                raise ValueError(msg)
            if not np.isfinite(array).all():
                msg = f"{letter} of {name} holds NaN or infinity"
                raise ValueError(msg)
    lengths = [len(array) for array in keras.tree.flatten((x, y))]
    if len(set(lengths)) > 1 or lengths[0] == 0:
        msg = (
            f"x and y of {name} must be equally long, at least 1: {' and '.join(map(str, lengths))}"
        )
        raise ValueError(msg)
    _check_inputs(x, objective.model, name)
    if len(keras.tree.flatten(y)) == 1:
        _check_targets(x, y, objective, name)


def _check_inputs(x: Any, model: keras.Model, name: str) -> None:
    # No shapes are known of a subclassed model.
    for array, expected in zip(keras.tree.flatten(x), _shapes(model, "inputs"), strict=False):
        if not _fits(array.shape, expected):
            sizes = ", ".join("n" if size is None else str(size) for size in expected)
            msg = f"x of {name} has shape {[*array.shape]}; the model takes [{sizes}]"
            raise ValueError(msg)


def _check_targets(x: Any, y: np.ndarray, objective: Objective, name: str) -> None:
    outputs = objective.prediction(x).shape[1:]
    labels = objective.label_range(outputs[-1])
    if labels is None:
        if not _is_of_keras(objective.model.loss if objective.loss is None else objective.loss):
            return  # what another loss takes is its own affair
        kind, kinds = "numbers", "biuf"
        shapes = [outputs, *([outputs[:-1]] if outputs[-1] == 1 else [])]
    else:
        kind, kinds = "class indices", "biu"
        shapes = [outputs[:-1], (*outputs[:-1], 1)]
    if y.shape[1:] not in shapes or y.dtype.kind not in kinds:
        wanted = " or ".join(str([len(y), *shape]) for shape in shapes)
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


def _is_of_keras(loss: Any) -> bool:
    """Whether a loss, as `compile` takes it, is one of Keras's own."""
    kind = loss if callable(loss) and not isinstance(loss, keras.Loss) else type(loss)
    return isinstance(loss, str) or kind.__module__.startswith("keras.")


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        wanted in (None, size) for size, wanted in zip(shape, expected, strict=True)
    )


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {[*array.shape]}"


def _shapes(model: keras.Model, ends: str) -> list[tuple[int | None, ...]]:
    """The shapes of a model's "inputs" or "outputs"; empty for a subclassed model."""
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
