"""Estimators of the Hessian's diagonal.

An estimator is a function

    estimate(objective, batch, variables, weights, probes, seed) -> Estimate

that returns the loss, its gradient by `variables` and the diagonal of its Hessian by `weights`. All
come from one forward pass, so dropout masks and batch statistics are the same in each. It is called
inside a `tf.function`. To add one, add a file and a line in `ESTIMATORS`.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from prospr_ops.curvature.estimate import Estimate, Estimator
from prospr_ops.curvature.ggn import auto_estimate, ggn_estimate, ggn_mc_estimate
from prospr_ops.curvature.hutchinson import hutchinson_estimate
from prospr_ops.curvature.row_sum import row_sum_estimate
from prospr_ops.data.batches import checked
from prospr_ops.network.loss import Batch, Loss, Objective
from prospr_ops.network.restore import preserved
from prospr_ops.network.tracing import run_as_fit, traced
from prospr_ops.network.weights import Prunable, prunable_weights
from prospr_ops.utils.checks import choose
from prospr_ops.utils.settings import Settings

ESTIMATORS: dict[str, Estimator] = {
    "auto": auto_estimate,
    "ggn": ggn_estimate,
    "ggn_mc": ggn_mc_estimate,
    "hutchinson": hutchinson_estimate,
    "row_sum": row_sum_estimate,
}
# Those that look at no graph, or have a twin that runs the most of it eagerly.
EAGER = ("auto", "hutchinson", "row_sum")

__all__ = ["EAGER", "ESTIMATORS", "Estimate", "Estimator", "diagonal", "find"]


def find(name: str) -> Estimator:
    """Finds an estimator by its name.

    Args:
        name: A key of `ESTIMATORS`.

    Returns:
        The estimator.

    Raises:
        ValueError: There is no such estimator; the message lists the names.

    Examples:
        >>> import prospr_ops as po
        >>> po.curvature.find("ggn").__name__
        'ggn_estimate'
    """
    return ESTIMATORS[choose("curvature", name, ESTIMATORS)]


def diagonal(
    model: keras.Model,
    x: Any,
    y: Any,
    *,
    loss: Loss | None = None,
    estimator: str = "auto",
    probes: int = 1,
    seed: int | None = None,
    prunable: Prunable | None = None,
) -> dict[str, tf.Tensor]:
    """The diagonal of the Hessian of the training loss on one batch.

    Args:
        model: A built Keras model; it is unchanged.
        x: Inputs, with samples along the first axis.
        y: Targets, with samples along the first axis.
        loss: Training loss: a Keras loss, its name or a function of (y, prediction); None for the
            loss that the model is compiled with. The model's regularisation losses are added.
        estimator: "ggn" (closed form; exact where the model is piecewise linear and treats each
            sample separately), "ggn_mc" (closed form with random columns), "hutchinson" (unbiased
            for any model), "row_sum" (H·1, which is *not* the diagonal) or "auto" ("ggn" for every
            weight that has the closed form, "hutchinson" for the others).
        probes: Random vectors that a random estimator averages over; ≥ 1.
        seed: Seed for the random vectors; None draws one.
        prunable: Weights to return: None for the kernels of Dense, EinsumDense, Embedding,
            convolution, transposed, depthwise and separable convolution layers; a function (layer,
            variable) -> bool; or variable paths, in which `*` and `?` are wildcards.

    Returns:
        A tensor in the shape of each weight, by variable path: float64 for a float64 weight, else
        float32. Deterministic for a given seed and number of intra-op threads.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, the model is not built, the data does not fit the
            model, or the curvature is not finite.

    Examples:
        >>> import keras
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
        >>> x, y = np.array([[1.0, 3.0]], np.float32), np.array([[0.0]], np.float32)
        >>> (curvature,) = po.curvature.diagonal(model, x, y, loss="mse").values()
        >>> curvature.numpy().round(3).tolist()  # 2 x², for the loss (w · x + b)²
        [[2.0], [18.0]]
    """
    estimate = find(estimator)
    settings = Settings.of(curvature=estimator, probes=probes, seed=seed)
    weights = prunable_weights(model, prunable)
    objective = Objective.of(model, loss)
    batch = Batch(x, y).map(tf.convert_to_tensor)
    with preserved(model), run_as_fit(model):
        batch = next(checked([batch], objective))
        values = [variable.value for variable in weights.values()]
        run = traced(
            lambda: estimate(
                objective, batch, [], values, settings.probes, tf.constant([settings.seed, 0])
            )
        )
        found = run()
    for path, values in zip(weights, found.diagonal, strict=True):
        if not bool(tf.reduce_all(tf.math.is_finite(values))):
            msg = f"the curvature of {path} holds NaN or infinity"
            raise ValueError(msg)
    return dict(zip(weights, found.diagonal, strict=True))
