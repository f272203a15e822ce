"""A model written in one of the formats for inference, by Keras, its masks lifted meanwhile."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from prospr_ops.delivery.comparing import states_reset
from prospr_ops.delivery.copying import described
from prospr_ops.delivery.stripping import strip
from prospr_ops.network import keras_private
from prospr_ops.pruning.masks import masks_lifted


def write(model: keras.Model, path: Path, format: str) -> None:
    """Writes a built model, which it leaves unchanged.

    Raises:
        OSError: It cannot be written to `path`.
        TypeError: As for `strip`, of which a .keras file is written.
        ValueError: The model cannot be written in this format.
    """
    if format == "keras":
        strip(model).save(path)
        return
    keras_private.mark_as_called(model)  # or Keras would not write ONNX
    try:
        with masks_lifted(model), states_reset(model), warnings.catch_warnings():
            # Keras looks for np.object, which tf2onnx still uses.
            warnings.simplefilter("ignore", FutureWarning)
            _WRITERS[format](model, path)
    except tf.errors.OpError as error:  # TensorFlow writes to a full disk, or where it must not
        raise OSError(error.message) from error
    except OSError:
        raise
    except Exception as error:  # of a layer's own code, or of a converter
        msg = f"model {model.name!r} cannot be exported to {format}: {described(error)}"
        raise ValueError(msg) from error


def _saved_model(model: keras.Model, path: Path) -> None:
    model.export(path, format="tf_saved_model", verbose=False)


def _litert(model: keras.Model, path: Path) -> None:
    loops = [
        layer
        for layer in keras_private.all_layers(model)
        if getattr(layer, "unroll", None) is False
    ]
    if loops:
        # Keras refuses where it knows no number of steps.
        with contextlib.suppress(ValueError), _unrolled(loops):
            model.export(path, format="litert", verbose=False)
            return
    model.export(path, format="litert", verbose=False)


def _onnx(model: keras.Model, path: Path) -> None:
    _teach_erfc()
    with _constants(model):
        model.export(path, format="onnx", verbose=False)


_WRITERS = {"saved_model": _saved_model, "litert": _litert, "onnx": _onnx}


@contextlib.contextmanager
def _unrolled(layers: list[keras.layers.Layer]) -> Iterator[None]:
    """Has recurrent layers traced step by step meanwhile."""
    try:
        for layer in layers:
            layer.unroll = True
        yield
    finally:
        for layer in layers:
            layer.unroll = False


@contextlib.contextmanager
def _constants(model: keras.Model) -> Iterator[None]:
    """Has tensors that layers hold (the mean of Normalization) written as constants meanwhile.

    A traced function takes them as inputs of its own, and tf2onnx forgets their values.
    """
    found = [
        (layer, name, value)
        for layer in keras_private.all_layers(model)
        for name, value in vars(layer).items()
        if isinstance(value, tf.Tensor)
    ]
    try:
        for layer, name, value in found:
            vars(layer)[name] = value.numpy()
        yield
    finally:
        for layer, name, value in found:
            vars(layer)[name] = value


def _teach_erfc() -> None:
    """Teaches tf2onnx, which knows erf alone, the erfc that TensorFlow writes GELU with."""
    tf_op = importlib.import_module("tf2onnx.handler").tf_op
    importlib.import_module("tf2onnx.tfonnx")  # registers all that it knows itself
    if not any("Erfc" in handlers for handlers in tf_op.get_opsets()[""]):
        tf_op("Erfc")(_Erfc)


class _Erfc:
    """1 - erf(x), which differs from erfc(x) by rounding errors of 1."""

    @classmethod
    def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
        (output,) = node.output
        shape, dtype = ctx.get_shape(output), ctx.get_dtype(output)
        number = importlib.import_module("tf2onnx.utils").map_onnx_to_numpy_type(dtype)
        ctx.remove_node(node.name)
        one = ctx.make_const(f"{node.name}_one", np.array(1, number))
        erf = ctx.make_node("Erf", node.input, shapes=[shape], dtypes=[dtype])
        parts = [one.output[0], erf.output[0]]
        ctx.make_node("Sub", parts, outputs=[output], shapes=[shape], dtypes=[dtype])
