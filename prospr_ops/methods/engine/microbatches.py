"""Batches in parts, for losses whose mean over the parts is the whole batch's loss."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator

import keras
import tensorflow as tf

from prospr_ops.curvature.validity import Validity, judge
from prospr_ops.network import keras_private
from prospr_ops.network.loss import Batch, Objective

# Keras's names for a loss that is the mean over the samples.
_MEANS = ("sum_over_batch_size", "mean")


def split(batch: Batch, size: int | None) -> Iterator[tuple[Batch, float]]:
    """Yields parts of at most `size` samples, each with its fraction of the batch's samples."""
    samples = int(keras.tree.flatten(batch.x)[0].shape[0])
    size = samples if size is None else size
    for start in range(0, samples, size):
        part = batch.map(operator.itemgetter(slice(start, start + size)))
        yield part, min(size, samples - start) / samples


def splittable(batches: Iterable[Batch], objective: Objective) -> Iterator[Batch]:
    """Yields the batches, if their loss is the mean of their parts' losses, weighted by size.

    This is checked on the settings of the loss and on the traced graph of the model, before the
    first batch is yielded; an unknown operation counts as one that mixes samples.

    Raises:
        ValueError: The loss is not such a mean, or this cannot be determined; the message gives the
            reason.
    """
    for number, batch in enumerate(batches):
        if number == 0:
            reason = (
                _why_no_mean(objective.single_loss())
                or _why_not_cut(batch)
                or _why_tied(objective.model, batch)
            )
            if reason:
                msg = (
                    "microbatch needs a loss that is a mean over samples which do not see each "
                    f"other: {reason}"
                )
                raise ValueError(msg)
        yield batch


def shareable(batches: Iterable[Batch], objective: Objective) -> Iterator[Batch]:
    """Yields the batches, if their loss is a mean over samples, which replicas can share.

    Layers that make samples depend on each other, such as BatchNormalization in training, then do
    so within each replica's share.

    Raises:
        ValueError: The loss is not such a mean, or this cannot be determined; the message gives the
            reason.
    """
    for number, batch in enumerate(batches):
        if number == 0:
            reason = (
                _why_no_mean(objective.single_loss())
                or _why_not_cut(batch)
                or _why_whole(objective.model, batch)
            )
            if reason:
                msg = f"replicas can only share a loss that is a mean over samples: {reason}"
                raise ValueError(msg)
        yield batch


def _why_no_mean(loss: keras.losses.Loss | None) -> str | None:
    """Why a loss is not known to be a mean over samples; None if it is."""
    if loss is None:
        return "the model has several losses, loss weights or its own compute_loss"
    if loss.reduction not in _MEANS:
        return f"the loss's reduction is {loss.reduction!r}"
    if getattr(loss, "ignore_class", None) is not None:
        return "the loss ignores a class, and is a mean over the others"
    return None


def _why_not_cut(batch: Batch) -> str | None:
    """Why samples cannot be taken out of a batch; None if they can."""
    sparse = any(isinstance(array, tf.SparseTensor) for array in keras.tree.flatten(tuple(batch)))
    return "a sparse batch cannot be cut" if sparse else None


def _why_whole(model: keras.Model, batch: Batch) -> str | None:
    """Why a model needs whole batches, other than for the statistics of its layers."""
    for layer in keras_private.all_layers(model):
        if getattr(layer, "synchronized", False):
            return f"layer {layer.name!r} is to synchronise its statistics, which is not done here"
    prediction = model(batch.map(operator.itemgetter(slice(1))).x, training=False)
    masks = [keras_private.mask_of(output) for output in keras.tree.flatten(prediction)]
    return "the model's output has a mask" if any(mask is not None for mask in masks) else None


def _why_tied(model: keras.Model, batch: Batch) -> str | None:
    """Which part of a model makes the samples of a batch depend on each other; None for no part."""
    reasons: list[str] = []

    def forward(x: tf.Tensor) -> None:
        prediction = model(x, training=True)
        regularised = [v for v in model.trainable_variables if v.regularizer is not None]
        if len(model.losses) != len(regularised):
            reasons.append("the model adds losses other than those of its weights")
        sources = keras.tree.flatten(x)
        for output in keras.tree.flatten(prediction):
            if keras_private.mask_of(output) is not None:
                reasons.append("the model's output has a mask")
            verdict = max(judge(sources, output))
            if verdict.validity == Validity.NOT_APPLICABLE:
                reasons.append(
                    f"in the model {verdict.reason}, as BatchNormalization does in training"
                )

    if model.run_eagerly:
        return "the model runs eagerly, so there is no graph to see that in"
    # Traced but never run, so no variable changes.
    tf.function(forward, autograph=False).get_concrete_function(batch.x)
    return reasons[0] if reasons else None
