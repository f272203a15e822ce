"""All use of Keras's private parts, so that a new version of Keras is checked against one file.

Checked against Keras 3.12 to 3.15. Names that are public in Keras are not here.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.backend import AutocastScope, compute_output_spec, get_autocast_scope
from keras.src.backend import nn as backend_nn
from keras.src.backend.common.global_state import get_global_attribute
from keras.src.export.export_utils import get_input_signature
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell
from keras.src.losses import LossFunctionWrapper
from keras.src.models import Functional
from keras.src.models.functional import operation_fn, unpack_singleton
from keras.src.ops import core, nn
from keras.src.ops import numpy as arrays
from keras.src.ops.nn import Relu
from keras.src.ops.numpy import Add, Concatenate, GetItem, Multiply, Pad, Reshape
from keras.src.trainers.compile_utils import CompileLoss

from prospr_ops.utils.memory import no_collection

__all__ = [
    "ALONG_AXES",
    "DTYPE_POLICY",
    "ELEMENTWISE",
    "Add",
    "AutocastScope",
    "CompileLoss",
    "Concatenate",
    "ConvLSTMCell",
    "Functional",
    "GetItem",
    "LayerScale",
    "LossFunctionWrapper",
    "Multiply",
    "Pad",
    "Relu",
    "Reshape",
    "StochasticDepth",
    "all_layers",
    "averages_left_alone",
    "check_input",
    "compiled_loss",
    "compute_output_spec",
    "graphs",
    "in_inference",
    "in_training",
    "input_signature",
    "input_structure",
    "inputs_of",
    "is_called_plainly",
    "is_eager_and_casts_nothing",
    "last_axis_as_minus_one",
    "logits_of",
    "loss_as_compiled",
    "losses_and_weights",
    "mark_as_called",
    "mask_of",
    "moving_average",
    "name_scopes_restored",
    "nodes",
    "objects_in_scope",
    "operation_of",
    "optimizer_states",
    "output_structure",
    "outputs_of",
    "own_trainable_variables",
    "run_graph",
    "seed_states",
    "sequential_graph",
    "sublayers",
    "total_loss",
]

# Name of the attribute that holds the dtype policy of a layer.
DTYPE_POLICY = "_dtype_policy"


def _operations(module: Any, names: str) -> tuple[type, ...]:
    """Operations by name, without those that this version of Keras does not have."""
    return tuple(getattr(module, name) for name in names.split() if hasattr(module, name))


# Operations of `keras.ops` that treat each element by itself,
ELEMENTWISE = (
    *_operations(
        arrays,
        "Add Subtract Multiply Divide DivideNoNan TrueDivide Maximum Minimum Negative Absolute Abs "
        "Square Sqrt Exp Expm1 Log1p Power Sign Clip Sin Cos Sinh Cosh Tanh Arctan Arcsinh",
    ),
    *_operations(
        nn,
        "Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink SparsePlus Silu Squareplus "
        "LogSigmoid LeakyRelu HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink HardTanh "
        "HardShrink Threshold",
    ),
    *_operations(core, "Cast StopGradient"),
)
# and those that act along axes, add or take them away, and are zero where all of their input is.
ALONG_AXES = _operations(arrays, "Mean Sum Max Min ExpandDims Squeeze")


def all_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The model, its layers, their layers, and so on."""
    yield from model._flatten_layers()


def own_trainable_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """A layer's trainable variables without those of its sublayers."""
    return layer._trainable_variables


def seed_states(model: keras.Model) -> list[keras.Variable]:
    """The seed variables of the random layers of a model."""
    return [generator.state for layer in all_layers(model) for generator in layer._seed_generators]


def sequential_graph(model: keras.Sequential) -> Functional | None:
    """The functional model inside a Sequential one; None before it is built."""
    return model._functional


def input_structure(model: keras.Model) -> Any:
    """The symbolic inputs of a functional or built Sequential model, in their structure; else None."""
    graph = model._functional if isinstance(model, keras.Sequential) else model
    return getattr(graph, "_inputs_struct", None)


def output_structure(model: keras.Model) -> Any:
    """The symbolic outputs of a functional or built Sequential model, as it gives them; else None."""
    graph = model._functional if isinstance(model, keras.Sequential) else model
    return getattr(graph, "_outputs_struct", None)


