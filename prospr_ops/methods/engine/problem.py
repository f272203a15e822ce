"""What a pruning method is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import keras
import tensorflow as tf

from prospr_ops.curvature.estimate import sum_dtype
from prospr_ops.methods.engine.checkpoint import Checkpoint
from prospr_ops.network.loss import Batch, Objective
from prospr_ops.utils.settings import Settings


class LogNumbers(NamedTuple):
    """Numbers as log|x| and their signs, so that a product of many neither overflows nor vanishes.

    Attributes:
        log: log|x|; −inf for zero. float64 for float64 numbers, else float32.
        sign: −1, 0 or 1 as int8; None where the signs are not wanted.
    """

    log: tf.Tensor
    sign: tf.Tensor | None

    @classmethod
    def of(cls, tensor: tf.Tensor, *, signed: bool) -> LogNumbers:
        """The elements of a tensor."""
        log = tf.math.log(tf.abs(tf.cast(tensor, sum_dtype(tensor.dtype))))
        return cls(log, tf.cast(tf.sign(tensor), tf.int8) if signed else None)

    def times(self, other: LogNumbers) -> LogNumbers:
        """The product, element by element."""
        sign = None
        if self.sign is not None and other.sign is not None:
            sign = self.sign * other.sign
        return LogNumbers(self.log + other.log, sign)


@dataclass(frozen=True)
class Found:
    """What a method found.

    Attributes:
        scores: A tensor in the shape of each weight, by variable path; larger is more important.
            Logarithms, where −inf is a score of zero; or the scores themselves, of a method for
            which a negative one is worse than zero.
        signs: The signs of what the scores are the magnitudes of, by path; empty where they are not
            wanted or all positive.
        losses: Loss of each batch, in the order in which the batches were drawn.
        estimators: By path, which curvature estimator a weight got, and what it is worth; empty for
            a method without curvature.
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
        """Scores that are the magnitudes of numbers."""
        return cls(
            {path: number.log for path, number in numbers.items()},
            {path: number.sign for path, number in numbers.items() if number.sign is not None},
            losses,
            estimators or {},
        )


@dataclass(frozen=True)
class Problem:
    """A model to score, on some data.

    A method may change the model's variables as it likes: the caller restores them.

    Attributes:
        objective: The loss, with its model.
        weights: Prunable weights by variable path.
        batches: Endless batches, checked.
        settings: The options of the run.
        advance: Called after each pass over a batch, and after each round of pruning.
        say: Called with what is done now, in a few words, before it is.
        signed: Whether `Found.signs` are wanted: for whole channels, whose scores are sums (see
            `prospr_ops.pruning.channels.groups`).
        sparsity: Fraction of the weights that will be pruned, if it is known: in `prune`.
        rounds: In how many rounds the method prunes, where the sparsity is known.
        mask: Sets to zero what is pruned by such scores at such a sparsity; for methods that prune
            in several rounds.
        checkpoint: Where the state of the run is kept (see `Passes.resumable`), or None.
    """

    objective: Objective
    weights: dict[str, keras.Variable]
    batches: Iterator[Batch]
    settings: Settings
    advance: Callable[[], None]
    signed: bool = False
    sparsity: float | None = None
    rounds: int = 1
    mask: Callable[[Found, float], None] = lambda *_: None
    checkpoint: Checkpoint | None = None
    say: Callable[[str], None] = lambda _: None

    def prunable(self) -> list[tf.Variable]:
        """The weights that are scored."""
        return [variable.value for variable in self.weights.values()]

    def others(self) -> list[tf.Variable]:
        """The trainable variables that take part in the steps and get no score."""
        prunable = {id(variable) for variable in self.weights.values()}
        trainable = self.objective.model.trainable_variables
        return [variable.value for variable in trainable if id(variable) not in prunable]

    def model_state(self) -> list[tf.Variable]:
        """All variables of the model that a step changes, or that change what it does.

        Besides the trainable ones these are moving averages and the seeds of dropout.
        """
        constant = self.objective.model.non_trainable_variables
        return [*self.prunable(), *self.others(), *(variable.value for variable in constant)]

    def values_now(self) -> dict[str, tf.Tensor]:
        """The weights as they are now, by path; they share their buffers with the caller's copy."""
        return {path: tf.identity(weight.value) for path, weight in self.weights.items()}

    def log_numbers(self, tensor: tf.Tensor) -> LogNumbers:
        """A factor of a weight's score."""
        return LogNumbers.of(tensor, signed=self.signed)

    def log_weights(self) -> dict[str, LogNumbers]:
        """The weights as they are now, as a factor of their scores, by path."""
        return {
            path: self.log_numbers(tf.convert_to_tensor(weight))
            for path, weight in self.weights.items()
        }
