"""ProsPr's exact meta-gradient, without a graph through the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from prospr_ops.curvature.estimate import sum_dtype
from prospr_ops.methods.engine.descent import final_gradient, gradient_descent, set_all, zero
from prospr_ops.methods.engine.joining import joined, parted
from prospr_ops.methods.engine.passes import (
    Apply,
    Evaluate,
    Passes,
    Taped,
    all_finite,
    hessian_products_by,
    keeping,
)
from prospr_ops.methods.engine.problem import Found, LogNumbers, Problem, Scorer
from prospr_ops.network.loss import Batch
from prospr_ops.network.tracing import traced
from prospr_ops.utils.memory import free_bytes, used_bytes

# Of the memory that is free when a run begins, what it may hold to save time.
_SHARE = 0.25


@dataclass
class _Step:
    """What a step leaves behind.

    Attributes:
        batch: Its batch.
        values: Of all variables, as it began.
        kept: The tape over its gradients, as long as there is memory for it.
    """

    batch: Batch
    values: list[tf.Tensor]
    kept: Taped | None = None


def exact_scorer(problem: Problem) -> Scorer:
    """log|∂L_M(w_M)/∂c| at c = 1, for a mask c that multiplies the initial weights.

    This is ProsPr's score (Alizadeh et al., arXiv 2202.08132), which its authors get by
    backpropagation through all steps. Here a step need leave behind only its batch and the weights it
    began with, and the derivatives λ = ∂L_M/∂w and ν = ∂L_M/∂v go back from step to step:

        ν ← ν − α λ        λ ← λ + H_m ν        ν ← μ ν

    with one Hessian-vector product each. Nothing else grows with the number of steps. A step's product
    needs its gradients' tape, which is kept for the last steps, as many as `memory` has room for; for
    those before, and where a batch is evaluated in parts, the gradients are computed again. On a CPU both
    give the same bits.

    A checkpoint holds λ and ν, not the weights of all steps: a resumed run repeats the forward
    steps, a third of its work, and continues backwards from where it was.
    """
    settings = problem.settings
    passes = Passes(problem, 2 * settings.steps + 1)
    variables = [*problem.prunable(), *problem.others()]
    # Each step is differentiated in the state in which it was taken.
    state = problem.model_state()
    gradients = passes.gradients_by(variables)
    trajectory: list[_Step] = []
    descend = _descent(passes, gradients, variables, state, trajectory)
    gradient_at_the_end = final_gradient(passes, gradients)
    # λ, and ν if there is momentum, each of all variables in one: few operations, however many
    # variables there are. They are made after the first round's steps, of their memory.
    adjoint: list[tf.Variable] = []
    log_scale = tf.Variable(0.0, dtype=tf.float64)
    vector, apply_product = _adjoint_step(problem, variables, adjoint, log_scale)
    if passes.whole and not passes.eager:  # else it is called within a graph
        vector = traced(vector)
    products = hessian_products_by(
        problem, gradients, variables, vector, lambda: trajectory[-1].kept
    )
    step_back = passes.pass_of(products, apply_product)
    backwards = range(settings.steps)[::-1]

    def scores(round_: int) -> Found:
        passes.begin(round_)
        initial = problem.values_now()
        descend()
        by_weight = joined(gradient_at_the_end(), variables)
        set_all(adjoint, [by_weight, *([tf.zeros_like(by_weight)] if settings.momentum else [])])
        zero([log_scale])
        for number in passes.resumable(backwards, [*adjoint, log_scale]):
            del trajectory[number + 1 :]
            step = trajectory[-1]
            for variable, value in zip(state, step.values, strict=True):
                variable.assign(value, read_value=False)
            passes.run(step_back, number, step.batch, "the Hessian-vector product")
        trajectory.clear()
        found = {}
        by_weights = parted(tf.convert_to_tensor(adjoint[0]), variables)
        for (path, weight), by_weight in zip(initial.items(), by_weights, strict=False):
            derivative = problem.log_numbers(tf.cast(by_weight, sum_dtype(weight.dtype)))
            log = derivative.log + tf.cast(log_scale, derivative.log.dtype)
            found[path] = LogNumbers(log, derivative.sign).times(problem.log_numbers(weight))
        return passes.found(found)

    return scores


def _descent(
    passes: Passes,
    gradients: Evaluate,
    variables: list[tf.Variable],
    state: list[tf.Variable],
    trajectory: list[_Step],
) -> Callable[[], None]:
    """A function that takes the steps, and adds to `trajectory` what each leaves behind."""
    problem, settings = passes.problem, passes.problem.settings
    update, velocities = gradient_descent(variables, settings)
    memory = int(_SHARE * free_bytes()) if settings.memory is None else settings.memory

    def keep(step: Taped) -> None:
        trajectory[-1].kept = step

    if passes.whole and memory:
        gradients = keeping(gradients, keep)

    def apply(by_variable: list[tf.Tensor]) -> tuple[tf.Tensor, tuple[()]]:
        update(by_variable)
        return all_finite(by_variable[: len(problem.weights)]), ()

    take_step = passes.pass_of(gradients, apply)

    def descend() -> None:
        zero(velocities)
        largest = 1
        for number in range(settings.steps):
            batch, before = next(problem.batches), used_bytes()
            # Shares the variables' buffers: TensorFlow copies one when it is next written.
            trajectory.append(_Step(batch, [tf.identity(variable) for variable in state]))
            passes.run(take_step, number, batch)
            # What a step holds is what the process has grown by: in the first too much, as what was
            # only needed meanwhile is not all given back, and in others too little, as they take
            # what it was.
            largest = max(largest, used_bytes() - before)
            for step in trajectory[: max(0, len(trajectory) - memory // largest)]:
                step.kept = None

    return descend


def _adjoint_step(
    problem: Problem,
    variables: Sequence[tf.Variable],
    adjoint: list[tf.Variable],
    log_scale: tf.Variable,
) -> tuple[Callable[[], list[tf.Tensor]], Apply]:
    """The vector u of one step, and the function that takes λ and ν back over the step, given Hu.

    `adjoint` · exp(`log_scale`) are λ and, with momentum, ν.

    After each step λ and ν are divided by a power of two, which is exact, so they neither overflow
    nor vanish over any number of steps.
    """
    learning_rate, momentum = problem.settings.learning_rate, problem.settings.momentum

    # Derivatives by this step's velocity (total, through every use) and by its gradient.
    def by_this_velocity() -> tf.Tensor:
        weight = learning_rate * (momentum if problem.settings.nesterov else 1.0)
        by_v = -weight * adjoint[0]
        return adjoint[1] + by_v if momentum else by_v

    def by_gradient() -> list[tf.Tensor]:
        by_v = by_this_velocity()
        if problem.settings.nesterov:
            by_v -= learning_rate * adjoint[0]
        return parted(by_v, variables)

    def apply(products: list[tf.Tensor]) -> tuple[tf.Tensor, tuple[()]]:
        finite = all_finite(products[: len(problem.weights)])
        values = [adjoint[0] + joined(products, variables)]
        if momentum:
            values.append(momentum * by_this_velocity())
        scale = _power_of_two(values)
        for variable, value in zip(adjoint, values, strict=True):
            variable.assign(value / tf.cast(scale, value.dtype))
        log_scale.assign_add(tf.math.log(scale))
        return finite, ()

    return by_gradient, apply


def _power_of_two(tensors: list[tf.Tensor]) -> tf.Tensor:
    """The largest power of two, float64, not above the largest magnitude of any element.

    It is kept within float32's normal numbers; the next step divides by what is left beyond them.
    """
    largest = tf.reduce_max(
        [tf.cast(tf.reduce_max(tf.abs(tensor)), tf.float64) for tensor in tensors]
    )
    exponent = tf.bitcast(largest, tf.int64) & 0x7FF0000000000000
    return tf.clip_by_value(tf.bitcast(exponent, tf.float64), 2.0**-126, 2.0**126)
