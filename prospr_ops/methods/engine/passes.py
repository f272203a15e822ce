"""Passes over batches: the loss's derivatives, averaged over the samples, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from prospr_ops.curvature.estimate import gradient, sum_dtype
from prospr_ops.methods.engine.checkpoint import Progress
from prospr_ops.methods.engine.distribution import Replicas, replicas
from prospr_ops.methods.engine.microbatches import split
from prospr_ops.methods.engine.problem import Found, LogNumbers, Problem
from prospr_ops.network.loss import Batch
from prospr_ops.network.tracing import traced
from prospr_ops.ops.nn.replacements import fast_calls


class PassOutput(NamedTuple):
    """What a pass gives.

    Attributes:
        loss: Scalar.
        finite: Boolean vector: whether all derivatives by the n-th prunable weight were finite.
        result: Anything.
    """

    loss: tf.Tensor
    finite: tf.Tensor
    result: Any


# Takes a batch and a seed, int64 [2]; gives the loss and derivatives of it.
Evaluate = Callable[[Batch, tf.Tensor], tuple[tf.Tensor, list[tf.Tensor]]]
# Takes the derivatives; gives the last two of `PassOutput`.
Apply = Callable[[list[tf.Tensor]], tuple[tf.Tensor, Any]]
Pass = Callable[[Batch, tf.Tensor], PassOutput]


def batch_pass(evaluate: Evaluate, apply: Apply, microbatch: int | None) -> Pass:
    """Makes a traced pass: `apply` to what `evaluate` gives of a batch.

    With a `microbatch`, the batch is evaluated in parts of at most so many samples, one after the
    other, and `apply` gets the mean: that bounds the memory, and changes the result by rounding
    only (see `prospr_ops.methods.engine.microbatches`). Where replicas share the batches, each applies the mean
    over the shares of all, which they evaluate in parts of that size (see
    `prospr_ops.methods.engine.distribution`).
    """
    sharing = replicas()
    if sharing is not None:
        return _shared_pass(evaluate, apply, microbatch, sharing)
    if microbatch is None:

        @traced
        def whole(batch: Batch, seed: tf.Tensor) -> PassOutput:
            loss, derivatives = evaluate(batch, seed)
            return PassOutput(loss, *apply(derivatives))

        return whole

    evaluate_part, apply_mean = traced(evaluate), traced(apply)

    @traced
    def add(sums: list[tf.Tensor], fraction: tf.Tensor, values: list[tf.Tensor]) -> list[tf.Tensor]:
        return [
            total + tf.cast(fraction, total.dtype) * tf.cast(value, total.dtype)
            for total, value in zip(sums, values, strict=True)
        ]

    def in_parts(batch: Batch, seed: tf.Tensor) -> PassOutput:
        sums: list[tf.Tensor] = []
        values: list[tf.Tensor] = []
        for part, part_seed, fraction in _parts(batch, seed, microbatch):
            loss, derivatives = evaluate_part(part, part_seed)
            values = [loss, *derivatives]
            sums = sums or [tf.zeros(value.shape, sum_dtype(value.dtype)) for value in values]
            sums = add(sums, tf.constant(fraction, tf.float64), values)
        loss, *derivatives = (
            tf.cast(total, value.dtype) for total, value in zip(sums, values, strict=True)
        )
        return PassOutput(loss, *apply_mean(derivatives))

    return in_parts


def _parts(
    batch: Batch, seed: tf.Tensor, size: int | None
) -> Iterator[tuple[Batch, tf.Tensor, float]]:
    """Parts of a batch, each with a seed of its own and its share of the samples."""
    for number, (part, fraction) in enumerate(split(batch, size)):
        # The low half of the seed's second word counts the passes.
        yield part, seed + tf.constant([0, number << 32], tf.int64), fraction


def _shared_pass(
    evaluate: Evaluate, apply: Apply, microbatch: int | None, replicas: Replicas
) -> Pass:
    """`batch_pass` by replicas, each of which has `microbatch` samples at a time."""
    dtypes: list[tf.DType] = []  # of the loss and the derivatives, known once `evaluate` is traced

    @traced
    def evaluate_part(part: Batch, seed: tf.Tensor, fraction: tf.Tensor) -> list[list[tf.Tensor]]:
        def weighted(share: Batch, weight: float) -> list[tf.Tensor]:
            loss, derivatives = evaluate(share, seed)
            values = [loss, *derivatives]
            dtypes[:] = [value.dtype for value in values]
            values = [tf.cast(value, sum_dtype(value.dtype)) for value in values]
            return [tf.cast(weight * fraction, value.dtype) * value for value in values]

        return replicas.evaluate(weighted, part)

    @traced
    def add(sums: list[list[tf.Tensor]], terms: list[list[tf.Tensor]]) -> list[list[tf.Tensor]]:
        return replicas.map(lambda i: [*map(tf.add, sums[i], terms[i])])

    # All workers must trace the collective operations equally often, which numbers them. So these
    # are apart from the shares, whose sizes differ: here all shapes are those of the weights.
    @traced
    def apply_mean(terms: list[list[tf.Tensor]]) -> list[PassOutput]:
        means = replicas.sum(terms)

        def on_replica(index: int) -> PassOutput:
            loss, *derivatives = map(tf.cast, means[index], dtypes)
            return PassOutput(loss, *apply(derivatives))

        return replicas.map(on_replica)

    def shared(batch: Batch, seed: tf.Tensor) -> PassOutput:
        size = microbatch and microbatch * replicas.total
        sums: list[list[tf.Tensor]] = []
        for part, part_seed, fraction in _parts(batch, seed, size):
            terms = evaluate_part(part, part_seed, tf.constant(fraction, tf.float64))
            sums = add(sums, terms) if sums else terms
        return apply_mean(sums)[0]

    return shared


def gradients_by(problem: Problem, variables: Sequence[tf.Variable]) -> Evaluate:
    """The loss and its gradients.

    Passes that are given the same one share its graph: it is traced once.
    """

    def evaluate(batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        del seed  # nothing here is random but the model
        with tf.GradientTape() as tape:
            loss = problem.objective(batch, fast_calls())
        return loss, gradient(tape, loss, variables, scale=problem.objective.scale)

    # Each replica has variables of its own, which a function traced on another would not take.
    return evaluate if replicas() else traced(evaluate)


def hessian_products_by(
    problem: Problem,
    gradients: Evaluate,
    variables: Sequence[tf.Variable],
    vectors: Callable[[], Sequence[tf.Tensor]],
) -> Evaluate:
    """The loss and Hu, for the vector u that `vectors` gives, one tensor for each variable.

    `gradients` is `gradients_by` these variables.
    """

    def evaluate(batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        u = [tf.cast(part, v.dtype) for part, v in zip(vectors(), variables, strict=True)]
        # Reverse over reverse: forward over reverse takes 1.0 to 1.3 times as long
        # (`python -m benchmarks meta_gradient`).
        with tf.GradientTape() as tape:
            loss, by_variable = gradients(batch, seed)
        scale = problem.objective.scale
        if scale != 1.0:  # half precision wants u of about 1, too
            largest = tf.reduce_max([tf.reduce_max(tf.abs(tf.cast(v, tf.float32))) for v in u])
            scale /= tf.where(largest > 0, largest, 1.0)
        return loss, gradient(tape, by_variable, variables, u, scale)

    return evaluate


def all_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Boolean vector: whether each tensor is finite throughout."""
    return tf.stack([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors])


