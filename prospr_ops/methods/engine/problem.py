"""The argument and the return value of a pruning method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import keras
import tensorflow as tf

from prospr_ops.curvature.estimate import sum_dtype
from prospr_ops.methods.engine.checkpoint import Checkpoint
from prospr_ops.network.loss import Batch, Objective
from prospr_ops.utils.settings import Settings


class LogNumbers(NamedTuple):
    """Numbers as log|x| and signs, so that products of many neither overflow nor vanish.

    Attributes:
        log: log|x|; −inf for zero. float64 for float64 numbers, else float32.
        sign: Signs −1, 0 or 1 as int8; None if signs are not needed.
    """

    log: tf.Tensor
    sign: tf.Tensor | None

    @classmethod
    def of(cls, tensor: tf.Tensor, *, signed: bool) -> LogNumbers:
        """Takes the elements of a tensor."""
        log = tf.math.log(tf.abs(tf.cast(tensor, sum_dtype(tensor.dtype))))
        return cls(log, tf.cast(tf.sign(tensor), tf.int8) if signed else None)

    def times(self, other: LogNumbers) -> LogNumbers:
        """The elementwise product."""
        sign = None
        if self.sign is not None and other.sign is not None:
            sign = self.sign * other.sign
        return LogNumbers(self.log + other.log, sign)


@dataclass(frozen=True)
class Found:
    """The result of a method.

    Attributes:
        scores: A tensor in the shape of each weight, by variable path; larger is more important.
            Logarithms, where −inf is a score of zero; or signed scores, for a method where negative
            is worse than zero.
        signs: Signs of the numbers whose log-magnitudes are the scores, by path; empty if signs are
            not needed or all are positive.
        losses: Loss of each batch, in the order in which the batches were drawn.
        estimators: Curvature estimator that each weight got and how it relates to the Hessian, by
            path; empty for a method without curvature.
    """

    scores: dict[str, tf.Tensor]
    signs: dict[str, tf.Tensor] = field(default_factory=dict)
    losses: tuple[float, ...] = ()
    estimators: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        numbers: Mapping[str, LogNumbers],
        losses: tuple[float, ...] = (),
        estimators: dict[str, str] | None = None,
    ) -> Found:
        """Makes scores from the magnitudes of numbers."""
        return cls(
            {path: number.log for path, number in numbers.items()},
            {path: number.sign for path, number in numbers.items() if number.sign is not None},
            losses,
            estimators or {},
        )


@dataclass(frozen=True)
class Problem:
    """A model to score, with data, in one round or in several.

    A method may change the model's variables freely: before each round the caller sets them to what
    they were, but for the weights that the rounds before have pruned, which are zero.

    Attributes:
        objective: The loss, with its model.
        weights: Prunable weights by variable path.
        batches: Endless iterator of checked batches.
        settings: The options of the run.
        advance: Function to call after each pass over a batch.
        say: Function to call with what is done now, in a few words, before it is done.
        signed: Whether `Found.signs` are needed: for whole channels, whose scores are sums (see
            `prospr_ops.pruning.channels.groups`).
        held: Masks of variables that are pruned already, by the variable's id: their pruned elements
            stay zero in the steps, as they will in training. With several rounds they are variables,
            which change between the rounds.
        rounds: Number of rounds.
        initial: Weights before the first round by path, if what the rounds prune may return; else None.
        checkpoint: Checkpoint that keeps the state of the run (see `Passes.resumable`), or None.
    """

    objective: Objective
    weights: dict[str, keras.Variable]
    batches: Iterator[Batch]
    settings: Settings
    advance: Callable[[], None]
    signed: bool = False
    held: Mapping[int, tf.Tensor | tf.Variable] = field(default_factory=dict)
    rounds: int = 1
    initial: Mapping[str, tf.Tensor] | None = None
    checkpoint: Checkpoint | None = None
    say: Callable[[str], None] = lambda _: None

    def prunable(self) -> list[tf.Variable]:
        """The variables that are scored."""
        return [variable.value for variable in self.weights.values()]

    def others(self) -> list[tf.Variable]:
        """The trainable variables that take part in the steps and are not scored."""
        prunable = {id(variable) for variable in self.weights.values()}
        trainable = self.objective.model.trainable_variables
        return [variable.value for variable in trainable if id(variable) not in prunable]

    def model_state(self) -> list[tf.Variable]:
        """All variables of the model that a step changes or depends on.

        Besides the trainable variables these are moving averages and the seeds of dropout.
        """
        constant = self.objective.model.non_trainable_variables
        return [*self.prunable(), *self.others(), *(variable.value for variable in constant)]

    def hold(
        self, variables: Sequence[tf.Variable], gradients: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """The gradients by variables, zero for what is pruned already."""
        masks = [self.held.get(id(variable)) for variable in variables]
        return [
            g if mask is None else tf.where(mask, g, tf.zeros_like(g))
            for mask, g in zip(masks, gradients, strict=True)
        ]

    def values_now(self) -> dict[str, tf.Tensor]:
        """The current weights by path; they share their buffers with the caller's copy."""
        return {path: tf.identity(weight.value) for path, weight in self.weights.items()}

    def factors(self) -> dict[str, tf.Tensor]:
        """What the mask multiplies, by path: the factor of each weight's score beside a derivative.

        The current weights, of which the pruned ones are zero; or the initial ones, where pruned
        weights may return.
        """
        return self.values_now() if self.initial is None else dict(self.initial)

    def log_numbers(self, tensor: tf.Tensor) -> LogNumbers:
        """A tensor as a factor of a weight's score."""
        return LogNumbers.of(tensor, signed=self.signed)

    def log_weights(self) -> dict[str, LogNumbers]:
        """The current weights as factors of their scores, by path."""
        return {
            path: self.log_numbers(tf.convert_to_tensor(weight))
            for path, weight in self.weights.items()
        }


# Scores the current weights; takes the number of the round, from 0. What is traced in the first round
# serves the others.
Scorer = Callable[[int], Found]
