"""Functions that are traced anew in every call of the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """A `tf.function` of a closure, for one run.

    Shapes are traced as they are, and every new batch size anew: the curvature estimators need the
    size of the first axis. TensorFlow warns about functions that are traced repeatedly; every run
    has its own model and so its own function, so that warning is turned off.

    AutoGraph is off, since it would take most of the time to the first step; Keras does not apply
    it to a model's code either.
    """
    compiled = tf.function(function, autograph=False)
    compiled._omit_frequent_tracing_warning = True
    return compiled
