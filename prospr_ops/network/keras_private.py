"""All use of Keras's private parts, so that a new version of Keras is checked against one file.

Read in Keras 3.12 to 3.15. What has a public name in Keras is not here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.backend import AutocastScope
from keras.src.backend.common.global_state import get_global_attribute
from keras.src.export.export_utils import get_input_signature
from keras.src.models import Functional
from keras.src.ops.numpy import Add, Pad

__all__ = [
    "DTYPE_POLICY",
    "Add",
    "AutocastScope",
    "Functional",
    "Pad",
    "all_layers",
    "input_signature",
    "input_structure",
    "inputs_of",
    "logits_of",
    "losses_of",
    "mark_as_called",
    "mask_of",
    "moving_average",
    "nodes",
    "objects_in_scope",
    "operation_of",
    "own_trainable_variables",
    "run_graph",
    "seed_states",
    "sequential_graph",
    "sublayers",
]

# The attribute of a layer that holds its dtype policy.
DTYPE_POLICY = "_dtype_policy"


def all_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The model, its layers, theirs, and so on."""
    yield from model._flatten_layers()


def own_trainable_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The trainable variables that a layer made itself, without those of its sublayers."""
    return layer._trainable_variables


def seed_states(model: keras.Model) -> list[keras.Variable]:
    """The variables that the random layers of a model draw from."""
    return [generator.state for layer in all_layers(model) for generator in layer._seed_generators]


def sequential_graph(model: keras.Sequential) -> Functional | None:
    """The functional model that a Sequential one builds; None before it is built."""
    return model._functional


def input_structure(model: keras.Model) -> Any:
    """The symbolic inputs of a functional or built Sequential model, as it takes them; else None."""
    graph = model._functional if isinstance(model, keras.Sequential) else model
    return getattr(graph, "_inputs_struct", None)


def nodes(model: Functional) -> Iterator[Any]:
    """The calls of operations in a functional model, each after those that it depends on."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from model._nodes_by_depth[depth]


def run_graph(model: Functional, inputs: Any, call: Callable[[Any], Any]) -> Any:
    """Outputs of a functional model on other inputs, with `call(operation)` in place of each."""
    return model._run_through_graph(inputs, operation_fn=call)


def operation_of(tensor: keras.KerasTensor) -> Any:
    """The layer or operation that a symbolic tensor comes out of."""
    return tensor._keras_history.operation


def mark_as_called(model: keras.Model) -> None:
    """Lets Keras export a model that was built without a call."""
    model._called = True


def mask_of(tensor: Any) -> Any:
    """The mask of time steps that Keras has attached to a tensor, or None."""
    return getattr(tensor, "_keras_mask", None)


def logits_of(prediction: Any) -> Any:
    """The logits that an output is the softmax or sigmoid of, where Keras has kept them; else None."""
    return getattr(prediction, "_keras_logits", None)


def losses_of(model: keras.Model) -> tuple[Any, Any]:
    """What the model was compiled with as `loss` and `loss_weights`; (None, None) without a loss."""
    compiled = model._compile_loss
    if compiled is None:
        return None, None
    return compiled._user_loss, compiled._user_loss_weights


def moving_average(variable: Any) -> keras.Variable | None:
    """The moving average that the optimizer which now updates a variable keeps of it.

    Keras averages before it runs constraints, and finally copies the averages to the weights
    without running them again. It tells a constraint nothing of the optimizer, other than by the
    scope that both run in.
    """
    scopes = get_global_attribute("name_scope_stack")
    optimizer = scopes[-1].caller if scopes else None
    if isinstance(optimizer, keras.optimizers.Optimizer) and optimizer.use_ema:
        averages = optimizer._model_variables_moving_average
        for known, average in zip(optimizer._trainable_variables, averages, strict=True):
            if known is variable:
                return average
    return None


def input_signature(model: keras.Model) -> list[Any]:
    """What a subclassed model was last built or called with: a structure of specs per argument.

    Raises:
        ValueError: Keras has not kept it.
    """
    mark_as_called(model)
    return get_input_signature(model)


def inputs_of(node: Any) -> list[keras.KerasTensor]:
    """The symbolic tensors that an operation was called on, from `nodes`."""
    return node.input_tensors


def sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a layer holds."""
    return layer._layers


def objects_in_scope() -> dict[str, Any]:
    """The classes and functions by name of the `keras.saving.custom_object_scope` that is open."""
    return dict(get_global_attribute("custom_objects_scope_dict", {}))
