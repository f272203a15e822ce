"""Scores of float16 models are those of float32 but for rounding."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from problems import PROBLEMS

import prospr_ops as po
from prospr_ops.network.loss import Batch, Objective

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((64, 20)).astype("float32")


def _built(policy: str, loss, outputs: int = 4) -> keras.Model:
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((20,)),
            *(layers.Dense(64, "tanh", dtype=policy) for _ in range(2)),
            layers.Dense(outputs, dtype=policy),
            layers.Activation("linear", dtype="float32"),
        ]
    )
    model.compile("sgd", loss)
    return model


def _faint(target, output):
    """A loss whose gradient is far below what float16 can hold."""
    return 1e-7 * keras.ops.mean(keras.ops.square(target - output), axis=-1)


def _agreement(loss, y, method: str) -> float:
    """The part of the fifth with the highest scores that both precisions name."""
    best = []
    for policy in ("float32", "mixed_float16"):
        scores = po.score(
            _built(policy, loss),
            (X, y),
            method=method,
            steps=1,
            learning_rate=0.01,
            **({"curvature": "hutchinson"} if method == "diagonal" else {}),
            seed=0,
            batch_size=32,
            verbose=0,
        )
        flat = np.concatenate([np.ravel(values) for values in scores.values()])
        best.append(set(np.argsort(flat)[-len(flat) // 5 :]))
    return len(best[0] & best[1]) / len(best[0])


@pytest.mark.parametrize("method", ["snip", "first_order", "exact", "diagonal", "grasp"])
@pytest.mark.parametrize(
    ("loss", "size"), [(_faint, 1.0), ("mse", 100.0)], ids=["vanishing", "large"]
)
def test_ranks_as_float32(loss, size, method):
    y = (size * RANDOM.standard_normal((64, 4))).astype("float32")
    assert _agreement(loss, y, method) > 0.95


@pytest.mark.parametrize(
    ("policy", "scaled"),
    [("mixed_float16", True), ("mixed_bfloat16", False), ("float32", False)],
)
def test_only_float16_is_scaled(policy, scaled):
    model = _built(policy, "mse")
    objective = Objective.of(model, None)
    before = [variable.numpy() for variable in model.variables]
    objective.set_scale(Batch(X, X[:, :4]))
    assert (objective.scale > 1.0) == scaled
    for variable, old in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)


def test_products_with_the_hessian_do_not_overflow_in_pure_float16():
    """They may be larger than the gradient, for which the scale has room."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float16")
    try:
        model = PROBLEMS[0].model()
    finally:
        keras.config.set_dtype_policy(policy)
    options = {"loss": PROBLEMS[0].loss, "steps": 6, "batch_size": 16, "verbose": 0}
    scores = po.score(model, PROBLEMS[0].data(), method="exact", seed=3, **options)
    assert all(np.isfinite(values).any() for values in scores.values())
