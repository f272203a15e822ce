"""GraSP: numbers by hand, its sign, and its twin with the whole Hessian."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from problems import PROBLEMS

import prospr_ops as po
from prospr_ops.data.batches import endless_batches
from prospr_ops.network.loss import Objective
from prospr_ops.network.weights import prunable_weights
from prospr_ops.pruning.channels.groups import ChannelGroups

BY_NAME = {problem.name: problem for problem in PROBLEMS}
DETERMINISTIC = [problem for problem in PROBLEMS if problem.name != "subclassed_dropout"]


@pytest.mark.usefixtures("execution")
def test_by_hand():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign([[2.0], [-1.0]])
    x, y = np.array([[1.0, 3.0]], "float32"), np.array([[0.0]], "float32")
    # Residual r = 2·1 − 1·3 = −1, g = 2 r x, H = 2 x xᵀ, so Hg = 4 r |x|² x = −40 (1, 3).
    options = {"method": "grasp", "loss": "mean_squared_error", "verbose": 0}
    (scores,) = po.score(model, (x, y), **options).values()
    np.testing.assert_allclose(scores, [[-80.0], [120.0]], rtol=1e-6)
    # −40 · 1 · 2: the paper's S is +80, taking the first weight away raises the gradient flow.
    result = po.prune(model, (x, y), sparsity=0.5, **options)
    np.testing.assert_array_equal(*result.masks.values(), [[False], [True]])
    assert len(result.losses) == 1


@pytest.mark.usefixtures("float64")
def test_the_first_to_go_lets_the_gradient_flow():
    """The score is half the slope of ‖g‖² by the weight's mask value, by finite differences."""
    problem = BY_NAME["sequential"]
    model, batch = problem.model(), problem.data(dtype="float64")
    scores = po.score(
        model, [batch], method="grasp", loss=problem.loss_in("float64"), seed=1, verbose=0
    )
    objective = Objective.of(model, problem.loss_in("float64"))
    (data,) = (next(endless_batches([batch], 1, 1)),)
    kernel = model.layers[0].kernel
    before = kernel.numpy()

    def flow(index, mask_value):
        changed = before.copy()
        changed[index] *= mask_value
        kernel.assign(changed)
        with tf.GradientTape() as tape:
            loss = objective(data)
        variables = [variable.value for variable in model.trainable_variables]
        return sum(float(tf.reduce_sum(g**2)) for g in tape.gradient(loss, variables))

    for index in [(0, 0), (2, 3), (4, 5)]:
        slope = (flow(index, 1 + 1e-5) - flow(index, 1 - 1e-5)) / 2e-5
        assert scores[kernel.path][index] == pytest.approx(slope / 2, rel=1e-4, abs=1e-10)


@pytest.mark.usefixtures("float64", "execution")
@pytest.mark.parametrize("structure", ["weight", "channel"])
@pytest.mark.parametrize("problem", DETERMINISTIC, ids=lambda problem: problem.name)
def test_equals_its_reference(problem, structure):
    model, data = problem.model(), problem.data(dtype="float64")
    loss = problem.loss_in("float64")
    scores = po.score(
        model,
        data,
        method="grasp",
        loss=loss,
        structure=structure,
        batch_size=16,
        seed=3,
        verbose=0,
    )
    objective, batch = Objective.of(model, loss), next(endless_batches(data, 16, 3))
    if structure == "weight":
        weights = prunable_weights(model)
    else:
        groups = ChannelGroups.of(model)
        weights = groups.weights()
    found = po.reference.grasp_scores(objective, batch, [v.value for v in weights.values()])
    expected = {path: values.numpy() for path, values in zip(weights, found, strict=True)}
    if structure == "channel":
        expected = {
            path: np.array(
                [
                    sum(
                        np.take(
                            expected[name], np.flatnonzero(member.labels == label), member.axis
                        ).sum()
                        for name, member in groups.members.items()
                        if name in expected
                    )
                    for label in labels
                ]
            )
            for path, labels in groups.groups.items()
        }
    assert list(scores) == list(expected)
    scale = max(np.abs(values).max() for values in expected.values())
    assert scale > 0
    for path, values in expected.items():
        np.testing.assert_allclose(scores[path], values, rtol=1e-6, atol=1e-8 * scale)


@pytest.mark.usefixtures("execution")
def test_both_passes_see_the_same_dropout():
    """One unit in, dropped or not: with two masks the gradient would meet another Hessian."""
    inputs = keras.Input((1,))
    dropped = layers.Dropout(0.5, seed=1)(inputs)
    model = keras.Model(inputs, layers.Dense(1, use_bias=False)(dropped))
    model.layers[-1].kernel.assign([[1.0]])
    one = np.ones((1, 1), "float32")
    found = set()
    for seed in range(12):
        model.layers[1].seed_generator.state.assign([0, seed])
        (scores,) = po.score(
            model, (one, 0 * one), method="grasp", loss="mean_squared_error", verbose=0
        ).values()
        found.add(float(scores[0, 0]))
    # x is 0 or 2: with r = x, 4 r |x|² x is 0 or 64.
    assert found == {0.0, 64.0}


@pytest.mark.parametrize("microbatch", [5, 16])
def test_parts_give_the_same_scores(microbatch):
    problem = BY_NAME["every_kernel"]
    model, data = problem.model(), problem.data()
    options = {"method": "grasp", "loss": problem.loss, "batch_size": 16, "seed": 1, "verbose": 0}
    whole = po.score(model, data, **options)
    scale = max(np.abs(values).max() for values in whole.values())
    for path, values in po.score(model, data, microbatch=microbatch, **options).items():
        np.testing.assert_allclose(values, whole[path], rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_half_precision(policy):
    problem = BY_NAME["sequential"]
    model, data = problem.model(), problem.data()
    options = {"method": "grasp", "loss": problem.loss, "seed": 1, "verbose": 0}
    expected = np.concatenate([v.ravel() for v in po.score(model, data, **options).values()])
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        half = problem.model()
    finally:
        keras.config.set_dtype_policy(before)
    half.set_weights(model.get_weights())
    found = po.score(half, data, **options)
    assert all(values.dtype == np.float32 for values in found.values())
    found = np.concatenate([values.ravel() for values in found.values()])
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
