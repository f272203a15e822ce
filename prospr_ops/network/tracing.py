"""Traced functions that are made anew in every call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """A `tf.function` of a closure, for one run.

    Shapes are traced as they are, a new batch size anew: the curvature estimators want to know the
    first axis. TensorFlow warns of functions that are traced again and again; every run has its own
    model and so its own function, so that warning is turned off.

    Without AutoGraph, which would take nearly all of the time to the first step: Keras does not use
    it on a model's code either.
    """
    compiled = tf.function(function, autograph=False)
    compiled._omit_frequent_tracing_warning = True
    return compiled
