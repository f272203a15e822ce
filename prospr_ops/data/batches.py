"""Batches from any data that Keras models are trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from prospr_ops.network import keras_private
from prospr_ops.network.loss import Batch, LabelRange, Objective


def endless_batches(data: Any, batch_size: int, seed: int) -> Iterator[Batch]:
    """Yields batches of tensors, starting over at the end of the data.

    Args:
        data: A tuple (x, y) or (x, y, sample_weight) of arrays (or of structures of arrays), or an
            array or a dictionary of arrays, x alone, which are shuffled anew every time round; or a
            batched `tf.data.Dataset`, a `keras.utils.PyDataset`, or any iterable of such tuples,
            which is taken as it comes. A generator is taken once. Not one that tf.distribute has
            distributed.
        batch_size: Samples per batch, for arrays. The last, smaller batch of a round is dropped,
            unless there is no other.
        seed: Seed for shuffling.

    Yields:
        Batches, with samples along the first axis.

    Raises:
        TypeError: `data` is none of the above.
        ValueError: `data` is empty, its arrays differ in length, or it is a generator that has
            ended.
    """
    if data is None:
        msg = "no data is given, and the method looks at data"
        raise TypeError(msg)
    if isinstance(data, np.ndarray | tf.Tensor | Mapping):
        data = (data,)
    if isinstance(data, tuple):
        source: Iterable[Any] = _ArrayBatches(data, batch_size, seed)
    elif isinstance(data, tf.distribute.DistributedDataset) or not isinstance(
        data, Iterable | tf.data.Dataset
    ):
        msg = (
            "data must be a tuple (x, y) of arrays, a batched tf.data.Dataset, a PyDataset or an "
            f"iterable of (x, y) batches, not {type(data).__name__}"
        )
        raise TypeError(msg)
    else:
        source = data
    drawn = 0
    while True:
        before = drawn
        for item in source:
            drawn += 1
            yield Batch(*keras.utils.unpack_x_y_sample_weight(item)).map(_tensor)
        if drawn == 0:
            msg = "data is empty: it has no batch"
            raise ValueError(msg)
        if drawn == before:
            msg = (
                f"data is a {type(data).__name__} that ended after {drawn} batches, and more are "
                "needed; give one that goes on, or data that can be iterated over again"
            )
            raise ValueError(msg)
        if isinstance(source, keras.utils.PyDataset):
            source.on_epoch_end()


def _tensor(array: Any) -> Any:
    """An array as a tensor; a sparse tensor as it is.

    Raises:
        TypeError: It is ragged.
    """
    if isinstance(array, tf.SparseTensor):
        return array
    if isinstance(array, tf.RaggedTensor):
        msg = (
            "data holds a RaggedTensor, of which a Keras model cannot compute; pad it (to_tensor()) "
            "and mask the padding, or make it sparse (to_sparse())"
        )
        raise TypeError(msg)
    return tf.convert_to_tensor(array)


class _ArrayBatches:
    """A re-iterable of batches from arrays, in a new order in every round."""

    def __init__(self, arrays: tuple[Any, ...], batch_size: int, seed: int) -> None:
        if len(arrays) not in (1, 2, 3):
            msg = (
                f"data must be a tuple (x, y) or (x, y, sample_weight), not of {len(arrays)} items"
            )
            raise ValueError(msg)
        self.arrays = keras.tree.map_structure(_rows, arrays, none_is_leaf=False)
        leaves = [array for array in keras.tree.flatten(self.arrays) if array is not None]
        shapes = [array.shape for array in leaves]
        lengths = {shape[0] if shape else 0 for shape in shapes}
        if len(lengths) != 1 or lengths == {0}:
            msg = f"data must be arrays of one length, at least 1; their shapes are {shapes}"
            raise ValueError(msg)
        self.size = lengths.pop()
        self.batch_size = min(batch_size, self.size)
        self.random = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        order = self.random.permutation(self.size)
        for start in range(0, self.size - self.batch_size + 1, self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield keras.tree.map_structure(
                lambda array, rows=chosen: array[rows], self.arrays, none_is_leaf=False
            )


def _rows(array: Any) -> Any:
    """An array of which rows can be taken.

    Raises:
        TypeError: It is sparse or ragged.
    """
    if isinstance(array, tf.SparseTensor | tf.RaggedTensor) or hasattr(array, "tocsr"):  # SciPy's
        msg = (
            f"data holds a {type(array).__name__}, of which rows cannot be shuffled; give batches "
            "of it, as tf.data.Dataset.from_tensor_slices(...).batch(...) makes them of a tf.sparse"
            ".SparseTensor"
        )
        raise TypeError(msg)
    return np.asarray(array)


def check_batch(batch: Batch, number: int, labels: Mapping[int, LabelRange]) -> None:
    """Refuses a batch that no loss can be computed on.

    Args:
        batch: The batch.
        number: Its number, from 0, for the message.
        labels: The accepted class indices of targets that are such, as `Objective.build` gives
            them.

    Raises:
        ValueError: Inputs or targets hold NaN or infinity, or a label is out of range.
    """
    for name, structure in (("x", batch.x), ("y", batch.y)):
        for tensor in keras.tree.flatten(structure):
            values = tensor.values if isinstance(tensor, tf.SparseTensor) else tensor
            if not hasattr(values, "dtype") or not values.dtype.is_floating:
                continue
            if not bool(tf.reduce_all(tf.math.is_finite(values))):
                msg = f"{name} of batch {number} holds NaN or infinity"
                raise ValueError(msg)
    targets = keras.tree.flatten(batch.y)
    for target, accepted in labels.items():
        found = targets[target].numpy()
        if accepted.ignored is not None:
            found = found[found != accepted.ignored]
        if found.size and not (found.min() >= 0 and found.max() < accepted.classes):
            which = "" if len(targets) == 1 else f" for output {target}"
            msg = (
                f"labels of batch {number}{which} range from {found.min()} to {found.max()}; the "
                f"model has {accepted.classes} outputs, so they must be from 0 to "
                f"{accepted.classes - 1}"
            )
            raise ValueError(msg)


def check_structure(batch: Batch, number: int, objective: Objective) -> None:
    """Refuses a batch without targets that the loss takes, or whose inputs the model does not take.

    Args:
        batch: The batch; its values may be unknown.
        number: Its number, from 0, for the message.
        objective: The model and its loss.

    Raises:
        ValueError: There are no targets, or a functional or Sequential model takes another shape; a
            fixed batch size is named.
    """
    if batch.y is None and objective.needs_targets:
        msg = "data has no targets: its batches must be tuples (x, y)"
        raise ValueError(msg)
    model = objective.model
    expected = keras.tree.flatten(keras_private.input_structure(model))
    given = keras.tree.flatten(batch.x)
    if len(given) != len(expected):
        return
    for array, wanted in zip(given, expected, strict=True):
        shape = tuple(array.shape)
        if wanted is None or array is None or len(shape) != len(wanted.shape):
            continue  # Keras brings some ranks in line
        if any(size not in (None, own) for own, size in zip(shape, wanted.shape, strict=True)):
            fixed = wanted.shape[0]
            msg = (
                f"x of batch {number} has shape {shape}; model {model.name!r} takes {wanted.shape}"
                + (f", so batch_size must be {fixed}" if fixed not in (None, shape[0]) else "")
            )
            raise ValueError(msg)


def checked(batches: Iterable[Batch], objective: Objective) -> Iterator[Batch]:
    """Yields the batches, each checked before it is handed out (see `check_batch`).

    Raises:
        ValueError: A batch is wrong, does not fit the model, or lacks targets that the loss takes.
    """
    labels: dict[int, LabelRange] = {}
    for number, batch in enumerate(batches):
        check_structure(batch, number, objective)
        if number == 0:
            labels = objective.build(batch)
        check_batch(batch, number, labels)
        if number == 0:
            objective.set_scale(batch)
        yield batch
