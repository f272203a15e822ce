"""SynFlow: synaptic flow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from prospr_ops.curvature.estimate import gradient
from prospr_ops.methods.engine.distribution import on_replicas
from prospr_ops.methods.engine.problem import Found, LogNumbers, Problem, Scorer
from prospr_ops.network import keras_private
from prospr_ops.network.tracing import traced

# Below this fraction of R, the weights' share is rounding.
_NOISE = 1e-9


def synflow_scorer(problem: Problem) -> Scorer:
    """log|∂R/∂θ ⊙ θ| for R = 1ᵀ(Π_l |θ_l|)1.

    R is the sum of the model's outputs on one input of ones, in inference mode, with the absolute
    value of every variable and without the layers' activation functions (`activation=`, and the
    ceiling of ReLU6): the equation has none, and ReLU is the identity on positive numbers. No data
    is used.

    The paper's algorithm prunes in n = 100 iterations, which are the method's `rounds` in `prune`.
    `score` returns the scores of the whole model, the first round's; selecting by them is one-shot
    SynFlow.

    Computed in float64 whatever the model's dtype, as the gradient of log R, since R of a deep
    model exceeds float32's range. (Tanaka, Kunin, Yamins and Ganguli, "SynFlow", arXiv 2006.05467,
    equation 5 and algorithm 1.)

    Raises:
        ValueError: The model takes integers or has embeddings, the shape of its input is unknown,
            or R is zero, infinite or independent of the weights.
    """
    model = problem.objective.model
    weights, ones = problem.prunable(), _ones(model)
    floats = [v for v in model.variables if keras.backend.is_float_dtype(v.dtype)]

    @traced
    def flow() -> tuple[tf.Tensor, list[tf.Tensor]]:
        """R, and its gradient divided by |R|."""
        with tf.GradientTape() as tape:
            with keras_private.AutocastScope("float64"):
                outputs = keras.tree.flatten(model(ones, training=False))
            total = tf.add_n([tf.reduce_sum(tf.cast(output, tf.float64)) for output in outputs])
        scale = tf.math.divide_no_nan(tf.constant(1.0, tf.float64), tf.abs(total))
        return total, gradient(tape, total, weights, scale)

    def scores(_: int) -> Found:
        for variable in floats:
            variable.assign(tf.abs(variable.value))
        with _linear_in_float64(model):
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
        ValueError: The model takes integers or has embeddings, or the shape of its input is
            unknown.
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
    """Lets all layers compute in float64 without activation functions while the context is open.

    The attributes are set on the instances, bypassing Keras's attribute tracking, and restored on
    exit.
    """
    policy = keras.DTypePolicy("float64")
    before: list[tuple[keras.layers.Layer, str, Any]] = []
    try:
        for layer in keras_private.all_layers(model):
            replacements: dict[str, Any] = {keras_private.DTYPE_POLICY: policy}
            if callable(vars(layer).get("activation")):
                replacements["activation"] = keras.activations.linear
            if isinstance(layer, keras.layers.ReLU):
                replacements["max_value"] = None  # ReLU6 would cap the flow at 6
            for name, value in replacements.items():
                before.append((layer, name, vars(layer)[name]))
                object.__setattr__(layer, name, value)
        yield
    finally:
        for layer, name, value in reversed(before):
            object.__setattr__(layer, name, value)
