"""Gradual pruning during training."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from prospr_ops.callbacks.mask_changes import MaskChanges, kept_where_nonzero, sparsity_of
from prospr_ops.methods import METHODS
from prospr_ops.network.weights import Prunable
from prospr_ops.pruning.api import score
from prospr_ops.pruning.selection import dead_last, select
from prospr_ops.utils.checks import check_integer, check_real, choose

__all__ = ["GradualPruning"]

# What is left of the way to the final sparsity after a fraction t of the time.
_SCHEDULES: dict[str, Callable[[float], float]] = {
    "cubic": lambda t: (1 - t) ** 3,
    "linear": lambda t: 1 - t,
}


class GradualPruning(MaskChanges):
    """Prunes a model little by little within `fit`: a mask grows from step to step.

    At the steps `begin`, `begin + every`, … and `end` the sparsity is raised to

        s(t) = s_f + (s_0 − s_f) · (1 − (t − begin) / (end − begin))³

    with s_0 the sparsity at the beginning (Zhu and Gupta, 2017, arXiv 1710.01878, equation 1), by
    pruning the weights with the least scores of those that are left. What is pruned stays pruned,
    under every optimizer, and its momentum is zeroed. The masks remain when training ends:
    `prospr_ops.strip`, `export` and `save_model` take the model as they take a pruned one. Nothing
    is traced anew when masks change.

    Training can be interrupted and resumed from a checkpoint of weights and optimizer, as
    `keras.callbacks.BackupAndRestore` keeps: the zeros in the weights are the mask, and s_0 is what led
    to their number at the step of the last change. A dense model that is beyond `begin` is pruned at
    once as far as the schedule has come. The same data,
    weights and `seed` give the same masks where training itself is deterministic.

    Args:
        final_sparsity: Fraction of the prunable weights that are pruned at step `end`, in [0, 1).
        begin: Step of the optimizer at which pruning begins; ≥ 0.
        end: Step of the optimizer at which `final_sparsity` is reached.
        every: Number of steps between two changes of the mask; ≥ 1.
        schedule: Course of the sparsity: "cubic" or "linear".
        method: Pruning criterion: "magnitude", or any method of `prospr_ops.prune`, which scores
            the weights as they are then.
        data: Training data for methods that use data, as for `prospr_ops.score`.
        scope: "global" ranks all weights together; "layer" prunes each layer by itself.
        prunable: Weights that may be pruned, as in `prospr_ops.prune`.
        seed: Seed of the scores; a change adds its step.
        **settings: Further settings of the method, as `steps` and `learning_rate`; see
            `prospr_ops.score`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, or a method that uses data is given none. In `fit`:
            the model has no prunable weights, is sparser than `final_sparsity` already, or has been
            trained beyond `end`.

    Examples:
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> model.compile("adam", loss="mse")
        >>> x, y = np.ones((64, 8), np.float32), np.ones((64, 3), np.float32)
        >>> pruning = po.callbacks.GradualPruning(0.9, begin=2, end=12, every=2)
        >>> history = model.fit(x, y, batch_size=8, epochs=2, callbacks=[pruning], verbose=0)
        >>> round(pruning.sparsity, 3)
        0.9
    """

    def __init__(
        self,
        final_sparsity: float,
        begin: int,
        end: int,
        every: int = 100,
        *,
        schedule: str = "cubic",
        method: str = "magnitude",
        data: Any = None,
        scope: str = "global",
        prunable: Prunable | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(begin=begin, end=end, every=every, prunable=prunable)
        self._end = end
        self.final_sparsity = check_real("final_sparsity", final_sparsity, below=1.0)
        self._left = _SCHEDULES[choose("schedule", schedule, _SCHEDULES)]
        self._method = choose("method", method, METHODS)
        self._scope = choose("scope", scope, ("global", "layer"))
        if data is None and METHODS[method].needs_data:
            msg = f"method {method!r} uses data, and data is None; pass data=(x, y)"
            raise ValueError(msg)
        self._data = data
        self._seed = check_integer("seed", seed, at_least=0)
        self._settings = settings
        self._initial_sparsity = 0.0

    def prepare(self) -> None:
        """Takes the masks that the model has, and those that a checkpoint's zeros show."""
        masks, now = self.masks, self.step
        if sparsity_of(masks) > self.final_sparsity:
            msg = (
                f"the model's sparsity is {sparsity_of(masks):.4g} already, which is more than "
                f"final_sparsity={self.final_sparsity:g}"
            )
            raise ValueError(msg)
        if now > self.begin:
            nonzero = kept_where_nonzero(self._weights)
            masks = {path: mask & nonzero[path] for path, mask in masks.items()}
        self.set_masks(masks)
        self._initial_sparsity = sparsity = sparsity_of(masks)
        rounding = len(self._weights) / sum(mask.size for mask in masks.values())
        last = now - (now - self.begin) % self.every
        left = self._left_at(last) if now > self.begin else 1.0
        if sparsity > rounding and left:
            before = self.final_sparsity + (sparsity - self.final_sparsity) / left
            self._initial_sparsity = min(max(before, 0.0), sparsity)
        if self.step > self._end and self.sparsity < self.final_sparsity - rounding:
            msg = (
                f"the schedule ended at step {self._end}, and the optimizer has taken {self.step} "
                "steps already: compile the model again, or move begin and end"
            )
            raise ValueError(msg)

    def change(self, step: int) -> None:
        """Prunes what the schedule says, of what is left."""
        left = self._left_at(step)
        sparsity = self.final_sparsity + (self._initial_sparsity - self.final_sparsity) * left
        masks = self.masks
        gone = {path: ~mask for path, mask in masks.items()}
        chosen = select(
            dead_last(self._scores(step), gone), sparsity, self._scope, model=self.model
        )
        self.set_masks({path: mask & chosen[path] for path, mask in masks.items()})

    def _left_at(self, step: int) -> float:
        """What is left of the way to the final sparsity at a step."""
        if step >= self._end:
            return 0.0
        return self._left((step - self.begin) / (self._end - self.begin))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002 - Keras's signature
        """Warns if training ended before the schedule."""
        if self.step < self._end:
            warnings.warn(
                f"training ended at step {self.step}, before GradualPruning's end at step "
                f"{self._end}: the sparsity is {self.sparsity:.4g}, not {self.final_sparsity:g}",
                stacklevel=2,
            )

    def _scores(self, step: int) -> dict[str, Any]:
        weights = {id(weight) for weight in self._weights.values()}
        return score(
            self.model,
            self._data,
            method=self._method,
            prunable=lambda _, variable: id(variable) in weights,
            seed=self._seed + step,
            verbose=0,
            **self._settings,
        )
