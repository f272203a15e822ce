"""What `diagonal` needs to be called again and again: one trace per model, loss and shapes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from prospr_ops.curvature.estimate import Estimator
from prospr_ops.network import keras_private
from prospr_ops.network.loss import Batch, LabelRange, Loss, Objective
from prospr_ops.network.restore import preserved
from prospr_ops.network.tracing import traced

# Traces that a model keeps; the one that was used longest ago goes first.
LIMIT = 8
# A trace refers to its model, so no table beside the model could let go of it. As an attribute of the
# model, the traces are collected together with it.
_ATTRIBUTE = "_prospr_curvature"


class Trace(NamedTuple):
    """An estimator for one model, loss and shapes.

    Attributes:
        objective: The model's loss.
        labels: The accepted class indices, as `Objective.build` gives them.
        run: Function of a batch, a seed and `objective.scale`; returns the diagonals.
    """

    objective: Objective
    labels: dict[int, LabelRange]
    run: Callable[[Batch, tf.Tensor, float], list[tf.Tensor]]


def trace_of(
    model: keras.Model,
    loss: Loss | None,
    batch: Batch,
    weights: Mapping[str, keras.Variable],
    estimate: Estimator,
    probes: int,
) -> Trace:
    """Finds the model's trace for such a batch, or makes one.

    What a layer's `trainable` says belongs to what is looked for, and so does the loss that the model
    is compiled with. Other changes of a layer (a rate, a regulariser) are not seen, as in `fit`.

    Raises:
        TypeError: The loss is none.
        ValueError: The loss is unknown, or cannot be computed on such a batch.
    """
    traces: dict[Hashable, Trace] = vars(model).setdefault(_ATTRIBUTE, {})
    key = (
        estimate,
        probes,
        bool(model.compiled and model.run_eagerly),
        tuple(layer.trainable for layer in keras_private.all_layers(model)),
        tuple(map(id, weights.values())),
        str(batch.map(tf.TensorSpec.from_tensor)),
        keras_private.compiled_loss(model) if loss is None else _identity(loss),
    )
    found = traces.pop(key, None) or new_trace(model, loss, batch, weights, estimate, probes)
    traces[key] = found
    if len(traces) > LIMIT:
        del traces[next(iter(traces))]
    return found


def _identity(loss: Loss) -> Hashable:
    """What two losses have in common that are the same."""
    leaves = keras.tree.flatten(loss)
    return (
        str(keras.tree.map_structure(lambda _: "", loss)),
        *(leaf if isinstance(leaf, Hashable) else id(leaf) for leaf in leaves),
    )


def new_trace(
    model: keras.Model,
    loss: Loss | None,
    batch: Batch,
    weights: Mapping[str, keras.Variable],
    estimate: Estimator,
    probes: int,
) -> Trace:
    """Makes a trace that the model does not keep, for a graph, which keeps it itself.

    Raises:
        TypeError: The loss is none.
        ValueError: The loss is unknown, or cannot be computed on such a batch.
    """
    # Outside of a user's graph, which may not make variables.
    with tf.init_scope(), preserved(model):
        objective = Objective.of(model, loss)
        labels = objective.build(batch)
    variables = list(weights.values())

    def diagonals(batch: Batch, seed: Any, scale: float) -> list[tf.Tensor]:
        objective.scale = scale
        values = [variable.value for variable in variables]
        return estimate(objective, batch, [], values, probes, seed).diagonal

    return Trace(objective, labels, traced(diagonals))
