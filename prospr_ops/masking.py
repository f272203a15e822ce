"""Masks on a model: pruned weights are zero, and stay zero under training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from prospr_ops.prunable import trainable_weights


class MaskConstraint(keras.constraints.Constraint):
    """Zeroes the pruned elements of a weight after every update.

    An optimizer runs its variables' constraints inside the compiled training step, after momentum
    and weight decay, so a pruned weight is exactly zero between any two steps. Plain Keras
    operations: it works under `jit_compile=True`.

    Args:
        mask: Boolean array in the weight's shape, True for an element that is kept.
        inner: A constraint that the weight had before, which runs first, or None.
    """

    def __init__(self, mask: np.ndarray, inner: keras.constraints.Constraint | None = None) -> None:
        # A variable and not a constant: constants are copied into every compiled graph.
        self.mask = keras.Variable(mask, dtype="bool", trainable=False, name="mask")
        self.inner = inner

    def __call__(self, value: Any) -> Any:
        """Returns `value` with the pruned elements set to zero."""
        if self.inner is not None:
            value = self.inner(value)
        value = keras.ops.convert_to_tensor(value)
        return keras.ops.where(self.mask, value, keras.ops.zeros_like(value))


def apply_masks(model: keras.Model, masks: Mapping[str, Any]) -> None:
    """Zeroes the pruned weights of a model and keeps them zero under training.

    The masks hold under `model.fit` and `optimizer.apply`, with any Keras optimizer, weight decay
    and `jit_compile=True`. A constraint that a weight already has goes on to work, before the mask.
    Masks applied earlier to the same weight are replaced.

    Args:
        model: A built Keras model.
        masks: Boolean array by variable path, True for a weight that is kept, in the variable's
            shape, as `prospr_ops.select` returns them.

    Raises:
        TypeError: `model` is no Keras model, or a mask is not boolean.
        ValueError: A path is not one of the model's, or a shape differs. Nothing has been changed.
    """
    weights = trainable_weights(model)
    checked = {}
    for path, mask in masks.items():
        array = np.asarray(mask)
        if path not in weights:
            msg = f"masks: the model has no trainable variable {path!r}; it has {list(weights)}"
            raise ValueError(msg)
        if array.dtype != np.bool_:
            msg = f"the mask of {path} must be boolean, not {array.dtype}"
            raise TypeError(msg)
        if array.shape != tuple(weights[path].shape):
            msg = (
                f"the mask of {path} has shape {array.shape}; the variable has "
                f"{tuple(weights[path].shape)}"
            )
            raise ValueError(msg)
        checked[path] = array

    for path, mask in checked.items():
        variable = weights[path]
        inner = variable.constraint
        if isinstance(inner, MaskConstraint):
            inner = inner.inner
        constraint = MaskConstraint(mask, inner)
        variable.assign(keras.ops.where(constraint.mask, variable, 0))
        variable.constraint = constraint
    # A training step that was compiled before knows nothing of the new constraints.
    model.train_function = None
