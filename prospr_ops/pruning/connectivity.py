"""Whether a pruned network's output still depends on its input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from prospr_ops.network.restore import preserved
from prospr_ops.network.weights import owned_weights


def depends_on_input(model: keras.Model, masks: Mapping[str, np.ndarray], inputs: Any) -> bool:
    """Whether some path of kept weights leads from the input to the output.

    A residual branch or a gate may lose all of its weights, and the network still computes something.
    It is tried out and not derived, so that it holds for layers of every kind: kept weights become
    positive averages, which no ReLU stops, whatever their values are (a last layer of zeros, as some
    initialise it, is a path too), and two evaluations on different samples are compared.

    Args:
        model: The model; it is left unchanged.
        masks: Boolean array by variable path, True for a weight that is kept.
        inputs: A batch of at least two different samples, as the model takes it.

    Returns:
        False only if the outputs are the same whatever the sample.
    """
    random = np.random.default_rng(0)
    with preserved(model):
        for path, (_, variable) in owned_weights(model).items():
            if path in masks:
                mask = masks[path]
                kept = mask.sum(axis=tuple(range(mask.ndim - 1)))  # per unit
                values = mask * random.uniform(0.5, 1.5, mask.shape) / np.maximum(1, kept)
                variable.assign(values.astype(np.float32))
            elif not np.any(variable.numpy()):  # as a bias, or the gamma of a residual branch
                variable.assign(tf.ones_like(variable.value))
        # Every sample in the same place of both batches: equal numbers come out equal to the bit.
        others = keras.tree.map_structure(lambda tensor: tf.roll(tensor, 1, axis=0), inputs)
        one, other = (keras.tree.flatten(model(x, training=False)) for x in (inputs, others))
    return any(bool(tf.reduce_any(a != b)) for a, b in zip(one, other, strict=True))


def sampled(specs: Any) -> Any:
    """Random inputs of two samples for a model that takes these, as `input_specs` says.

    Numbers from 0 to 1, and of integers 0 and 1. None where there are none: of text, or unknown.
    """
    if specs is None or any(spec.dtype == tf.string for spec in keras.tree.flatten(specs)):
        return None

    def draw(spec: tf.TensorSpec) -> tf.Tensor:
        shape = (max(2, spec.shape[0]), *spec.shape[1:])
        values = np.random.default_rng(0).uniform(0, 1, shape)
        return tf.cast(values if spec.dtype.is_floating else np.round(values), spec.dtype)

    return keras.tree.map_structure(draw, specs)
