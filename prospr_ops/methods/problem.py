"""What a pruning method is given, and how it runs a step on a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from prospr_ops.objective import Batch, Objective
from prospr_ops.settings import Settings

LogScores = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Problem:
    """A model to score, on some data.

    A method may change the model's variables as it likes: the caller restores them.

    Attributes:
        objective: The loss, with its model.
        weights: Prunable weights by variable path.
        batches: Endless batches, checked.
        settings: Options.
        on_loss: Called with the loss of each batch, in order.
        estimators: To be filled by a method with curvature: which estimator each weight got, and
            what it is worth, by variable path.
    """

    objective: Objective
    weights: dict[str, keras.Variable]
    batches: Iterator[Batch]
    settings: Settings
    on_loss: Callable[[float], None]
    estimators: dict[str, str]

    def prunable(self) -> list[tf.Variable]:
        """The weights that are scored."""
        return [variable.value for variable in self.weights.values()]

    def others(self) -> list[tf.Variable]:
        """The trainable variables that take part in the steps and get no score."""
        prunable = {id(variable) for variable in self.weights.values()}
        trainable = self.objective.model.trainable_variables
        return [variable.value for variable in trainable if id(variable) not in prunable]


class StepOutput(NamedTuple):
    """What a traced step returns.

    Attributes:
        loss: Scalar.
        finite: Boolean vector: whether all derivatives by the step's n-th variable were finite.
        result: Anything.
    """

    loss: tf.Tensor
    finite: tf.Tensor
    result: Any


def all_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Boolean vector: whether each tensor is finite throughout."""
    return tf.stack([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors])


def run_step(
    problem: Problem,
    step: Callable[[Batch, tf.Tensor], StepOutput],
    number: int,
    paths: Sequence[str],
) -> Any:
    """Calls a traced step on the next batch, and checks what comes back.

    Args:
        problem: The problem.
        step: Takes a batch and the step's number, an int64 scalar.
        number: The step's number, from 0.
        paths: Variable paths that `StepOutput.finite` speaks of.

    Returns:
        The step's result.

    Raises:
        ValueError: The batch does not fit the model, or the loss or a derivative is NaN or
            infinite; the message names the step and the variable.
    """
    batch = next(problem.batches)
    try:
        output = step(batch, tf.constant(number, tf.int64))
    except tf.errors.InvalidArgumentError as error:
        msg = f"step {number}: {error.message}"
        raise ValueError(msg) from error
    loss = float(output.loss)
    if not np.isfinite(loss):
        msg = (
            f"the loss of step {number} is {loss}: the prospect diverges; lower learning_rate "
            f"(now {problem.settings.learning_rate:g})"
        )
        raise ValueError(msg)
    if not np.all(output.finite):
        bad = [
            path for path, finite in zip(paths, output.finite.numpy(), strict=True) if not finite
        ]
        msg = f"step {number}: NaN or infinity in the gradient or curvature of {', '.join(bad)}"
        raise ValueError(msg)
    problem.on_loss(loss)
    return output.result
