"""Inputs that a model takes, drawn by what its layers say of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from prospr_ops.network import keras_private

# Sizes to try for axes of no fixed size, and kinds of values. A sequence may be no longer than its
# embedded positions, so small ones come last.
_SIZES = (16, 64, 224, 4, 1)
_KINDS = ("usual", "whole", "positive", "zero")


def candidates(model: keras.Model) -> Iterator[list[Any]]:
    """Inputs to try, the likeliest first: a structure of arrays per argument of the model.

    Raises:
        ValueError: The shape of the model's inputs is not known.
    """
    specs = _specs(model)
    readers = _readers(model)
    shapes = [tuple(spec.shape) for spec in keras.tree.flatten(specs)]
    sizes = _SIZES if any(None in shape[1:] for shape in shapes) else _SIZES[:1]
    for size, kind in itertools.product(sizes, _KINDS):
        random = np.random.default_rng(0)

        def draw(spec: Any, size: int = size, kind: str = kind, random: Any = random) -> Any:
            batch, *rest = spec.shape
            shape = (batch or 2, *(axis or size for axis in rest))
            return _values(random, shape, spec.dtype, kind, readers(spec))

        yield keras.tree.map_structure(draw, specs)


def _specs(model: keras.Model) -> list[Any]:
    """Symbolic inputs, or specs of them: a structure per argument."""
    structure = keras_private.input_structure(model)
    return keras_private.input_signature(model) if structure is None else [structure]


def _readers(model: keras.Model) -> Callable[[Any], list[Any]]:
    """A function from an input to the layers that give it a meaning: those that read it, or all."""
    everyone = list(keras_private.all_layers(model))
    direct: dict[int, list[Any]] = {}
    sequential = isinstance(model, keras.Sequential)
    graph = keras_private.sequential_graph(model) if sequential else model
    if isinstance(graph, keras_private.Functional):
        for node in keras_private.nodes(graph):
            for tensor in keras_private.inputs_of(node):
                direct.setdefault(id(tensor), []).append(node.operation)

    def readers(spec: Any) -> list[Any]:
        reading = direct.get(id(spec), [])
        return reading if any(map(_says, reading)) else everyone

    return readers


def _says(layer: Any) -> bool:
    return hasattr(layer, "get_vocabulary") or isinstance(layer, keras.layers.Embedding)


def _values(
    random: np.random.Generator, shape: tuple[int, ...], dtype: Any, kind: str, layers: list[Any]
) -> np.ndarray:
    dtype = keras.backend.standardize_dtype(dtype)
    vocabulary = [
        word
        for layer in layers
        if hasattr(layer, "get_vocabulary")
        for word in layer.get_vocabulary(include_special_tokens=False)
    ]
    if dtype == "string":
        words = [word for word in vocabulary if isinstance(word, str)] or ["a", "b", "c"]
        whole = any(isinstance(layer, keras.layers.TextVectorization) for layer in layers)
        count = 3 if whole and kind == "usual" else 1
        texts = [" ".join(random.choice(words, count)) for _ in range(math.prod(shape))]
        return np.array(texts, object).reshape(shape)
    if dtype == "bool":
        return random.random(shape) < 0.5
    if kind == "zero":
        return np.zeros(shape, dtype)
    if kind == "whole" or not keras.backend.is_float_dtype(dtype):
        limits = [layer.input_dim for layer in layers if isinstance(layer, keras.layers.Embedding)]
        numbers = [word for word in vocabulary if not isinstance(word, str)]
        drawn = random.choice(numbers or np.arange(min([*limits] or [2])), shape)
    else:
        drawn = random.random(shape) if kind == "positive" else random.standard_normal(shape)
    return keras.ops.convert_to_numpy(keras.ops.cast(drawn, dtype))
