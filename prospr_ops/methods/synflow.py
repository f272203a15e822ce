"""Synaptic flow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from prospr_ops.curvature.estimate import gradient
from prospr_ops.methods.engine.distribution import on_replicas
from prospr_ops.methods.engine.problem import Found, LogNumbers, Problem
from prospr_ops.network import keras_private
from prospr_ops.network.tracing import traced

# Below this part of R, what the weights add to it is rounding.
_NOISE = 1e-9


def synflow_scores(problem: Problem) -> Found:
    """log|∂R/∂θ ⊙ θ| for R = 1ᵀ(Π_l |θ_l|)1, in as many iterations as the paper's where it prunes.

    R is the sum of the model's outputs on one input of ones, in inference mode, with the absolute
    value of every variable and without the activation functions of its layers (`activation=`, and the
    ceiling of ReLU6): the equation has none, and ReLU on positive numbers is the identity. No data is
    looked at.

    With a sparsity known, that is in `prune`, weights go in n = 100 iterations, in each of which the
    scores are taken anew: after iteration k the density is ρ^(k/n), ρ = 1 − sparsity. The scores
    are the last iteration's, −inf for what went before. In `score` they are those of the whole
    model, which is the first iteration's: to select by them is SynFlow in one shot.

    Computed in float64 whatever the model's dtype, and as the gradient of log R: a deep model has an
    R far beyond float32. (Tanaka, Kunin, Yamins and Ganguli, "SynFlow", arXiv 2006.05467, equation 5
    and algorithm 1.)

    Raises:
        ValueError: The model takes integers or looks words up, the shape of its input is not known, or
            R is zero, infinite or independent of the weights.
    """
    model = problem.objective.model
    ones = _ones(model)
    for variable in model.variables:
        if keras.backend.is_float_dtype(variable.dtype):
            variable.assign(tf.abs(variable.value))
    with _linear_in_float64(model):
        scores_now = _scorer(problem, ones)
        if problem.sparsity is not None:
            density = 1.0 - problem.sparsity
            for iteration in range(1, problem.rounds):
                problem.mask(scores_now(), 1.0 - density ** (iteration / problem.rounds))
                problem.advance()
        return scores_now()


def _scorer(problem: Problem, ones: Any) -> Callable[[], Found]:
    """A function that scores the weights as they are, all of them positive or zero."""
    model, weights = problem.objective.model, problem.prunable()

    @traced
    def flow() -> tuple[tf.Tensor, list[tf.Tensor]]:
        """R, and its gradient divided by |R|."""
        with tf.GradientTape() as tape:
            with keras_private.AutocastScope("float64"):
                outputs = keras.tree.flatten(model(ones, training=False))
            total = tf.add_n([tf.reduce_sum(tf.cast(output, tf.float64)) for output in outputs])
        scale = tf.math.divide_no_nan(tf.constant(1.0, tf.float64), tf.abs(total))
        return total, gradient(tape, total, weights, scale)

    def scores() -> Found:
        total, gradients = on_replicas(flow)
        share = sum(
            float(tf.reduce_sum(tf.abs(tf.cast(weight * g, tf.float64))))
            for weight, g in zip(weights, gradients, strict=True)
        )
        if not np.isfinite(total) or not share > _NOISE:  # NaN too
            msg = (
                "synflow needs a sum of outputs, on an input of ones and with all weights positive, "
                f"that is finite, not zero and depends on the weights; it is {float(total):g}. Does "
                f"model {model.name!r} end in a Softmax layer, or is no path through it left?"
            )
            raise ValueError(msg)
        log_total = tf.math.log(tf.abs(total))
        numbers = {}
        for (path, weight), g in zip(problem.log_weights().items(), gradients, strict=True):
            product = problem.log_numbers(g).times(weight)
            log = product.log + tf.cast(log_total, product.log.dtype)
            numbers[path] = LogNumbers(log, product.sign)
        return Found.of(numbers)

    return scores


def _ones(model: keras.Model) -> Any:
    """One sample of ones, or a batch where its size is fixed, in the structure the model takes.

    Raises:
        ValueError: As `synflow`.
    """
    lookups = [
        layer.name
        for layer in keras_private.all_layers(model)
        if isinstance(layer, keras.layers.Embedding)
    ]
    if lookups:
        msg = f"synflow needs a model of numbers: an input of ones means nothing to {lookups}"
        raise ValueError(msg)
    inputs = keras_private.input_structure(model)
    if inputs is None:
        config = model.get_build_config() or {}
        inputs = keras.tree.map_shape_structure(keras.KerasTensor, config.get("input_shape"))

    def ones_like(tensor: keras.KerasTensor | None) -> tf.Tensor:
        if tensor is None or None in tensor.shape[1:]:
            msg = (
                f"synflow needs inputs of a fixed shape; of model {model.name!r} it is "
                f"{None if tensor is None else tensor.shape}"
            )
            raise ValueError(msg)
        if not keras.backend.is_float_dtype(tensor.dtype):
            msg = f"synflow needs inputs of floats; {tensor.name!r} is {tensor.dtype}"
            raise ValueError(msg)
        return tf.ones((tensor.shape[0] or 1, *tensor.shape[1:]), tensor.dtype)

    return keras.tree.map_structure(ones_like, inputs, none_is_leaf=True)


@contextmanager
def _linear_in_float64(model: keras.Model) -> Iterator[None]:
    """All layers compute in float64 and without activation functions while the context is open.

    Set on the instances, past Keras's attribute tracking, and as before on exit.
    """
    policy = keras.DTypePolicy("float64")
    before: list[tuple[keras.layers.Layer, str, Any]] = []
    try:
        for layer in keras_private.all_layers(model):
            replacements: dict[str, Any] = {keras_private.DTYPE_POLICY: policy}
            if callable(vars(layer).get("activation")):
                replacements["activation"] = keras.activations.linear
            if isinstance(layer, keras.layers.ReLU):
                replacements["max_value"] = None  # ReLU6 would end the flow at 6
            for name, value in replacements.items():
                before.append((layer, name, vars(layer)[name]))
                object.__setattr__(layer, name, value)
        yield
    finally:
        for layer, name, value in reversed(before):
            object.__setattr__(layer, name, value)