def nodes(model: Functional) -> Iterator[Any]:
    """The calls of operations in a functional model, each after the calls it depends on."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from model._nodes_by_depth[depth]


def run_graph(model: Functional, inputs: Any, call: Callable[[Any], Any]) -> Any:
    """Outputs of a functional model on new inputs, with `call(operation)` for each operation."""
    return model._run_through_graph(inputs, operation_fn=call)


def call_graph(model: Functional, inputs: Any, call: Callable[[Any], Any]) -> Any:
    """What a functional model gives for what a user calls it on, each operation called as `call(operation)`."""
    return unpack_singleton(run_graph(model, model._standardize_inputs(inputs), call))


def in_inference(operation: Any) -> Callable[..., Any]:
    """The operation as a graph calls it in inference."""
    return operation_fn(operation, training=False)


def in_training(operation: Any) -> Callable[..., Any]:
    """The operation as a graph calls it in training."""
    return operation_fn(operation, training=True)


def graphs(model: keras.Model) -> Iterator[Functional]:
    """The functional models of a model and within its graph, whose layers are called as Keras calls them."""
    graph = model._functional if isinstance(model, keras.Sequential) else model
    if not isinstance(graph, Functional):
        return
    stock = type(graph).call is Functional.call and type(graph).__call__ is Functional.__call__
    if stock and "call" not in vars(graph):
        yield graph
    for layer in graph.layers:
        if isinstance(layer, keras.Model):
            yield from graphs(layer)


def is_called_plainly(layer: keras.layers.Layer) -> bool:
    """Whether Keras does nothing around a call of a built layer that changes what it computes."""
    return (
        layer.built
        and layer.compute_dtype == layer.variable_dtype
        and layer.activity_regularizer is None
        and layer._remat_mode is None
        and layer.quantization_mode is None
        and not getattr(layer, "lora_enabled", False)
        and keras.distribution.distribution() is None
    )


def is_eager_and_casts_nothing() -> bool:
    """Whether code runs eagerly here, and variables are read as they are.

    They are cast within a layer, or a model, of a mixed dtype: around each layer of another dtype within it
    Keras casts to that.
    """
    return tf.executing_eagerly() and get_autocast_scope() is None


def check_input(layer: keras.layers.Layer, inputs: Any) -> None:
    """Refuses what Keras refuses to call a layer on.

    Raises:
        ValueError: The rank or the number of channels is not what the layer was built for.
    """
    layer._assert_input_compatibility(inputs)


def operation_of(tensor: keras.KerasTensor) -> Any:
    """The layer or operation that made a symbolic tensor."""
    return tensor._keras_history.operation


def mark_as_called(model: keras.Model) -> None:
    """Lets Keras export a model that was built but never called."""
    model._called = True


def mask_of(tensor: Any) -> Any:
    """The mask of time steps that Keras attached to a tensor, or None."""
    return getattr(tensor, "_keras_mask", None)


def logits_of(prediction: Any) -> Any:
    """The logits whose softmax or sigmoid an output is, if Keras kept them; else None."""
    return getattr(prediction, "_keras_logits", None)


@contextmanager
def last_axis_as_minus_one() -> Iterator[None]:
    """Normalises over a last axis as over axis -1, for which Keras does not reshape all that it takes.

    For one thread at a time: within `prospr_ops.network.tf_functions.replaced`, which sees to that.
    """
    stock = backend_nn.batch_normalization

    def batch_normalization(
        x: Any, mean: Any, variance: Any, axis: int, *args: Any, **options: Any
    ) -> Any:
        if axis != -1 and axis == len(x.shape) - 1:
            axis = -1
        return stock(x, mean, variance, axis, *args, **options)

    backend_nn.batch_normalization = batch_normalization
    try:
        yield
    finally:
        backend_nn.batch_normalization = stock


@contextmanager
def averages_left_alone(model: keras.Model) -> Iterator[None]:
    """Batch normalisation in training does not move its averages, where no call of the model could read them.

    A layer that has one
    place in a graph either moves its averages or reads them; layers within layers of other kinds, which
    may be called anyhow, are left alone. For one thread at a time: within
    `prospr_ops.network.tf_functions.replaced`, which sees to that.
    """
    layers = [*_normalisations(model)]
    try:
        for layer in layers:
            vars(layer)["call"] = _without_averages(layer)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("call", None)


def _normalisations(model: keras.Model) -> Iterator[keras.layers.BatchNormalization]:
    """The layers that have one place in the graph of a model, or of a model within it that has one."""
    graph = model._functional if isinstance(model, keras.Sequential) else model
    if not isinstance(graph, Functional):
        return
    for layer in graph.layers:
        if len(layer._inbound_nodes) != 1 or "call" in vars(layer):
            continue
        if type(layer) is keras.layers.BatchNormalization and not layer.renorm:
            yield layer
        elif isinstance(layer, keras.Model):
            yield from _normalisations(layer)


def _without_averages(layer: keras.layers.BatchNormalization) -> Callable[..., Any]:
    stock = layer.call

    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if mask is not None or not (training and layer.trainable):
            return stock(inputs, training=training, mask=mask)
        rank = len(inputs.shape)
        if (
            isinstance(inputs, tf.Tensor)
            and inputs.dtype.name == layer.compute_dtype
            and layer.compute_dtype in ("float32", "float64")
            and layer.axis in (-1, rank - 1)
            and not layer.synchronized
            and "_moments" not in vars(layer)
        ):
            mean, variance = tf.nn.moments(inputs, [*range(rank - 1)])
            return tf.nn.batch_normalization(
                inputs, mean, variance, layer.beta, layer.gamma, layer.epsilon
            )
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        x, offset, scale = (_as(dtype, value) for value in (inputs, layer.beta, layer.gamma))
        mean, variance = layer._moments(x, None)
        y = keras.ops.batch_normalization(
            x, mean, variance, layer.axis, offset, scale, layer.epsilon
        )
        return _as(layer.compute_dtype, y)

    return call


def _as(dtype: str, value: Any) -> Any:
    """A cast, without a call where there is nothing to do."""
    same = value is None or keras.backend.standardize_dtype(value.dtype) == dtype
    return value if same else keras.ops.cast(value, dtype)


@contextmanager
def name_scopes_restored() -> Iterator[None]:
    """Closes the name scopes that a failed call within has left open.

    Keras notes a scope before TensorFlow refuses its name, as one that begins with an underscore, and
    never takes it back: it would lead the paths of all later layers.
    """
    before = list(get_global_attribute("name_scope_stack", []))
    try:
        yield
    finally:
        stack = get_global_attribute("name_scope_stack")
        if stack is not None:
            stack[:] = before


def moving_average(variable: Any) -> keras.Variable | None:
    """The moving average that the optimizer now updating a variable keeps of it, or None.

    Keras averages before it runs constraints, and finally copies the averages to the weights
    without running the constraints again. A constraint can find the optimizer only by the name
    scope in which both run.
    """
    scopes = get_global_attribute("name_scope_stack")
    return average_of(scopes[-1].caller if scopes else None, variable)


def average_of(optimizer: Any, variable: Any) -> keras.Variable | None:
    """The moving average that an optimizer keeps of a variable, or None."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(optimizer, keras.optimizers.Optimizer) and optimizer.built and optimizer.use_ema:
        averages = optimizer._model_variables_moving_average
        for known, average in zip(optimizer._trainable_variables, averages, strict=True):
            if known is variable:
                return average
    return None


