"""What the layers of a model get to call in place of functions of tf.nn, to be differentiated faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from prospr_ops.ops.nn.batch_norm import BatchNormalisation
from prospr_ops.ops.nn.max_pooling import max_pool


def fast_calls() -> dict[str, Callable[..., Any]]:
    """Functions for one call of a model, by their names in tf.nn; none where there is a GPU.

    They compute the same, and so do their derivatives. What they make of a graph says less to those
    who look at its operations, as the closed form's estimators do.
    """
    if tf.config.list_logical_devices("GPU"):
        return {}
    normalisation = BatchNormalisation()
    return {
        "moments": normalisation.moments,
        "batch_normalization": normalisation.batch_normalization,
        "max_pool": max_pool,
    }
