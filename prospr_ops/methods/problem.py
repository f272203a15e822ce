"""What a pruning method is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keras
import tensorflow as tf

from prospr_ops.checkpoint import Checkpoint
from prospr_ops.objective import Batch, Objective
from prospr_ops.settings import Settings

# A tensor in the shape of each weight, by variable path: logarithms, where −inf is a score of zero,
LogScores = dict[str, tf.Tensor]
# or the scores themselves, of a method for which a negative one is worse than zero.
SignedScores = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Problem:
    """A model to score, on some data.

    A method may change the model's variables as it likes: the caller restores them.

    Attributes:
        objective: The loss, with its model.
        weights: Prunable weights by variable path.
        batches: Endless batches, checked.
        settings: Options.
        advance: Called after each pass over a batch, and after each iteration of pruning.
        losses: To be filled with the loss of each batch, in the order in which they are drawn.
        estimators: To be filled by a method with curvature: which estimator each weight got, and
            what it is worth, by variable path.
        signs: To be filled by path with the signs of what the scores are magnitudes of, if a
            dictionary is given: for whole channels, whose scores are sums (see
            `prospr_ops.structured`). A method whose scores are all positive leaves it empty.
        sparsity: Fraction of the weights that will be pruned, if it is known: in `prune`.
        mask: Sets to zero what is pruned by such scores at such a sparsity; for methods that prune
            in several rounds.
        checkpoint: Where the state of the run is kept (see `passes.resumable`), or None.
    """

    objective: Objective
    weights: dict[str, keras.Variable]
    batches: Iterator[Batch]
    settings: Settings
    advance: Callable[[], None]
    losses: list[float]
    estimators: dict[str, str]
    signs: dict[str, tf.Tensor] | None = None
    sparsity: float | None = None
    mask: Callable[[LogScores, float], None] = lambda *_: None
    checkpoint: Checkpoint | None = None

    def prunable(self) -> list[tf.Variable]:
        """The weights that are scored."""
        return [variable.value for variable in self.weights.values()]

    def multiply_sign(self, path: str, factor: tf.Tensor) -> None:
        """Takes the sign of a factor of a weight's score into account, where signs are asked for."""
        if self.signs is not None:
            sign = tf.cast(tf.sign(factor), tf.int8)
            self.signs[path] = sign * self.signs[path] if path in self.signs else sign

    def model_state(self) -> list[tf.Variable]:
        """All variables of the model that a step changes, or that change what it does.

        Besides the trainable ones these are moving averages and the seeds of dropout.
        """
        constant = self.objective.model.non_trainable_variables
        return [*self.prunable(), *self.others(), *(variable.value for variable in constant)]

    def others(self) -> list[tf.Variable]:
        """The trainable variables that take part in the steps and get no score."""
        prunable = {id(variable) for variable in self.weights.values()}
        trainable = self.objective.model.trainable_variables
        return [variable.value for variable in trainable if id(variable) not in prunable]
