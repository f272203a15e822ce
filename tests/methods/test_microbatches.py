"""Batches in parts give what whole batches give."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from problems import LOGITS, PROBLEMS

import prospr_ops as po

BY_NAME = {problem.name: problem for problem in PROBLEMS}
NO_BATCH_STATISTICS = ["sequential", "regularised", "every_kernel", "regression"]


@pytest.mark.parametrize("microbatch", [5, 16, 100])
@pytest.mark.parametrize("method", ["exact", "diagonal", "first_order", "snip"])
@pytest.mark.parametrize("name", NO_BATCH_STATISTICS)
def test_parts_give_the_same_scores(name, method, microbatch):
    """16 samples in parts of 5, 5, 5 and 1, of 16, and of more than there are."""
    problem = BY_NAME[name]
    model, data = problem.model(), problem.data()
    options = {
        "method": method,
        "loss": problem.loss,
        "batch_size": 16,
        "momentum": 0.5,
        "seed": 1,
        "verbose": 0,
    }
    whole = po.score(model, data, **options)
    parts = po.score(model, data, microbatch=microbatch, **options)
    for path, logarithms in whole.items():
        expected = np.exp(logarithms)
        np.testing.assert_allclose(
            np.exp(parts[path]), expected, rtol=1e-3, atol=1e-5 * expected.max(), err_msg=path
        )


def test_parts_draw_different_probes():
    problem = BY_NAME["sequential"]
    model, (x, y) = problem.model(), problem.data()
    data = [(np.concatenate([x[:8], x[:8]]), np.concatenate([y[:8], y[:8]]))]
    options = {"loss": problem.loss, "method": "diagonal", "curvature": "hutchinson"}
    options |= {"seed": 1, "verbose": 0}
    halves = po.score(model, data, microbatch=8, **options)
    one = po.score(model, [(x[:8], y[:8])], **options)
    assert any(not np.allclose(halves[path], one[path]) for path in one)


def test_a_lookup_of_words_keeps_samples_apart():
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            layers.Embedding(9, 3),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    random = np.random.default_rng(0)
    data = random.integers(0, 9, (32, 4)), random.integers(0, 3, 32)
    options = {"method": "exact", "loss": LOGITS, "batch_size": 16, "seed": 0, "verbose": 0}
    whole, parts = (po.score(model, data, microbatch=size, **options) for size in (None, 4))
    for path in whole:
        np.testing.assert_allclose(np.exp(parts[path]), np.exp(whole[path]), rtol=1e-3, atol=1e-7)


def _added_loss() -> keras.Model:
    return keras.Sequential(
        [keras.Input((5,)), layers.Dense(4, activity_regularizer="l2"), layers.Dense(3)]
    )


@pytest.mark.parametrize(
    ("model", "loss", "message"),
    [
        ("functional_residual_batchnorm", LOGITS, "may mix samples, as BatchNormalization"),
        ("sequential", "sum", "reduction is 'sum'"),
        ("sequential", "ignored", "ignores a class"),
        (_added_loss, LOGITS, "adds losses"),
    ],
)
def test_samples_that_are_tied_together_are_refused(model, loss, message):
    problem = BY_NAME[model] if isinstance(model, str) else BY_NAME["sequential"]
    model = problem.model() if isinstance(model, str) else model()
    kinds = {"sum": {"reduction": "sum"}, "ignored": {"ignore_class": -1}}
    if isinstance(loss, str):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, **kinds[loss])
    before = [variable.numpy() for variable in model.variables]
    with pytest.raises(ValueError, match=f"microbatch needs a loss that is a mean.*{message}"):
        po.prune(
            model, problem.data(), sparsity=0.5, loss=loss, microbatch=4, verbose=0, method="exact"
        )
    for variable, old in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, old)


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-3, ValueError), (2.5, TypeError), (True, TypeError)]
)
def test_bad_sizes_are_refused(value, error):
    problem = BY_NAME["sequential"]
    with pytest.raises(error, match="microbatch must be"):
        po.score(problem.model(), problem.data(), loss=LOGITS, microbatch=value, verbose=0)
