"""The closed form: the diagonal of the generalised Gauss-Newton matrix, from one forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import keras
import tensorflow as tf

from prospr_ops.curvature.backpropagation import Backpropagation, leading_to
from prospr_ops.curvature.contraction import ClosedForm, Layer, closed_form
from prospr_ops.curvature.estimate import Estimate, gradient, sum_dtype
from prospr_ops.curvature.hutchinson import mean_of_probes
from prospr_ops.curvature.loss_factors import (
    LossFactor,
    NotApplicable,
    loss_factor,
    loss_with_closed_form,
)
from prospr_ops.curvature.validity import Validity, judge
from prospr_ops.network import keras_private
from prospr_ops.network.layer_calls import Call, recorded_calls
from prospr_ops.network.loss import Batch, LossCall, Objective, recorded_loss

# Limit in bytes of the gradients, at all layers, of the columns backpropagated together.
COLUMN_BYTES = 5 * 2**24


class _Covered(NamedTuple):
    """A layer whose kernels get the closed form, and how it relates to the Hessian's diagonal."""

    layer: Layer
    form: ClosedForm
    calls: list[Call]
    worth: str


# A function of a loss's factor; returns the number of columns and a function of their indices.
_Columns = Callable[[LossFactor], tuple[int, Callable[[tf.Tensor], tf.Tensor]]]


def ggn_estimate(
    objective: Objective,
    batch: Batch,
    variables: Sequence[tf.Variable],
    weights: Sequence[tf.Variable],
    probes: int,
    seed: tf.Tensor,
) -> Estimate:
    """Computes h = Σ_n Σ_c (Σ_t a s)² over all columns c of the loss's factor.

    The loss Hessian at the model's output is S Sᵀ for each sample n; s are the columns of S
    backpropagated to a layer's output, a its inputs, t its positions (pixels, time steps). Where
    the model is piecewise linear between the layer and the output and uses the weight once, this is
    exactly the diagonal of the Hessian; otherwise it is that of the generalised Gauss-Newton matrix
    (Schraudolph, 2002; for the contraction Dangel, Kunstner and Hennig, "BackPACK", 2020).

    Raises:
        ValueError: A weight has no closed form; the message names the weight and the reason.
    """
    del probes, seed  # nothing here is random
    return _estimate("ggn", objective, batch, variables, weights, _all_columns, None)


def ggn_mc_estimate(
    objective: Objective,
    batch: Batch,
    variables: Sequence[tf.Variable],
    weights: Sequence[tf.Variable],
    probes: int,
    seed: tf.Tensor,
) -> Estimate:
    """`ggn` with `probes` random columns: unbiased, at a cost independent of the number of classes.

    For a cross-entropy a column is p − e_y with y drawn from p, whose outer product has the mean
    diag(p) − p pᵀ; for a squared error it is a random sign vector.

    Raises:
        ValueError: A weight has no closed form; the message names the weight and the reason.
    """

    def random_columns(factor: LossFactor) -> tuple[int, Callable[[tf.Tensor], tf.Tensor]]:
        def take(indices: tf.Tensor) -> tf.Tensor:
            drawn = [
                factor.sample(tf.random.experimental.stateless_fold_in(seed, i, alg="philox"))
                for i in tf.unstack(indices)
            ]
            return tf.stack(drawn) / probes**0.5

        return probes, take

    return _estimate("ggn_mc", objective, batch, variables, weights, random_columns, None)


def auto_estimate(
    objective: Objective,
    batch: Batch,
    variables: Sequence[tf.Variable],
    weights: Sequence[tf.Variable],
    probes: int,
    seed: tf.Tensor,
) -> Estimate:
    """`ggn` for every weight that has the closed form, `hutchinson` for the others, in one pass.

    Hutchinson's sign vectors are zero on the weights that have the closed form, which lowers the
    variance of the others. A weight whose closed form is the Gauss-Newton diagonal but not the
    Hessian's, because the model is curved, gets the Gauss-Newton diagonal.
    """

    def fallback(
        tape: tf.GradientTape, gradients: Sequence[tf.Tensor], rest: Sequence[tf.Variable]
    ) -> list[tf.Tensor]:
        return mean_of_probes(tape, gradients, rest, probes, seed, objective.scale)

    return _estimate("ggn", objective, batch, variables, weights, _all_columns, fallback)


def closed_part(
    objective: Objective,
    batch: Batch,
    variables: Sequence[tf.Variable],
    weights: Sequence[tf.Variable],
) -> Estimate:
    """`auto_estimate` as far as it is read off the graph, for `prospr_ops.curvature.in_parts`.

    Where weights lack the closed form, nothing is differentiated but the closed form: there are no
    gradients, `diagonal` leaves these weights out, and `origin` says which they are.
    """
    return _estimate("ggn", objective, batch, variables, weights, _all_columns, _elsewhere)


def _all_columns(factor: LossFactor) -> tuple[int, Callable[[tf.Tensor], tf.Tensor]]:
    return factor.columns, factor.column


