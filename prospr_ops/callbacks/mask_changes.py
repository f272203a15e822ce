"""What callbacks need that change masks within `fit`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from prospr_ops.network import keras_private
from prospr_ops.network.weights import Prunable, prunable_weights
from prospr_ops.pruning.masks import MaskConstraint, hold_masks, mask_of
from prospr_ops.utils.checks import check_integer

__all__ = ["MaskChanges"]


class MaskChanges(keras.callbacks.Callback, ABC):
    """A callback that changes a model's masks at certain training steps.

    The masks are variables that the compiled training step reads, so a change traces nothing anew.
    Steps are counted by the optimizer (`optimizer.iterations`), and a change that falls between two
    steps of one execution (`steps_per_execution`) comes after it. Before the first batch `prepare`
    is called once, when other callbacks have restored what they restore. `change` is called at the
    steps `begin`, `begin + every`, … up to `end`, and at `end` itself.

    Args:
        begin: First step at which masks change; ≥ 0.
        end: Last step at which masks change; None for no end.
        every: Number of steps between two changes; ≥ 1.
        prunable: Weights that the masks are for, as in `prospr_ops.prune`.
    """

    def __init__(
        self, *, begin: int, end: int | None, every: int, prunable: Prunable | None
    ) -> None:
        super().__init__()
        self.begin = check_integer("begin", begin, at_least=0)
        self.every = check_integer("every", every, at_least=1)
        self.end = None if end is None else check_integer("end", end, at_least=0)
        if self.end is not None and self.end < self.begin:
            msg = f"end must not be before begin, {self.begin}, and is {self.end}"
            raise ValueError(msg)
        self._prunable = prunable
        self._weights: dict[str, keras.Variable] = {}
        self._done = -1  # step of the last change that was made
        self._prepared = False
        self.first_epoch = 0  # number of the epoch with which this `fit` begins

    @property
    def step(self) -> int:
        """Number of steps that the optimizer has taken."""
        return int(self.model.optimizer.iterations)

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """The masks now, by path."""
        found = {path: mask_of(weight) for path, weight in self._weights.items()}
        return {path: mask for path, mask in found.items() if mask is not None}

    @property
    def sparsity(self) -> float:
        """The fraction of the weights that the masks prune now."""
        return sparsity_of(self.masks)

    @abstractmethod
    def prepare(self) -> None:
        """Makes the first masks, before the first batch."""

    @abstractmethod
    def change(self, step: int) -> None:
        """Makes the masks of a step."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002 - Keras's signature
        """Puts masks that prune nothing on weights without masks.

        Raises:
            ValueError: The model has no prunable weights; it is unchanged.
        """
        self._weights = prunable_weights(self.model, self._prunable)
        found = {path: mask_of(weight) for path, weight in self._weights.items()}
        hold_masks(
            self.model,
            {
                path: np.ones(self._weights[path].shape, bool) if mask is None else mask
                for path, mask in found.items()
            },
        )
        self.model.make_train_function(force=True)
        self._done, self._prepared = -1, False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002 - Keras's signature
        """Notes with which epoch training begins or is resumed."""
        if not self._prepared:
            self.first_epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002 - Keras's signature
        """Makes the first masks."""
        if not self._prepared:
            self._prepared = True
            self.prepare()
            self._change_if_due()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002 - Keras's signature
        """Changes the masks if a change is due."""
        self._change_if_due()

    def _change_if_due(self) -> None:
        now = self.step
        if self.end is not None and now >= self.end:
            due = self.end
        else:
            due = now - (now - self.begin) % self.every
        if due >= self.begin and due > self._done:
            self._done = due
            self.change(due)

    def set_masks(self, masks: Mapping[str, np.ndarray]) -> None:
        """Replaces masks, zeroes what they prune, and the optimizer's state of all that changes."""
        for path, mask in masks.items():
            weight = self._weights[path]
            constraint = weight.constraint
            if not isinstance(constraint, MaskConstraint):
                msg = f"the mask of {path} was taken off during training"
                raise RuntimeError(msg)  # noqa: TRY004 - no argument is at fault
            before = constraint.mask.numpy()
            if np.array_equal(before, mask):
                continue
            constraint.mask.assign(mask)
            weight.assign(keras.ops.where(mask, weight, 0))
            for state in keras_private.optimizer_states(self.model.optimizer, weight):
                state.assign(keras.ops.where(mask & before, state, 0))


def sparsity_of(masks: Mapping[str, np.ndarray]) -> float:
    """The fraction of the weights that masks prune."""
    kept = sum(int(mask.sum()) for mask in masks.values())
    return 1.0 - kept / sum(mask.size for mask in masks.values())


def kept_where_nonzero(weights: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """Masks that keep what is not zero: those of a checkpoint, which holds weights alone."""
    return {path: weight.numpy() != 0 for path, weight in weights.items()}
