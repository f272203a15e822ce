"""One forward pass of a model and of what is made of it, compared before it is handed over."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from prospr_ops.delivery.sampling import candidates
from prospr_ops.network import keras_private
from prospr_ops.network.layer_calls import recorded_calls
from prospr_ops.network.restore import preserved

# Differences that rounding makes, as a share of an output's largest value: of the same operations,
# of sums in another order, and of other implementations.
COPY, SMALLER, FILE = 1e-5, 1e-4, 1e-3
# The same for a model that computes with half precision, or on a GPU, which rounds factors.
_COARSE = 3e-2


@dataclass(frozen=True)
class Pass:
    """One forward pass of a model in inference mode.

    Attributes:
        inputs: A structure of arrays per argument of the model.
        outputs: Its outputs, flattened.
        draws: Whether the outputs depend on what random layers of the model draw.
    """

    inputs: list[Any]
    outputs: list[np.ndarray]
    draws: bool


def forward_pass(model: keras.Model, what: str) -> Pass | None:
    """Calls a model on sampled inputs, and leaves it unchanged.

    Args:
        model: A built model.
        what: What cannot be compared without it, for the warning.

    Returns:
        None, with a warning, if nothing to call it on was found or its outputs are never the same.
    """
    unusual = None
    try:
        for inputs in candidates(model):
            try:
                outputs = outputs_of(model, inputs)
            except Exception as error:  # noqa: BLE001 - raised by a model's own code
                reason: object = error
                continue
            if difference(outputs, outputs_of(model, inputs), rounding(model, COPY)):
                reason = "it gives other outputs each time"
                break
            found = Pass(inputs, outputs, _draws(model, inputs))
            if all(map(_finite, outputs)):
                return found
            unusual = unusual or found
    except ValueError as error:  # the shape of the inputs is not known
        reason = error
    if unusual is None:
        warnings.warn(
            f"{what}: model {model.name!r} was not compared with what is made of it: "
            f"{' '.join(str(reason).split())}",
            stacklevel=4,
        )
    return unusual


def outputs_of(model: keras.Model, inputs: list[Any]) -> list[np.ndarray]:
    """The outputs of a model in inference mode from its first state, which leaves it unchanged."""
    with preserved(model), states_reset(model):
        return _outputs(model, inputs)


@contextlib.contextmanager
def states_reset(model: keras.Model) -> Iterator[None]:
    """Resets the states of stateful recurrent layers meanwhile: Keras keeps them out of its files."""
    states = [
        state
        for layer in keras_private.all_layers(model)
        if getattr(layer, "stateful", False)
        for state in keras.tree.flatten(getattr(layer, "states", None))
        if isinstance(state, keras.Variable)
    ]
    values = [tf.identity(state.value) for state in states]
    try:
        for state in states:
            state.assign(keras.ops.zeros_like(state))
        yield
    finally:
        for state, value in zip(states, values, strict=True):
            state.assign(value)


def _outputs(model: keras.Model, inputs: list[Any]) -> list[np.ndarray]:
    tensors = keras.tree.map_structure(tf.convert_to_tensor, inputs)
    return arrays(model(*tensors, training=False))


def arrays(outputs: Any) -> list[np.ndarray]:
    """A structure of tensors as arrays."""
    return [np.asarray(value) for value in keras.tree.flatten(outputs)]


def _draws(model: keras.Model, inputs: list[Any]) -> bool:
    """Whether outputs differ as the states of the model's random layers move on."""
    if not keras_private.seed_states(model):
        return False
    with preserved(model):
        with states_reset(model):
            first = _outputs(model, inputs)
        with states_reset(model):
            second = _outputs(model, inputs)
    return bool(difference(first, second, rounding(model, COPY)))


def check_copy(model: keras.Model, copy: keras.Model, what: str, tolerance: float = COPY) -> None:
    """Compares a model with a second one made of it.

    Raises:
        ValueError: The second one computes something else, or nothing.
    """
    sample = forward_pass(model, what)
    where = found = ""
    if len(copy.weights) != len(model.weights):  # layers that shared one have one each
        found = f"it has {len(copy.weights)} weights instead of {len(model.weights)}"
    elif sample is not None:
        limit = rounding(model, tolerance)
        try:
            found = difference(sample.outputs, outputs_of(copy, sample.inputs), limit)
            if found:
                where = _first_difference(model, copy, sample.inputs, limit)
        except Exception as error:  # noqa: BLE001 - raised by a layer's own code
            found = f"it cannot be called: {' '.join(str(error).split())}"
    if found:
        msg = (
            f"{what}: what is made of model {model.name!r} is something else, so it is not "
            f"handed over: {where}{found}"
        )
        raise ValueError(msg)


def rounding(model: keras.Model, tolerance: float) -> float:
    """The share of an output's largest value that rounding can make in a model."""
    half = any(
        getattr(layer, "compute_dtype", None) in ("float16", "bfloat16")
        for layer in keras_private.all_layers(model)
    )
    return _COARSE if half or tf.config.list_logical_devices("GPU") else tolerance


def difference(want: list[np.ndarray], got: list[np.ndarray], tolerance: float) -> str:
    """How outputs differ, in words; empty if they do not, up to rounding."""
    if len(want) != len(got):
        return f"{len(got)} outputs instead of {len(want)}"
    for number, (wanted, found) in enumerate(zip(want, got, strict=True)):
        name = f"output {number}" if len(want) > 1 else "its output"
        if wanted.shape != found.shape:
            return f"{name} has shape {found.shape} instead of {wanted.shape}"
        if not _numbers(wanted):
            if not np.array_equal(wanted, found):
                return f"{name} is another"
            continue
        one, other = wanted.astype(np.float64), found.astype(np.float64)
        scale = max(np.abs(one[np.isfinite(one)]).max(initial=0), 1e-6)
        if not np.allclose(other, one, rtol=0, atol=tolerance * scale, equal_nan=True):
            off = np.abs(other - one)
            return f"{name} is off by up to {np.nanmax(off):.3g}, its largest value is {scale:.3g}"
    return ""


def _numbers(values: np.ndarray) -> bool:
    return values.dtype.kind not in "OSUb"


def _finite(values: np.ndarray) -> bool:
    return not _numbers(values) or bool(np.isfinite(values.astype(np.float64)).all())


def _first_difference(
    model: keras.Model, copy: keras.Model, inputs: list[Any], tolerance: float
) -> str:
    """Names the first layer that computes something else from the same inputs of the model."""
    pairs = [
        (one, other)
        for one, other in zip(
            keras_private.all_layers(model), keras_private.all_layers(copy), strict=False
        )
        if one.name == other.name and not keras_private.sublayers(one)
    ]
    with (
        # Of a layer that takes its inputs by name alone, nothing is recorded.
        contextlib.suppress(TypeError),
        recorded_calls([layer for pair in pairs for layer in pair]) as calls,
    ):
        outputs_of(model, inputs)
        outputs_of(copy, inputs)
    for one, other in pairs:
        for mine, its in zip(calls[id(one)], calls[id(other)], strict=False):
            want, got = arrays(mine.outputs), arrays(its.outputs)
            same_shapes = [value.shape for value in want] == [value.shape for value in got]
            if same_shapes and difference(want, got, tolerance):
                return f"the first layer that differs is {one.name!r}; "
    return ""
