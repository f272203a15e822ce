"""Batches from any data that Keras models are trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from prospr_ops.network.loss import Batch, Objective
from prospr_ops.network.restore import preserved


def endless_batches(data: Any, batch_size: int, seed: int) -> Iterator[Batch]:
    """Yields batches of tensors, starting over at the end of the data.

    Args:
        data: Training data: a tuple (x, y) or (x, y, sample_weight) of arrays (or of structures of
            arrays), which is shuffled anew in every round; or a batched `tf.data.Dataset` or any
            re-iterable of such tuples, used in its own order. A dataset distributed by
            tf.distribute is refused.
        batch_size: Samples per batch, where `data` is a tuple of arrays. The last, smaller batch of
            a round is dropped unless it is the only one.
        seed: Seed for shuffling.

    Yields:
        Batches, with samples along the first axis.

    Raises:
        TypeError: `data` is none of these types.
        ValueError: `data` is empty, or its arrays differ in length.
    """
    if data is None:
        msg = "no data is given, and the method looks at data"
        raise TypeError(msg)
    if isinstance(data, tuple):
        source: Iterable[Any] = _ArrayBatches(data, batch_size, seed)
    elif isinstance(data, Iterator | tf.distribute.DistributedDataset) or not isinstance(
        data, Iterable | tf.data.Dataset
    ):
        msg = (
            "data must be a tuple (x, y) of arrays, a batched tf.data.Dataset or a re-iterable of "
            f"(x, y) batches, not {type(data).__name__}"
        )
        raise TypeError(msg)
    else:
        source = data
    while True:
        batch = None
        for item in source:
            batch = Batch(*keras.utils.unpack_x_y_sample_weight(item))
            if batch.y is None:
                msg = "data has no targets: its batches must be tuples (x, y)"
                raise ValueError(msg)
            yield batch.map(tf.convert_to_tensor)
        if batch is None:
            msg = "data is empty: it has no batch"
            raise ValueError(msg)


class _ArrayBatches:
    """A re-iterable of batches from arrays, in a new order in every round."""

    def __init__(self, arrays: tuple[Any, ...], batch_size: int, seed: int) -> None:
        if len(arrays) not in (2, 3):
            msg = (
                f"data must be a tuple (x, y) or (x, y, sample_weight), not of {len(arrays)} items"
            )
            raise ValueError(msg)
        self.arrays = keras.tree.map_structure(np.asarray, arrays)
        shapes = [array.shape for array in keras.tree.flatten(self.arrays)]
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
            yield keras.tree.map_structure(lambda array, rows=chosen: array[rows], self.arrays)


class LabelRange(NamedTuple):
    """The accepted class indices: 0 to `classes` − 1, and `ignored` if it is not None."""

    classes: int
    ignored: int | None


def label_range(objective: Objective, batch: Batch) -> LabelRange | None:
    """The accepted labels if the targets are class indices; else None."""
    loss = objective.sparse_labels()
    if loss is None:
        return None
    prediction = objective.model(batch.map(lambda tensor: tensor[:1]).x, training=False)
    return LabelRange(prediction.shape[-1], getattr(loss, "ignore_class", None))


def check_batch(batch: Batch, number: int, labels: LabelRange | None) -> None:
    """Refuses a batch on which the loss cannot be computed.

    Args:
        batch: Batch to check.
        number: Number of the batch, from 0, for the message.
        labels: The accepted class indices; None if the targets are not class indices.

    Raises:
        ValueError: Inputs or targets hold NaN or infinity, or a label is out of range.
    """
    for name, structure in (("x", batch.x), ("y", batch.y)):
        for tensor in keras.tree.flatten(structure):
            if tensor.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(tensor))):
                msg = f"{name} of batch {number} holds NaN or infinity"
                raise ValueError(msg)
    if labels is None:
        return
    found = batch.y.numpy()
    if labels.ignored is not None:
        found = found[found != labels.ignored]
    if found.size and not (found.min() >= 0 and found.max() < labels.classes):
        msg = (
            f"labels of batch {number} range from {found.min()} to {found.max()}; the model has "
            f"{labels.classes} outputs, so they must be from 0 to {labels.classes - 1}"
        )
        raise ValueError(msg)


def checked(batches: Iterable[Batch], objective: Objective) -> Iterator[Batch]:
    """Yields the batches, each checked by `check_batch` first."""
    labels = None
    for number, batch in enumerate(batches):
        if number == 0:
            labels = label_range(objective, batch)
        check_batch(batch, number, labels)
        if number == 0:
            with preserved(objective.model):
                # Keras builds parts of a compiled loss on first use, which a tf.function forbids.
                objective(batch.map(lambda tensor: tensor[:1]))
        yield batch