class Passes:
    """Runs a method's passes over batches: checks what comes back, keeps losses and checkpoint.

    Attributes:
        problem: What is scored.
        losses: Loss of each batch so far, in the order in which the batches were drawn.
        estimators: By path, which curvature estimator a weight got; for `diagonal`.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.losses: list[float] = []
        self.estimators: dict[str, str] = {}

    def found(self, numbers: Mapping[str, LogNumbers]) -> Found:
        """What the method returns: its scores, with what the passes have kept."""
        return Found.of(numbers, tuple(self.losses), self.estimators)

    def run(
        self,
        batch_pass: Pass,
        number: int,
        batch: Batch,
        of: str = "the gradient or curvature",
    ) -> Any:
        """Runs a pass over a batch, and checks what comes back.

        Args:
            batch_pass: The pass.
            number: The batch's number, from 0.
            batch: The batch.
            of: What the pass computes of each prunable weight, for the message.

        Returns:
            The pass's result.

        Raises:
            ValueError: The batch does not fit the model, or the loss or a derivative is NaN or
                infinite; the message names the step and the variable.
        """
        settings = self.problem.settings
        try:
            output = batch_pass(batch, tf.constant([settings.seed, number], tf.int64))
        except tf.errors.InvalidArgumentError as error:
            msg = f"step {number}: {error.message}"
            raise ValueError(msg) from error
        loss = float(output.loss)
        if not np.isfinite(loss):
            msg = (
                f"the loss of step {number} is {loss}: the prospect diverges; lower learning_rate "
                f"(now {settings.learning_rate:g})"
            )
            raise ValueError(msg)
        finite = output.finite.numpy()
        if not finite.all():
            weights = self.problem.weights
            bad = [path for path, good in zip(weights, finite, strict=True) if not good]
            msg = f"step {number}: NaN or infinity in {of} of {', '.join(bad)}"
            raise ValueError(msg)
        if number == len(self.losses):  # the first pass over this batch
            self.losses.append(loss)
        self.problem.advance()
        return output.result

    def resumable(self, numbers: Sequence[int], state: Sequence[tf.Variable]) -> Iterator[int]:
        """Yields the numbers of the steps to make, and keeps `state` in the problem's checkpoint.

        Where a killed run has left one, the steps that it made are left out: `state` is brought to
        what it was after them, and their batches are drawn.
        """
        checkpoint = self.problem.checkpoint
        if checkpoint is None:
            yield from numbers
            return
        resumed = checkpoint.resume(state, self.losses)
        self.losses, self.estimators = resumed.losses, resumed.estimators
        for _ in numbers[: resumed.done]:
            self.problem.advance()
        for done, number in enumerate(numbers[resumed.done :], start=resumed.done + 1):
            yield number
            checkpoint.save(Progress(done, self.losses, self.estimators), state)
