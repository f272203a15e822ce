"""What functions and operations do to channels that are zero, found by calling them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import keras
import numpy as np


@cache
def is_elementwise(activation: Callable[..., Any]) -> bool:
    """Whether a function of one tensor, such as an activation, treats each element by itself."""
    random = np.random.default_rng(0)
    values = (random.permutation(np.linspace(-9, 9, 28)).reshape(4, 7)).astype(np.float32)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras's, of a softmax over a single channel
            return _acts_alone(activation, values)
    except Exception:  # noqa: BLE001 - of a user's own function, which may expect other shapes
        return False


def _acts_alone(activation: Callable[..., Any], values: np.ndarray) -> bool:
    whole = np.asarray(activation(keras.ops.convert_to_tensor(values)))
    parts = [
        np.asarray(activation(keras.ops.convert_to_tensor(value.reshape(1, 1))))
        for value in values.flat
    ]
    return whole.shape == values.shape and np.allclose(
        whole.reshape(-1), np.concatenate(parts, axis=None), rtol=1e-4, atol=1e-6
    )


@cache
def keeps_zero(activation: Callable[..., Any]) -> bool:
    """Whether an elementwise function is 0 at 0."""
    return not np.any(np.asarray(activation(keras.ops.zeros((1, 1)))))


def zero_at_zero(node: Any) -> bool:
    """Whether an elementwise operation of a model is 0 where all tensors that it is called on are."""

    def zeros(argument: Any) -> Any:
        if not isinstance(argument, keras.KerasTensor):
            return argument
        return keras.ops.zeros((1,) * len(argument.shape), argument.dtype)

    arguments = keras.tree.map_structure(zeros, (node.arguments.args, node.arguments.kwargs))
    return not np.any(np.asarray(node.operation.call(*arguments[0], **arguments[1])))
