"""Passes over batches: mean derivatives of the loss, and the update that follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from prospr_ops.curvature.estimate import gradient, second_derivative, sum_dtype
from prospr_ops.methods.engine.checkpoint import Progress
from prospr_ops.methods.engine.distribution import Replicas, replicas
from prospr_ops.methods.engine.faults import layer_not_finite
from prospr_ops.methods.engine.microbatches import split
from prospr_ops.methods.engine.problem import Found, LogNumbers, Problem
from prospr_ops.network.loss import Batch
from prospr_ops.network.second_derivatives import differentiating_gradients
from prospr_ops.network.tf_functions import attributes_as_they_are
from prospr_ops.network.tracing import graphs_optimised, traced
from prospr_ops.ops.nn.replacements import fast_calls
from prospr_ops.utils.settings import Settings


class PassOutput(NamedTuple):
    """The result of a pass.

    Attributes:
        loss: The loss, a scalar.
        finite: Whether all derivatives by the n-th prunable weight were finite, a boolean vector.
        result: Result of `apply`, of any type.
    """

    loss: tf.Tensor
    finite: tf.Tensor
    result: Any


# A function of a batch and a seed, int64 [2]; returns the loss and its derivatives.
Evaluate = Callable[[Batch, tf.Tensor], tuple[tf.Tensor, list[tf.Tensor]]]
# A function of the derivatives; returns the last two fields of `PassOutput`.
Apply = Callable[[list[tf.Tensor]], tuple[tf.Tensor, Any]]
Pass = Callable[[Batch, tf.Tensor], PassOutput]


# A gradient costs less as a graph, after a first one that costs more: to create, differentiate and load
# an operation takes as long as about so many eager calls of it (docs/meta_gradient.md has the
# measurements).
EAGER_PASSES = 9


def evaluates_whole(settings: Settings) -> bool:
    """Whether a pass evaluates a whole batch at once, not in parts, nor shared by replicas."""
    return settings.microbatch is None and replicas() is None


def batch_pass(
    evaluate: Evaluate, apply: Apply, microbatch: int | None, *, eager: bool = False
) -> Pass:
    """Makes a pass: `apply` to what `evaluate` gives of a batch.

    `evaluate` is called as it is; `apply` is traced, unless it is to be `eager`.

    With a `microbatch`, both are traced, the batch is evaluated in parts of at most that many samples,
    one after the other, and `apply` gets the mean. This bounds the memory and changes the result by
    rounding only (see `prospr_ops.methods.engine.microbatches`). If replicas share the batches, each
    evaluates its share in parts of that size and applies the mean over all shares (see
    `prospr_ops.methods.engine.distribution`).
    """
    sharing = replicas()
    if sharing is not None:
        return _shared_pass(evaluate, apply, microbatch, sharing)
    if microbatch is None:
        finish = apply if eager else traced(apply)

        def whole(batch: Batch, seed: tf.Tensor) -> PassOutput:
            loss, derivatives = evaluate(batch, seed)
            return PassOutput(loss, *finish(derivatives))

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
    """Parts of a batch, each with its own seed and its fraction of the samples."""
    for number, (part, fraction) in enumerate(split(batch, size)):
        # The low half of the seed's second word counts the passes.
        yield part, seed + tf.constant([0, number << 32], tf.int64), fraction


def _shared_pass(
    evaluate: Evaluate, apply: Apply, microbatch: int | None, replicas: Replicas
) -> Pass:
    """`batch_pass` on replicas, each of which evaluates `microbatch` samples at a time."""
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

    # Tracing numbers the collective operations, so all workers must trace them equally often. They
    # are therefore traced separately from the shares, whose sizes differ: these shapes are fixed.
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


def gradients_by(
    problem: Problem, variables: Sequence[tf.Variable], *, eager: bool = False, hold: bool = True
) -> Evaluate:
    """The loss and its gradients; with `hold` they are zero for what is pruned already.

    Traced, unless it is to be `eager`. Passes that are given the same one share its graph: it is traced
    once.
    """

    def evaluate(batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        del seed  # only the model is random
        with tf.GradientTape() as tape:
            loss = problem.objective(batch, fast_calls())
        scale = problem.objective.scale
        gradients = gradient(tape, loss, variables, scale=scale)
        return loss, problem.hold(variables, gradients) if hold else gradients

    # Each replica has variables of its own, which a function traced on another would not take.
    return evaluate if eager or replicas() else traced(evaluate)


class Taped(NamedTuple):
    """The gradients of a batch's loss and the tape over them.

    A Hessian-vector product takes no more than one pass backward through it; then the tape is spent.
    """

    tape: tf.GradientTape
    loss: tf.Tensor
    by_variable: list[tf.Tensor]


def taped(gradients: Evaluate, batch: Batch, seed: tf.Tensor) -> Taped:
    """Evaluates `gradients` under a tape.

    Where they are traced, the tape holds what one graph gives of the batch to the graph that goes back.
    """
    # A traced function is differentiated when it is called.
    with differentiating_gradients(), tf.GradientTape() as tape:
        loss, by_variable = gradients(batch, seed)
    return Taped(tape, loss, by_variable)


def keeping(gradients: Evaluate, keep: Callable[[Taped], None]) -> Evaluate:
    """`gradients`, evaluated under a tape that is given to `keep`; for whole batches."""

    def evaluate(batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        kept = taped(gradients, batch, seed)
        keep(kept)
        return kept.loss, kept.by_variable

    return evaluate


def hessian_products_by(
    problem: Problem,
    gradients: Evaluate,
    variables: Sequence[tf.Variable],
    vectors: Callable[[], Sequence[tf.Tensor]],
    kept: Callable[[], Taped | None] = lambda: None,
) -> Evaluate:
    """A function that evaluates the loss and Hu, where `vectors` returns u by variable.

    `gradients` is `gradients_by` these variables. Where `kept` gives the tape over those of the batch,
    they are not computed again.
    """

    def evaluate(batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        u = [tf.cast(part, v.dtype) for part, v in zip(vectors(), variables, strict=True)]
        # Reverse over reverse: forward over reverse takes 1.0 to 1.3 times as long
        # (`python -m benchmarks meta_gradient`).
        tape, loss, by_variable = kept() or taped(gradients, batch, seed)
        scale = problem.objective.scale
        if scale != 1.0:
            # Half precision wants u of about 1 too, and room for products larger than the gradient.
            largest = tf.reduce_max([tf.reduce_max(tf.abs(tf.cast(v, tf.float32))) for v in u])
            scale /= 64.0 * tf.where(largest > 0, largest, 1.0)
        return loss, second_derivative(tape, by_variable, variables, u, scale)

    return evaluate


def all_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Whether each tensor has only finite elements, as a boolean vector."""
    return tf.stack([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors])


