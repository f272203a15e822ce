"""The training loss of a model as a function of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import keras
import tensorflow as tf

from prospr_ops.network import keras_private
from prospr_ops.network.tf_functions import moments, replaced

Loss: TypeAlias = str | keras.losses.Loss | Callable[[Any, Any], Any]


class Batch(NamedTuple):
    """One batch: inputs and targets in whatever structure the model takes, and sample weights."""

    x: Any
    y: Any
    sample_weight: Any = None

    def map(self, function: Callable[[Any], Any]) -> Batch:
        """The batch with `function` applied to each of its arrays."""
        mapped = keras.tree.map_structure(function, tuple(self), none_is_leaf=False)
        return Batch(*mapped)


def _not_divided(loss: tf.Tensor) -> tf.Tensor:
    """A mean as Keras gives it, times the replicas that it divides it by under tf.distribute.

    There it is to be summed over the replicas; here means are averaged.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return loss * replicas if replicas > 1 else loss


class FunctionLoss(keras.losses.Loss):
    """A loss function of (y, prediction) -> loss per sample, averaged over the batch."""

    def __init__(self, function: Callable[[Any, Any], Any], dtype: str) -> None:
        super().__init__(name=getattr(function, "__name__", "loss"), dtype=dtype)
        self.function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The function's value."""
        return self.function(y_true, y_pred)


@dataclass(frozen=True)
class Objective:
    """Loss of `model` in training mode on a batch, its regularisation losses included.

    Attributes:
        model: The Keras model.
        loss: A Keras loss, or None for the one that the model was compiled with.
    """

    model: keras.Model
    loss: keras.losses.Loss | None

    @classmethod
    def of(cls, model: keras.Model, loss: Loss | None) -> Objective:
        """Resolves the loss.

        Raises:
            ValueError: No loss is given and the model was compiled with none, or the name is
                unknown to Keras.
            TypeError: `loss` is not a loss, a name or a function.
        """
        if loss is None:
            if not model.compiled or model.loss is None:
                msg = (
                    f"no loss is given and model {model.name!r} is not compiled with one; pass "
                    "loss= a Keras loss or its name, or compile the model"
                )
                raise ValueError(msg)
            return cls(model, None)
        if not isinstance(loss, str | keras.losses.Loss) and not callable(loss):
            msg = f"loss must be a Keras loss, its name or a function, not {type(loss).__name__}"
            raise TypeError(msg)
        resolved = keras.losses.get(loss)
        if not isinstance(resolved, keras.losses.Loss):
            # Keras computes losses in float32 unless told otherwise, in float64 models too.
            dtype = keras.backend.result_type(model.compute_dtype, "float32")
            resolved = FunctionLoss(resolved, dtype)
        return cls(model, resolved)

    def __call__(
        self, batch: Batch, replacements: Mapping[str, Callable[..., Any]] | None = None
    ) -> tf.Tensor:
        """The scalar loss, which can be differentiated twice.

        Args:
            batch: The batch.
            replacements: What the model's layers get to call in place of functions of tf.nn, by
                name; None for nothing but moments whose second derivative is right.
        """
        with replaced({"moments": moments} | dict(replacements or {})):
            prediction = self.model(batch.x, training=True)
        if self.loss is None:
            loss = self.model.compute_loss(*batch[:2], prediction, batch.sample_weight)
            return _not_divided(loss)
        loss = _not_divided(self.loss(batch.y, prediction, sample_weight=batch.sample_weight))
        return tf.add_n([loss, *(tf.cast(extra, loss.dtype) for extra in self.model.losses)])

    def single_loss(self) -> keras.losses.Loss | None:
        """The Keras loss whose plain value, plus `model.losses`, this objective is; or None.

        None for a model with several losses, with loss weights or with its own `compute_loss`.
        """
        if self.loss is not None:
            return self.loss
        model = self.model
        loss, weights = keras_private.losses_of(model)
        own = type(model).compute_loss is not keras.Model.compute_loss
        if own or loss is None or weights is not None:
            return None
        try:
            return Objective.of(model, loss).loss
        except TypeError:
            return None

    def sparse_labels(self) -> keras.losses.Loss | None:
        """The loss, if its targets are class indices."""
        loss = self.model.loss if self.loss is None else self.loss
        if isinstance(loss, FunctionLoss):
            loss = loss.function
        if isinstance(loss, str):
            loss = keras.losses.get(loss)
        if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
            return loss
        if loss is keras.losses.sparse_categorical_crossentropy:
            return keras.losses.SparseCategoricalCrossentropy()
        return None