def compiled_steps_with(variables: Iterable[Any]) -> list[keras.Model]:
    """The living models that have a compiled training step, and one of these variables.

    A model does not know of the models that hold it, so all objects of the process are looked at.
    """
    wanted = {id(variable) for variable in variables}
    kinds = set(_subclasses(keras.Model))
    # An object refers to its class. By type: asking an object for its class runs code of proxies.
    with no_collection():
        models = [thing for thing in gc.get_referrers(*kinds) if type(thing) in kinds]
    return [
        model
        for model in models
        if vars(model).get("train_function") is not None
        and any(id(variable) in wanted for variable in model.trainable_variables)
    ]


def _subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from _subclasses(subclass)


def changed_by_calls(model: keras.Model) -> list[str]:
    """Names of the trainable layers whose call assigns to their kernel."""
    kind = keras.layers.SpectralNormalization
    return [
        one.name for one in all_layers(model) if isinstance(one, kind) and one.trainable_variables
    ]


def optimizer_states(optimizer: Any, variable: keras.Variable) -> Iterator[keras.Variable]:
    """What an optimizer keeps per element of a variable: momenta, second moments, averages."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    known = [id(one) for one in optimizer._trainable_variables]
    if id(variable) not in known:
        return
    index = known.index(id(variable))
    for name, states in vars(optimizer).items():
        if (
            name != "_trainable_variables"
            and isinstance(states, list)
            and len(states) == len(known)
        ):
            state = states[index]
            if isinstance(state, keras.Variable) and state.shape == variable.shape:
                yield state


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


def outputs_of(node: Any) -> list[keras.KerasTensor]:
    """The symbolic tensors that an operation gave, from `nodes`."""
    return node.output_tensors


def sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a layer holds."""
    return layer._layers