def _estimate(
    name: str,
    objective: Objective,
    batch: Batch,
    variables: Sequence[tf.Variable],
    weights: Sequence[tf.Variable],
    columns: _Columns,
    fallback: Callable[..., list[tf.Tensor]] | None,
) -> Estimate:
    """The closed form where a weight has it; elsewhere `fallback`, or an error if that is None."""
    layers = _layers_of(objective.model, weights)
    no_loss = None
    recording: AbstractContextManager[list[LossCall]] = nullcontext([])
    if objective.compiled is not None and not objective.losses():
        objective.build(batch)
    try:
        if tf.executing_eagerly():
            msg = "the model runs eagerly, and the closed form is read off a graph"
            raise NotApplicable(msg)
        loss = loss_with_closed_form(objective)
        recording = recorded_loss(loss)
    except NotApplicable as reason:
        no_loss = reason

    with (
        tf.GradientTape(persistent=True) as outer,
        tf.GradientTape(persistent=True) as tape,
        recorded_calls(layers) as calls,
        recording as loss_calls,
    ):
        total = objective(batch)

    found: dict[int, tf.Tensor] = {}
    worth: dict[int, str] = {}
    reasons: dict[int, str] = {}
    try:
        if no_loss is not None:
            raise no_loss
        if len(loss_calls) != 1:
            msg = "its loss is called several times"
            raise NotApplicable(msg)
        loss_call = loss_calls[0]
        scale = gradient(tape, total, [loss_call.losses])[0]
        factor = loss_factor(loss, loss_call, scale)
        curvature_of = _regularisation(objective.model)
        covered = _covered(layers, calls, factor.output, reasons)
        for item, diagonals in zip(covered, _contract(covered, factor, columns), strict=True):
            for kernel, diagonal in zip(_kernels(item.layer, item.form), diagonals, strict=True):
                found[id(kernel)] = diagonal + tf.cast(curvature_of(kernel), diagonal.dtype)
                worth[id(kernel)] = item.worth
    except NotApplicable as reason:
        reasons = {id(weight): str(reason) for weight in weights}

    rest = [i for i, weight in enumerate(weights) if id(weight) not in found]
    origin = [
        f"{name} ({worth[key]})" if key in found else f"hutchinson ({reasons.get(key, _NO_FORM)})"
        for key in map(id, weights)
    ]
    if rest and fallback is None:
        lacking = "; ".join(
            f"{_path(objective.model, weights[i])}: {reasons.get(id(weights[i]), _NO_FORM)}"
            for i in rest
        )
        msg = f"curvature {name!r} has no closed form for {lacking}. Use 'auto' or 'hutchinson'"
        raise ValueError(msg)
    if rest and fallback is _elsewhere:
        return Estimate(total, [], [found[key] for key in map(id, weights) if key in found], origin)
    with outer:
        gradients = gradient(tape, total, [*variables, *weights], scale=objective.scale)
    if rest and fallback is not None:
        by_weight = gradients[len(variables) :]
        estimates = fallback(outer, [by_weight[i] for i in rest], [weights[i] for i in rest])
        found.update((id(weights[i]), values) for i, values in zip(rest, estimates, strict=True))
    diagonal = [found[id(weight)] for weight in weights]
    return Estimate(total, gradients[: len(variables)], diagonal, origin)


def _elsewhere(*_: object) -> list[tf.Tensor]:
    """A fallback that is not called: the weights without a closed form are estimated by the caller."""
    return []


_NO_FORM = "its kind of layer has no closed form"


def _kernels(layer: Layer, form: ClosedForm) -> list[tf.Variable]:
    return [getattr(layer, kernel).value for kernel in form.kernels]


def _layers_of(model: keras.Model, weights: Sequence[tf.Variable]) -> dict[Layer, ClosedForm]:
    """The layers that have a closed form and own at least one of the weights."""
    wanted = {id(weight) for weight in weights}
    forms = {layer: closed_form(layer) for layer in keras_private.all_layers(model)}
    return {
        layer: form
        for layer, form in forms.items()
        if form and layer.built and wanted & {id(kernel) for kernel in _kernels(layer, form)}
    }


def _path(model: keras.Model, weight: tf.Variable) -> str:
    return next(v.path for v in model.trainable_variables if v.value is weight)


def _regularisation(model: keras.Model) -> Callable[[tf.Variable], float]:
    """A function that gives the second derivative of the regularisation loss by a weight.

    Raises:
        NotApplicable: The model adds losses that have no closed form.
    """
    regularised = {
        id(variable.value): variable.regularizer
        for variable in model.trainable_variables
        if variable.regularizer is not None
    }
    kinds = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
    if len(model.losses) != len(regularised) or any(
        type(regularizer) not in kinds for regularizer in regularised.values()
    ):
        msg = "the model adds losses other than L1 and L2 of its weights"
        raise NotApplicable(msg)
    return lambda weight: 2.0 * float(getattr(regularised.get(id(weight)), "l2", 0.0))