class Passes:
    """Runs a method's passes over batches; checks the results, keeps losses and the checkpoint.

    Attributes:
        problem: What is scored.
        whole: Whether a pass evaluates a whole batch at once.
        eager: Whether the gradients and Hessian-vector products are computed eagerly. This is decided by
            what is asked for and not by what is left to do, so that a run which is resumed makes the
            operations of the one that was killed.
        round: Number of the round, from 0.
        losses: Loss of each batch of the round so far, in the order in which they were drawn.
        estimators: Curvature estimator that each weight got, by path; for method "diagonal".
    """

    def __init__(self, problem: Problem, count: int) -> None:
        """Prepares rounds of `count` passes each that may be eager."""
        self.problem = problem
        self.whole = evaluates_whole(problem.settings)
        self.eager = self.whole and count * problem.rounds <= EAGER_PASSES
        # On a CPU that costs more than it gains; on a GPU, which has more of it, it was not measured.
        self._optimises = bool(tf.config.list_logical_devices("GPU"))
        self.round = 0
        self._to_trace: list[Pass] = []
        self.losses: list[float] = []
        self.estimators: dict[str, str] = {}

    def begin(self, round_: int) -> None:
        """Begins a round."""
        self.round, self.losses = round_, []

    def gradients_by(self, variables: Sequence[tf.Variable], *, hold: bool = True) -> Evaluate:
        """The loss and its gradients, as `gradients_by`."""
        return gradients_by(self.problem, variables, eager=self.eager, hold=hold)

    def pass_of(self, evaluate: Evaluate, apply: Apply) -> Pass:
        """A pass that `run` can run, as `batch_pass`."""
        made = batch_pass(evaluate, apply, self.problem.settings.microbatch, eager=self.eager)
        if not self.eager:
            self._to_trace.append(made)
        return made

    def found(self, numbers: Mapping[str, LogNumbers]) -> Found:
        """The return value of the method: its scores, with the recorded losses and estimators."""
        return Found.of(numbers, tuple(self.losses), self.estimators)

    def run(
        self,
        batch_pass: Pass,
        number: int,
        batch: Batch,
        of: str = "the gradient or curvature",
    ) -> Any:
        """Runs a pass over a batch and checks the result.

        Args:
            batch_pass: Pass to run.
            number: Number of the batch in the round, from 0.
            batch: Batch to run the pass on.
            of: Name of what the pass computes for each prunable weight, for the message.

        Returns:
            The result of the pass.

        Raises:
            ValueError: The batch does not fit the model, or the loss or a derivative is NaN or
                infinite; the message names the step and the variable.
        """
        settings = self.problem.settings
        self.problem.say(self._words_for(batch_pass, number))
        step = f"step {number}"
        if self.problem.rounds > 1:
            step += f" of round {self.round + 1}"
        # Another one for each batch of all rounds.
        draw = number + self.round * (settings.steps + 1)
        try:
            with graphs_optimised(self._optimises), attributes_as_they_are():
                output = batch_pass(batch, tf.constant([settings.seed, draw], tf.int64))
        except tf.errors.InvalidArgumentError as error:
            msg = f"{step}: {error.message}"
            raise ValueError(msg) from error
        loss = float(output.loss)
        if not np.isfinite(loss):
            msg = (
                f"the loss of {step} is {loss}: the prospect diverges; lower learning_rate "
                f"(now {settings.learning_rate:g})"
            )
            raise ValueError(msg)
        finite = output.finite.numpy()
        if not finite.all():
            weights = self.problem.weights
            bad = [path for path, good in zip(weights, finite, strict=True) if not good]
            msg = f"{step}: NaN or infinity in {of} of {', '.join(bad)}"
            layer = "" if replicas() else layer_not_finite(self.problem, batch)
            if layer:
                msg += f"; it arises in layer {layer!r}"
            raise ValueError(msg)
        if number == len(self.losses):  # the first pass over this batch
            self.losses.append(loss)
        self.problem.advance()
        return output.result

    def _words_for(self, batch_pass: Pass, number: int) -> str:
        """What a pass over a batch is, in a few words."""
        if number < len(self.losses):
            words = f"back over batch {number + 1}"
        else:
            words = f"batch {number + 1}"
        if batch_pass in self._to_trace:
            self._to_trace.remove(batch_pass)
            words = f"tracing, then {words}"
        if self.problem.rounds > 1:
            words = f"round {self.round + 1} of {self.problem.rounds}, {words}"
        return words

    def resumable(self, numbers: Sequence[int], state: Sequence[tf.Variable]) -> Iterator[int]:
        """Yields the numbers of the steps to make, and saves `state` in the problem's checkpoint.

        If a killed run left a checkpoint, its finished steps are skipped: `state` is set to its
        value after them, and their batches are drawn.
        """
        checkpoint = self.problem.checkpoint
        if checkpoint is None:
            yield from numbers
            return
        resumed = checkpoint.resume(state, self.losses)
        first = 0
        if resumed is not None:
            first, self.losses, self.estimators = resumed
        for _ in numbers[:first]:
            self.problem.advance()
        for done, number in enumerate(numbers[first:], start=first + 1):
            yield number
            checkpoint.save(Progress(done, self.losses, self.estimators), state)