def freeze_like(layer: keras.layers.Layer, other: keras.layers.Layer) -> None:
    """Freezes or thaws a layer like another one, and none of the layers within it."""
    layer._trainable = other._trainable
    for variable in layer._trainable_variables:
        variable.trainable = layer._trainable


def call_like(layer: keras.layers.Layer, other: keras.layers.Layer) -> None:
    """Has a layer that is called like another one take the arguments that the other one names."""
    for name in (
        *("_call_signature", "call_signature_parameters", "_call_has_training_arg"),
        *("_call_has_mask_arg", "_call_context_args", "_call_has_context_arg"),
        "_allow_non_tensor_positional_args",
    ):
        if hasattr(other, name):
            setattr(layer, name, getattr(other, name))


def says_training(model: keras.Model) -> bool:
    """Whether a call in the graph of a model says itself that it is of training."""
    return any(node.arguments.kwargs.get("training") for node in nodes(model))


def replace_layer(outer: keras.layers.Layer, old: keras.layers.Layer, new: Any) -> None:
    """Puts a layer in the place of another one everywhere within a layer."""

    def replaced(value: Any) -> Any:
        if value is old:
            return new
        if isinstance(value, list):
            value[:] = map(replaced, value)
        elif isinstance(value, dict):
            value.update({key: replaced(one) for key, one in value.items()})
        elif isinstance(value, tuple):
            found = tuple(map(replaced, value))
            names: Any = getattr(value, "_fields", None)
            remade: Any = getattr(value, "_replace", None)
            return remade(**dict(zip(names, found, strict=True))) if names else found
        return value

    for holder in list(all_layers(outer)):
        if not holder._tracker.is_in_store("layers", old):
            continue
        holder._tracker.replace_tracked_value("layers", old, new)
        for name, value in list(vars(holder).items()):
            if name != "_layers" and value is not (changed := replaced(value)):
                setattr(holder, name, changed)


def objects_in_scope() -> dict[str, Any]:
    """The classes and functions by name of the `keras.saving.custom_object_scope` that is open."""
    return dict(get_global_attribute("custom_objects_scope_dict", {}))


def compiled_loss(model: keras.Model) -> CompileLoss | None:
    """What a model was compiled with as its loss; None for one without."""
    return model._compile_loss


def loss_as_compiled(loss: Any, model: keras.Model) -> CompileLoss:
    """What `model.compile(loss=loss)` makes of a loss, a function, a name, or a structure of such."""
    return CompileLoss(loss, output_names=getattr(model, "output_names", None))


def losses_and_weights(loss: CompileLoss) -> list[tuple[keras.losses.Loss, Any]]:
    """The losses, of which one total is made, with their weights or None.

    Keras makes them when it is first given targets and predictions; until then there are none.
    """
    return [(one.loss, one.loss_weights) for one in loss._flat_losses or []]


def total_loss(model: keras.Model, x: Any, y: Any, prediction: Any, sample_weight: Any) -> Any:
    """The loss that a training step of the model takes, by its own `compute_loss` if it has one."""
    return model._compute_loss(
        x=x, y=y, y_pred=prediction, sample_weight=sample_weight, training=True
    )