def _covered(
    layers: dict[Layer, ClosedForm],
    calls: dict[int, list[Call]],
    output: tf.Tensor,
    reasons: dict[int, str],
) -> list[_Covered]:
    """The layers whose recorded calls the closed form fits; `reasons` gets why others do not."""
    leading = leading_to(output)
    usable: list[tuple[Layer, ClosedForm]] = []
    for layer, form in layers.items():
        try:
            _check_calls(layer, form, calls[id(layer)], output, leading)
            usable.append((layer, form))
        except NotApplicable as reason:
            reasons.update({id(kernel): str(reason) for kernel in _kernels(layer, form)})

    sources = [call.outputs for layer, _ in usable for call in calls[id(layer)]]
    verdicts = iter(judge(sources, output))
    covered = []
    for layer, form in usable:
        own = calls[id(layer)]
        verdict = max([next(verdicts) for _ in own])
        if verdict.validity == Validity.NOT_APPLICABLE:
            reasons.update({id(kernel): verdict.reason for kernel in _kernels(layer, form)})
            continue
        if len(own) > 1:
            worth = "Gauss-Newton: it is used several times"
        elif verdict.validity == Validity.EXACT:
            worth = "exact"
        else:
            worth = f"Gauss-Newton: {verdict.reason}"
        covered.append(_Covered(layer, form, own, worth))
    return covered


def _check_calls(
    layer: Layer, form: ClosedForm, calls: list[Call], output: tf.Tensor, leading: set[str]
) -> None:
    if not calls:
        msg = "its layer is not called"
        raise NotApplicable(msg)
    samples = output.shape[0]
    for call in calls:
        if call.outputs.graph is not output.graph:
            msg = "its layer is called inside a loop or a function"
            raise NotApplicable(msg)
        if not isinstance(call.inputs, tf.Tensor):
            msg = f"its layer's input is a {type(call.inputs).__name__}"
            raise NotApplicable(msg)
        if samples is None or not call.inputs.shape[0] == call.outputs.shape[0] == samples:
            msg = "the first axis of its layer's input is not the batch"
            raise NotApplicable(msg)
        if not (call.inputs.shape.is_fully_defined() and call.outputs.shape.is_fully_defined()):
            msg = f"its layer's shapes, {call.inputs.shape} to {call.outputs.shape}, are not known"
            raise NotApplicable(msg)
    for kernel in _kernels(layer, form):
        readers = output.graph.capture(kernel.handle).consumers()
        used = sum(call.outputs.op.name in leading for call in calls)
        if sum(reader.name in leading for reader in readers) > used:
            msg = "it is used outside its layer too"
            raise NotApplicable(msg)
    # Raises if the contraction cannot take the layer; the graph never runs this.
    no_factors = [tf.zeros([1, *call.outputs.shape], call.outputs.dtype) for call in calls]
    form.contract(layer, calls, no_factors)


def _contract(
    covered: Sequence[_Covered], factor: LossFactor, columns: _Columns
) -> list[list[tf.Tensor]]:
    """Σ_n Σ_c (Σ_t a s)² for each kernel of each layer, over all columns, some at a time."""
    if not covered:
        return []
    outputs = [call.outputs for item in covered for call in item.calls]
    count, take = columns(factor)
    backpropagate = Backpropagation(factor.output, outputs)
    parts = math.ceil(count / max(1, COLUMN_BYTES // backpropagate.bytes_per_column()))
    # Among parts down to half that size, the size that pads the fewest zero columns.
    parts = min(range(parts, 2 * parts + 1), key=lambda parts: -(-count // parts) * parts)
    size = math.ceil(count / parts)

    def sums_of(indices: tf.Tensor) -> list[tf.Tensor]:
        # The last part may go past the end; columns there are 0.
        chosen = take(tf.minimum(indices, count - 1))
        chosen *= tf.cast(indices < count, chosen.dtype)[:, None, None]
        gradients = iter(backpropagate(tf.cast(chosen, factor.output.dtype)))
        return [
            diagonal
            for item in covered
            for diagonal in item.form.diagonals(
                item.layer, item.calls, [next(gradients) for _ in item.calls]
            )
        ]

    if parts == 1:
        sums = sums_of(tf.range(size))
    else:
        # All parts are in the loop: a part outside could run, and hold memory, at the same time.
        zeros = [
            tf.zeros(kernel.shape, sum_dtype(item.calls[0].outputs.dtype))
            for item in covered
            for kernel in _kernels(item.layer, item.form)
        ]

        def add_part(part: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return (part + 1, *map(tf.add, sums, sums_of(part * size + tf.range(size))))

        _, *sums = tf.while_loop(
            lambda part, *_: part < parts, add_part, (tf.constant(0), *zeros), parallel_iterations=1
        )
    rest = iter(sums)
    return [[next(rest) for _ in item.form.kernels] for item in covered]
