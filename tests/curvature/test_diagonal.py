from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from problems import LOGITS, PROBLEMS

import prospr_ops as po
from prospr_ops.network.loss import Batch, Objective
from prospr_ops.network.weights import prunable_weights

# Dropout draws a new mask in every forward pass, so two passes cannot be compared.
DETERMINISTIC = [problem for problem in PROBLEMS if "dropout" not in problem.name]


def _in_float64(problem):
    """The problem's model and batch, its loss and the brute-force Hessian."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        model = problem.model()
    finally:
        keras.config.set_dtype_policy(policy)
    x, y = problem.data(samples=7, dtype="float64")
    loss = problem.loss_in("float64")
    objective = Objective.of(model, loss)
    batch = Batch(x, y).map(tf.convert_to_tensor)
    weights = [variable.value for variable in prunable_weights(model).values()]
    return (model, x, y), loss, tf.function(po.reference.hessian)(objective, batch, weights).numpy()


@pytest.mark.parametrize("problem", DETERMINISTIC, ids=lambda problem: problem.name)
def test_row_sum_is_the_hessian_times_one(problem):
    model_and_batch, loss, hessian = _in_float64(problem)
    found = po.curvature.diagonal(*model_and_batch, loss=loss, estimator="row_sum")
    flat = np.concatenate([values.numpy().ravel() for values in found.values()])
    np.testing.assert_allclose(flat, hessian.sum(axis=1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("problem", DETERMINISTIC, ids=lambda problem: problem.name)
def test_hutchinson_converges_to_the_diagonal_at_its_known_rate(problem):
    """The error of the mean over n probes has variance Σ_{j≠i} H_ij² / n, element by element."""
    model_and_batch, loss, hessian = _in_float64(problem)
    probes = 100
    found = po.curvature.diagonal(
        *model_and_batch, loss=loss, estimator="hutchinson", probes=probes, seed=5
    )
    flat = np.concatenate([values.numpy().ravel() for values in found.values()])
    off_diagonal = hessian - np.diag(np.diag(hessian))
    deviation = np.sqrt((off_diagonal**2).sum(axis=1) / probes)
    error = np.abs(flat - np.diag(hessian))
    certain = deviation < 1e-12
    np.testing.assert_allclose(error[certain], 0, atol=1e-9)
    assert error[~certain].max(initial=0) > 0, "an estimate without error is no estimate"
    # For normal errors of deviation 1 the mean square would be 1; elements are correlated.
    standardised = error[~certain] / deviation[~certain]
    assert 0.4 < np.mean(standardised**2) < 2.0
    assert standardised.max() < 7


def test_hutchinson_repeats_for_a_seed_and_differs_without():
    problem = PROBLEMS[0]
    model, (x, y) = problem.model(), problem.data()

    def run(seed):
        found = po.curvature.diagonal(
            model, x, y, loss=problem.loss, estimator="hutchinson", seed=seed
        )
        return np.concatenate([values.numpy().ravel() for values in found.values()])

    np.testing.assert_array_equal(run(3), run(3))
    assert not np.array_equal(run(3), run(4))


def test_leaves_the_model_as_it_was():
    problem = next(p for p in PROBLEMS if "batchnorm" in p.name)
    model, (x, y) = problem.model(), problem.data()
    before = [variable.numpy() for variable in model.variables]
    po.curvature.diagonal(model, x, y, loss=problem.loss)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable)


def test_unknown_estimator_lists_the_known():
    model = PROBLEMS[0].model()
    with pytest.raises(ValueError, match=r"'hutchinson', 'row_sum'.*not 'exactly'"):
        po.curvature.diagonal(model, *PROBLEMS[0].data(), loss=LOGITS, estimator="exactly")


def test_infinite_curvature_names_the_weight():
    model = PROBLEMS[0].model()
    kernel = model.layers[0].kernel
    kernel.assign(keras.ops.full_like(kernel, 3e38))
    with pytest.raises(ValueError, match=f"curvature of {kernel.path} holds NaN or infinity"):
        po.curvature.diagonal(model, *PROBLEMS[0].data(), loss=LOGITS)


@pytest.mark.parametrize("estimator", ["auto", "hutchinson", "row_sum"])
def test_half_precision_is_summed_in_float32(estimator):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("bfloat16")
    try:
        model = PROBLEMS[0].model()
    finally:
        keras.config.set_dtype_policy(policy)
    found = po.curvature.diagonal(model, *PROBLEMS[0].data(), loss=LOGITS, estimator=estimator)
    assert {values.dtype for values in found.values()} == {tf.float32}


def test_one_sample_with_positions_stays_within_its_memory():
    """TensorFlow 2.21's product of four axes and two overruns its memory for a batch of one."""
    model = keras.Sequential(
        [
            keras.Input((9, 4)),
            layers.Conv1D(4, 1),
            layers.EinsumDense("abc,cd->abd", (9, 3)),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    random = np.random.default_rng(0)
    x, y = random.standard_normal((1, 9, 4)).astype("float32"), np.array([1])
    one = po.curvature.diagonal(model, x, y, loss=LOGITS, estimator="ggn")
    # The mean over two samples that are the same.
    two = po.curvature.diagonal(
        model, np.repeat(x, 2, axis=0), np.repeat(y, 2), loss=LOGITS, estimator="ggn"
    )
    for path, expected in two.items():
        np.testing.assert_allclose(one[path], expected, rtol=1e-4, atol=1e-6, err_msg=path)


@pytest.mark.parametrize(
    "normalisation",
    [layers.BatchNormalization, layers.LayerNormalization, lambda: layers.GroupNormalization(2)],
    ids=["batch", "layer", "group"],
)
def test_second_derivatives_of_statistics_are_those_of_finite_differences(normalisation):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        model = keras.Sequential(
            [keras.Input((5,)), layers.Dense(4), normalisation(), layers.Dense(3)]
        )
    finally:
        keras.config.set_dtype_policy(policy)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    random = np.random.default_rng(0)
    batch = Batch(tf.constant(random.standard_normal((7, 5))), tf.constant([0, 1, 2, 0, 1, 2, 0]))
    objective = Objective.of(model, loss)
    weight = model.layers[0].kernel.value

    def gradient():
        with tf.GradientTape() as tape:
            value = objective(batch)
        return tape.gradient(value, weight)

    start, step = tf.identity(weight), 1e-5
    direction = tf.constant(random.standard_normal(weight.shape))
    ends = []
    for sign in (1, -1):
        weight.assign(start + sign * step * direction)
        ends.append(gradient())
    weight.assign(start)
    expected = tf.reshape((ends[0] - ends[1]) / (2 * step), [-1])
    hessian = po.reference.hessian(objective, batch, [weight])
    found = tf.linalg.matvec(hessian, tf.reshape(direction, [-1]))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(hessian, tf.transpose(hessian), rtol=1e-9, atol=1e-12)
