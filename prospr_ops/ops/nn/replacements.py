"""Replacements for functions of tf.nn that the layers of a model call, with faster derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from prospr_ops import _native
from prospr_ops.ops.nn.activations import gelu, silu
from prospr_ops.ops.nn.batch_norm import BatchNormalisation
from prospr_ops.ops.nn.max_pooling import max_pool


def fast_calls() -> dict[str, Callable[..., Any]]:
    """Functions for one call of a model, by their names in tf.nn.

    If there is a GPU, the compiled ops are among them in a build with CUDA only, which has kernels for it.

    They and their derivatives compute the same values as those of tf.nn. The operations in their
    graphs are not those of tf.nn, so code that inspects a graph, such as the closed form's
    estimators, must not use them.
    """
    calls: dict[str, Callable[..., Any]] = {"gelu": gelu, "silu": silu}
    if tf.config.list_logical_devices("GPU") and not _native.build_info()["cuda"]:
        return calls
    normalisation = BatchNormalisation()
    return {
        **calls,
        "moments": normalisation.moments,
        "batch_normalization": normalisation.batch_normalization,
        "max_pool": max_pool,
    }
