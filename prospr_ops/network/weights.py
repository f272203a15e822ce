"""The weights of a model that can be pruned."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeAlias

import keras

from prospr_ops.network import keras_private

Prunable: TypeAlias = Callable[[keras.layers.Layer, keras.Variable], bool] | Iterable[str]

# Attributes that hold the kernels, by kind of layer.
_KERNELS: dict[type[keras.layers.Layer], tuple[str, ...]] = {
    keras.layers.Dense: ("kernel",),
    keras.layers.EinsumDense: ("kernel",),
    keras.layers.Embedding: ("embeddings",),
    keras.layers.Conv1D: ("kernel",),
    keras.layers.Conv2D: ("kernel",),
    keras.layers.Conv3D: ("kernel",),
    keras.layers.Conv1DTranspose: ("kernel",),
    keras.layers.Conv2DTranspose: ("kernel",),
    keras.layers.Conv3DTranspose: ("kernel",),
    keras.layers.DepthwiseConv1D: ("kernel",),
    keras.layers.DepthwiseConv2D: ("kernel",),
    keras.layers.SeparableConv1D: ("depthwise_kernel", "pointwise_kernel"),
    keras.layers.SeparableConv2D: ("depthwise_kernel", "pointwise_kernel"),
    keras.layers.SimpleRNNCell: ("kernel", "recurrent_kernel"),
    keras.layers.GRUCell: ("kernel", "recurrent_kernel"),
    keras.layers.LSTMCell: ("kernel", "recurrent_kernel"),
    keras_private.ConvLSTMCell: ("kernel", "recurrent_kernel"),
}


def is_kernel(layer: keras.layers.Layer, variable: keras.Variable) -> bool:
    """Whether a variable of a layer is prunable by default."""
    return any(
        getattr(layer, attribute) is variable
        for kind, attributes in _KERNELS.items()
        if isinstance(layer, kind)
        for attribute in attributes
    )


def owned_weights(
    model: keras.Model, *, frozen: bool = False
) -> dict[str, tuple[keras.layers.Layer, keras.Variable]]:
    """Each of `trainable_weights` with the layer that owns it.

    Args:
        model: A built Keras model.
        frozen: Whether to add the weights of layers that are frozen now. It changes no other path.
    """
    if not isinstance(model, keras.Model):
        msg = f"model must be a keras.Model, not {type(model).__name__}"
        raise TypeError(msg)
    if not model.built or not model.variables:
        msg = (
            f"model {model.name!r} is not built: it has no weights yet; call model.build(shape), or "
            "the model on a batch, first"
        )
        raise ValueError(msg)
    owners: dict[int, keras.layers.Layer] = {}
    for layer in keras_private.all_layers(model):
        for variable in keras_private.own_trainable_variables(layer):
            # A wrapper may hold the kernel of what it wraps too, as SpectralNormalization does.
            if id(variable) not in owners or is_kernel(layer, variable):
                owners[id(variable)] = layer
    trainable = {id(variable) for variable in model.trainable_variables}
    found: dict[str, tuple[keras.layers.Layer, keras.Variable]] = {}
    copies: Counter[str] = Counter()
    for variable in model.variables:
        if id(variable) in owners or id(variable) in trainable:
            copies[variable.path] += 1
            number = copies[variable.path]
            path = variable.path if number == 1 else f"{variable.path}#{number}"
            if frozen or id(variable) in trainable:
                found[path] = (owners.get(id(variable), model), variable)
    return found


def trainable_weights(model: keras.Model) -> dict[str, keras.Variable]:
    """All trainable variables of a built model by path, in the model's order.

    If several variables have the same path, "#2", "#3" and so on are appended from the second one
    on.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: The model is not built.
    """
    return {path: variable for path, (_, variable) in owned_weights(model).items()}


def _matches(path: str, pattern: str) -> bool:
    """Whether a path is what a pattern says; brackets, which Keras allows in names, are literal."""
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, path, re.DOTALL) is not None


def left_out_weights(
    model: keras.Model, prunable: Iterable[str], *, share: float = 0.01
) -> dict[str, str]:
    """Large trainable matrices that are not pruned, the largest first.

    Args:
        model: A built Keras model.
        prunable: Paths of the weights that are pruned.
        share: Size from which a matrix is large, as a fraction of the number of prunable weights.

    Returns:
        Shape, number of weights and class of the layer, in words, by variable path.
    """
    owned, paths = owned_weights(model), set(prunable)
    least = share * sum(math.prod(owned[path][1].shape) for path in paths)
    others = {
        path: (math.prod(variable.shape), layer, variable)
        for path, (layer, variable) in owned.items()
        if path not in paths and len(variable.shape) > 1
    }
    ranked = sorted(others.items(), key=lambda item: -item[1][0])
    return {
        path: f"{'×'.join(map(str, variable.shape))} ({size:,} weights; {type(layer).__name__})"
        for path, (size, layer, variable) in ranked
        if size >= least
    }


def prunable_weights(
    model: keras.Model, prunable: Prunable | None = None
) -> dict[str, keras.Variable]:
    """The prunable variables among `trainable_weights`.

    Args:
        model: A built Keras model.
        prunable: Weights that may be pruned: None for the kernels of Dense, EinsumDense, Embedding,
            convolution, transposed, depthwise and separable convolution layers and of recurrent
            cells (LSTM, GRU, SimpleRNN, ConvLSTM); a function (layer, variable) -> bool; or variable
            paths, in which `*` stands for any characters and `?` for one.

    Returns:
        Variables by path, in the model's order.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: The model is not built, a path matches nothing, nothing can be pruned, or a
            prunable weight is not floating-point.
    """
    candidates = owned_weights(model)
    if prunable is None or callable(prunable):
        wanted = prunable or is_kernel
        chosen = {path for path, candidate in candidates.items() if wanted(*candidate)}
    else:
        chosen = set()
        for pattern in [prunable] if isinstance(prunable, str) else prunable:
            matches = {path for path in candidates if _matches(path, pattern)}
            if not matches:
                msg = f"prunable: {pattern!r} matches none of {list(candidates)}"
                raise ValueError(msg)
            chosen |= matches
    weights = {path: variable for path, (_, variable) in candidates.items() if path in chosen}
    if not weights:
        msg = (
            f"model {model.name!r} has nothing to prune: of its trainable variables "
            f"{list(candidates)} none is "
            + (
                "a kernel of a Dense, Conv, Embedding or recurrent layer"
                if prunable is None
                else "prunable"
            )
        )
        raise ValueError(msg)
    for path, variable in weights.items():
        if not keras.backend.is_float_dtype(variable.dtype):
            msg = f"{path} cannot be pruned: its dtype is {variable.dtype}, not a float"
            raise ValueError(msg)
    return weights
