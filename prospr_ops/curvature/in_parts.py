"""`auto_estimate` for a few batches: traced is only what has to be read off a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from prospr_ops.curvature.estimate import Estimate
from prospr_ops.curvature.ggn import closed_part
from prospr_ops.curvature.hutchinson import hutchinson_estimate
from prospr_ops.network.loss import Batch, Objective
from prospr_ops.network.tracing import traced


def auto_in_parts(
    objective: Objective,
    variables: Sequence[tf.Variable],
    weights: Sequence[tf.Variable],
    probes: int,
) -> Callable[[Batch, tf.Tensor], Estimate]:
    """Makes an `auto_estimate` of batches and seeds, to be called eagerly.

    The closed form is read off a graph of the forward pass. The weights without it get Hutchinson's
    estimate from a forward pass of its own, with its derivatives, run eagerly: for a few batches that
    costs less than to trace and optimise second derivatives. Both passes begin in the same state, so
    dropout and batch statistics are the same. Where every weight has the closed form, all of it is
    one graph, as in `auto_estimate`.
    """
    origin: list[str] = []  # of each weight, once the graph is traced

    def from_graph(batch: Batch) -> tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
        found = closed_part(objective, batch, variables, weights)
        origin[:] = found.origin
        return found.loss, found.gradients, found.diagonal

    run = traced(from_graph)

    def estimate(batch: Batch, seed: tf.Tensor) -> Estimate:
        closed: list[tf.Tensor] = []
        if not origin or not all(map(_is_random, origin)):
            state = [variable.value for variable in objective.model.non_trainable_variables]
            before = [tf.identity(variable) for variable in state]
            loss, gradients, closed = run(batch)
            if not any(map(_is_random, origin)):
                return Estimate(loss, gradients, closed, origin)
            for variable, value in zip(state, before, strict=True):
                variable.assign(value)
        rest = [w for w, name in zip(weights, origin, strict=True) if _is_random(name)]
        random = hutchinson_estimate(objective, batch, variables, rest, probes, seed)
        parts = {True: iter(random.diagonal), False: iter(closed)}
        diagonal = [next(parts[_is_random(name)]) for name in origin]
        return random._replace(diagonal=diagonal, origin=origin)

    return estimate


def _is_random(origin: str) -> bool:
    return origin.startswith("hutchinson")
