"""Functions that are traced anew in every call of the package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.eager import context

_eager: ContextVar[bool] = ContextVar("eager", default=False)


@contextmanager
def run_as_fit(model: keras.Model) -> Iterator[None]:
    """Runs what is `traced` meanwhile eagerly, if the model is compiled with run_eagerly=True."""
    token = _eager.set(bool(model.compiled and model.run_eagerly))
    try:
        yield
    finally:
        _eager.reset(token)


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """A `tf.function` of a closure, for one run; the closure itself within an eager `run_as_fit`.

    Shapes are traced as they are, and every new batch size anew: the curvature estimators need the
    size of the first axis. TensorFlow warns about functions that are traced repeatedly; every run
    has its own model and so its own function, so that warning is turned off.

    AutoGraph is off, since it would take most of the time to the first step; Keras does not apply
    it to a model's code either.
    """
    if _eager.get():
        return function
    compiled = tf.function(function, autograph=False)
    compiled._omit_frequent_tracing_warning = True
    return compiled


@contextmanager
def graphs_optimised(wanted: bool) -> Iterator[None]:
    """Functions that are called within run as they were traced, unless optimisation is `wanted`.

    TensorFlow's rewriting of a graph takes longer than to trace it, and saves no time that could be
    measured on a CPU (docs/meta_gradient.md). What another thread calls meanwhile is optimised.
    """
    if wanted:
        yield
        return
    here = context.context()
    before = here.function_call_options
    config = config_pb2.ConfigProto.FromString(before.config_proto_serialized)
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    here.function_call_options = context.FunctionCallOptions(before.executor_type, config)
    try:
        yield
    finally:
        here.function_call_options = before
