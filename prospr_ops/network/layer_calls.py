"""The inputs and outputs of layers in one forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import tensorflow as tf


class Call(NamedTuple):
    """One call of a layer.

    Attributes:
        inputs: Input of the layer, after Keras cast it to the layer's dtype.
        outputs: Output of the layer before its activation function.
    """

    inputs: tf.Tensor
    outputs: tf.Tensor


@contextmanager
def recorded_calls(layers: Iterable[keras.layers.Layer]) -> Iterator[dict[int, list[Call]]]:
    """Records every call of the layers while the context is open.

    A layer's `call` and `activation` are replaced on the instance, bypassing Keras's attribute
    tracking, and restored on exit.

    Args:
        layers: Layers whose calls are recorded.

    Yields:
        Calls in their order, by the `id` of the layer; filled while the context is open.
    """
    calls: dict[int, list[Call]] = {id(layer): [] for layer in layers}
    shadowed: list[tuple[keras.layers.Layer, str, bool, Any]] = []

    def shadow(layer: keras.layers.Layer, name: str, replacement: Any) -> None:
        own = vars(layer)
        shadowed.append((layer, name, name in own, own.get(name)))
        object.__setattr__(layer, name, replacement)

    try:
        for layer in layers:
            _listen(layer, calls[id(layer)], shadow)
        yield calls
    finally:
        for layer, name, was_own, value in reversed(shadowed):
            if was_own:
                object.__setattr__(layer, name, value)
            else:
                object.__delattr__(layer, name)


def _listen(layer: keras.layers.Layer, calls: list[Call], shadow: Any) -> None:
    plain_call = layer.call
    activation = getattr(layer, "activation", None)
    before_activation: list[tf.Tensor] = []

    def recording_call(inputs: tf.Tensor, *args: Any, **kwargs: Any) -> tf.Tensor:
        before_activation.clear()
        outputs = plain_call(inputs, *args, **kwargs)
        calls.append(Call(inputs, before_activation[-1] if before_activation else outputs))
        return outputs

    if activation is not None:

        def recording_activation(outputs: tf.Tensor) -> tf.Tensor:
            before_activation.append(outputs)
            return activation(outputs)

        shadow(layer, "activation", recording_activation)
    shadow(layer, "call", recording_call)
