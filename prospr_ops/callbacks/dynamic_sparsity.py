"""Dynamic sparsity: a sparse network that moves its weights while it is trained."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from prospr_ops.callbacks.mask_changes import MaskChanges, kept_where_nonzero
from prospr_ops.network.weights import Prunable
from prospr_ops.pruning.selection import keep_largest, select
from prospr_ops.utils.checks import check_integer, check_real, choose
from prospr_ops.utils.settings import CHOICES

__all__ = ["DynamicSparsity"]

# Part of the training after which masks change no more, as in the paper.
_MOVING_PART = 0.75


class DynamicSparsity(MaskChanges):
    """Trains a sparse model within `fit` that drops weights and grows others, at equal sparsity.

    Every `every` steps each layer of k weights drops the f · k of least magnitude, and grows as many
    where none is: those of the largest gradient (RigL: Evci et al., 2020, arXiv 1911.11134,
    algorithm 1) or random ones (SET: Mocanu et al., 2018, arXiv 1707.04780). A grown weight begins
    at zero, with the optimizer's state at zero. The fraction f falls from `fraction` to 0 at step
    `end` along a cosine. The number of weights of each layer never changes. Nothing is traced anew
    when masks change.

    The model begins with the masks that it has, from `prospr_ops.prune` for instance, or with random
    masks of a `sparsity`. The masks remain when training ends. Training can be resumed from a
    checkpoint of weights and optimizer, whose zeros are the mask; weights that were grown and not
    yet moved are grown again, those of lowest index. Give `end` then, for the same course.

    Args:
        sparsity: Fraction of the prunable weights that are pruned, in [0, 1); None for the masks
            that the model has.
        every: Number of steps between two changes of the masks; ≥ 1.
        fraction: Fraction of a layer's weights that the first change moves, in [0, 1).
        grow: "gradient" for weights of the largest gradient in the step before, or "random".
        begin: Step of the optimizer of the first change; None for `every` steps after this `fit` began.
        end: Step of the optimizer after which masks stay; None for three quarters of this `fit`, if
            Keras knows its number of steps, else for no end and a constant fraction. A `fit` with an
            `initial_epoch` began with epoch 0.
        scope: How random masks are spread: "erk" for Erdős–Rényi-kernel, lower densities in larger
            layers, as RigL does; "layer" for the same sparsity in each layer; or "global".
        prunable: Weights that may be pruned, as in `prospr_ops.prune`.
        seed: Seed of random masks and of random growth; ≥ 0.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range. In `fit`: the model has no prunable weights, has
            masks of another sparsity, or has none and `sparsity` is None; it has none, and the
            optimizer is beyond `end`; or the weights are spread over several replicas and `grow` is "gradient".

    Examples:
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> model.compile("adam", loss="mse")
        >>> x, y = np.ones((64, 8), np.float32), np.ones((64, 3), np.float32)
        >>> sparse = po.callbacks.DynamicSparsity(0.9, every=4)
        >>> history = model.fit(x, y, batch_size=8, epochs=2, callbacks=[sparse], verbose=0)
        >>> round(sparse.sparsity, 3)
        0.9
    """

    def __init__(
        self,
        sparsity: float | None = None,
        every: int = 100,
        fraction: float = 0.3,
        *,
        grow: str = "gradient",
        begin: int | None = None,
        end: int | None = None,
        scope: str = "erk",
        prunable: Prunable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            begin=every if begin is None else begin, end=end, every=every, prunable=prunable
        )
        self._wanted = None if sparsity is None else check_real("sparsity", sparsity, below=1.0)
        self._fraction = check_real("fraction", fraction, below=1.0)
        self._grow = choose("grow", grow, ("gradient", "random"))
        self._scope = choose("scope", scope, CHOICES["scope"])
        self._seed = check_integer("seed", seed, at_least=0)
        self._given = begin, self.end
        self._start = 0  # step of the optimizer at which the fraction begins to fall
        self._gradients: dict[str, tf.Variable] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Puts masks on the weights and prepares to note gradients."""
        replicas = self.model.distribute_strategy.num_replicas_in_sync
        if self._grow == "gradient" and replicas > 1:
            msg = f'grow="gradient" works on one replica, and there are {replicas}; use "random"'
            raise ValueError(msg)
        super().on_train_begin(logs)
        if self._grow == "gradient":
            self._gradients = {
                path: tf.Variable(tf.zeros(weight.shape), trainable=False)
                for path, weight in self._weights.items()
            }
            self.model.train_function = self._noting_gradients(self.model.train_function)

    def prepare(self) -> None:
        """Takes the model's masks, or those that a checkpoint's zeros show, or draws some."""
        self._schedule()
        had = self.masks
        if self._wanted is None:
            if all(mask.all() for mask in had.values()):
                msg = "the model has no masks, and sparsity is None: give one, or prune the model"
                raise ValueError(msg)
            return
        random = np.random.default_rng(self._seed)
        drawn = select(
            {path: random.random(mask.shape) for path, mask in had.items()},
            self._wanted,
            self._scope,
            model=self.model if self._scope == "erk" else None,
        )
        if any(not mask.all() for mask in had.values()):
            size = sum(mask.size for mask in had.values())
            kept = sum(mask.sum() for mask in had.values())
            if abs(kept - sum(mask.sum() for mask in drawn.values())) > len(had):
                msg = (
                    f"the model has masks already, of sparsity {1 - kept / size:.4g} and not "
                    f"{self._wanted:g}: leave sparsity out to move them"
                )
                raise ValueError(msg)
            return
        nonzero = kept_where_nonzero(self._weights)
        if self.step and all(nonzero[path].sum() <= drawn[path].sum() for path in drawn):
            drawn = {
                path: _largest(nonzero[path].astype(np.float32), int(mask.sum()))
                for path, mask in drawn.items()
            }
        elif self.end is not None and self.step > self.end:
            msg = (
                f"end is step {self.end}, and the optimizer has taken {self.step} steps already: leave "
                "end out, or compile the model again"
            )
            raise ValueError(msg)
        self.set_masks(drawn)

    def _schedule(self) -> None:
        """Sets the steps that were not given, from that at which this `fit`, or what it resumes, began."""
        begin, self.end = self._given
        steps = self.params.get("steps")
        began = max(0, self.step - self.first_epoch * (steps or 0))
        self._start = began if self.end is None else 0
        self.begin = self._start + self.every if begin is None else begin
        if self.end is None and steps:
            lasts = int(_MOVING_PART * steps * self.params["epochs"])
            self.end = max(self.begin, self._start + lasts)

    def change(self, step: int) -> None:
        """Drops and grows weights in each layer."""
        fraction = self._fraction
        if self.end is not None:
            time = (step - self._start) / max(1, self.end - self._start)
            fraction *= (1 + math.cos(math.pi * min(1.0, time))) / 2
        random = np.random.default_rng((self._seed, step))
        changed = {}
        for path, mask in self.masks.items():
            kept = int(mask.sum())
            moved = min(int(fraction * kept), mask.size - kept)
            size = np.abs(self._weights[path].numpy().astype(np.float32))
            stays = _largest(np.where(mask, size, -np.inf), kept - moved)
            if self._grow == "random":
                gain = random.random(mask.shape, np.float32)
            else:
                gain = self._gradients[path].numpy()
            changed[path] = stays | _largest(np.where(stays, -np.inf, gain), moved)
        self.set_masks(changed)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002 - Keras's signature
        """Lets go of the gradients."""
        if self._gradients:
            self._gradients = {}
            self.model.train_function = None

    def _noting_gradients(self, train: Any) -> Any:
        """A training function that notes gradients in the steps before a change."""
        optimizer = self.model.optimizer
        apply = optimizer.apply

        def noting(grads: Iterable[Any], trainable_variables: Any = None) -> Any:
            grads = list(grads)
            variables = trainable_variables
            if variables is None:
                variables = optimizer.trainable_variables
            by_variable = {id(v): g for v, g in zip(variables, grads, strict=True)}
            next_step = keras.ops.cast(optimizer.iterations, "int64") + 1
            due = (next_step - self.begin) % self.every == 0
            for path, weight in self._weights.items():
                gradient = by_variable.get(id(weight))
                if gradient is not None:
                    tf.cond(
                        due, lambda p=path, g=gradient: self._note(p, g), lambda: tf.constant(False)
                    )
            return apply(grads, trainable_variables)

        def step(iterator: Any) -> Any:
            optimizer.apply = noting
            try:
                return train(iterator)
            finally:
                del optimizer.apply

        return step

    def _note(self, path: str, gradient: Any) -> tf.Tensor:
        gradient = tf.abs(tf.cast(tf.convert_to_tensor(gradient), tf.float32))
        self._gradients[path].assign(tf.where(tf.math.is_finite(gradient), gradient, 0.0))
        return tf.constant(True)


def _largest(values: np.ndarray, keep: int) -> np.ndarray:
    """Mask of the `keep` largest of an array; ties go to the lower index."""
    return keep_largest({"": np.require(values, np.float32, ["C", "A"])}, keep)[""]
