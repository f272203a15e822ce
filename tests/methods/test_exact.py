"""The meta-gradient without unrolling, against one tape through all steps."""

from __future__ import annotations

import itertools
import math
from typing import Any

import ggn_problems
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from problems import LOGITS, PROBLEMS

import prospr_ops as po
from prospr_ops.data.batches import endless_batches
from prospr_ops.methods import exact
from prospr_ops.methods.engine import passes
from prospr_ops.network.loss import Objective
from prospr_ops.network.weights import prunable_weights

OPTIMIZERS = {
    "sgd": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.8, "nesterov": True},
}

# What the list of problems does not have: attention, shared and tied weights, lookups, recurrence.
MORE = {
    problem.name: problem
    for problem in [*ggn_problems.PROBLEMS, *ggn_problems.FALLBACKS]
    if problem.name
    in {
        "embedding",
        "conv3d",
        "separable conv2d, multiplier, strided",
        "multi-head attention",
        "shared conv2d",
        "recurrent",
        "tied embedding",
        "normalisation by the batch",
        "activity regulariser",
        "loss: sample weights",
        "huber",
        "several outputs",
    }
}


def _assert_equals_the_unrolled_tape(
    model: keras.Model,
    data: Any,
    loss: keras.losses.Loss | None,
    steps: int,
    tolerance: float = 1e-6,
    batch_size: int = 16,
    **descent: Any,
) -> None:
    scores = po.score(
        model,
        data,
        method="exact",
        loss=loss,
        steps=steps,
        batch_size=batch_size,
        seed=5,
        verbose=0,
        **descent,
    )
    stream = endless_batches(data, batch_size, 5)
    batches = [next(stream) for _ in range(steps + 1)]
    weights = prunable_weights(model)
    expected = po.reference.unrolled_meta_gradient(
        Objective.of(model, loss),
        batches,
        [weight.value for weight in weights.values()],
        **descent,
    )
    largest = max(np.abs(values).max() for values in expected)
    assert largest > 0
    for path, values in zip(weights, expected, strict=True):
        np.testing.assert_allclose(
            np.exp(scores[path]),
            np.abs(values),
            rtol=tolerance,
            atol=tolerance * largest,
            err_msg=path,
        )


@pytest.mark.usefixtures("float64", "execution")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_equals_the_unrolled_tape(problem, optimizer):
    """Batch statistics, residual sums, regularisers, and the same masks of dropout."""
    _assert_equals_the_unrolled_tape(
        problem.model(),
        problem.data(dtype="float64"),
        problem.loss_in("float64"),
        steps=5,
        learning_rate=0.3,
        **OPTIMIZERS[optimizer],
    )


@pytest.mark.usefixtures("float64", "execution")
@pytest.mark.parametrize("problem", MORE.values(), ids=MORE)
def test_equals_the_unrolled_tape_for_any_layer(problem):
    model, loss = problem.model(), problem.loss.make()
    if problem.loss.compiled:
        model.compile(loss=loss)
        loss = None
    _assert_equals_the_unrolled_tape(
        model, problem.data(), loss, steps=3, batch_size=4, learning_rate=0.2, momentum=0.9
    )


@pytest.mark.usefixtures("float64", "execution")
@pytest.mark.parametrize("steps", [0, 1])
def test_few_steps(steps):
    problem = PROBLEMS[2]
    model, data = problem.model(), problem.data(dtype="float64")
    loss = problem.loss_in("float64")
    _assert_equals_the_unrolled_tape(
        model, data, loss, steps, learning_rate=0.3, **OPTIMIZERS["nesterov"]
    )


@pytest.mark.usefixtures("execution")
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_equals_the_unrolled_tape_in_float32(problem):
    _assert_equals_the_unrolled_tape(
        problem.model(),
        problem.data(),
        problem.loss,
        steps=3,
        tolerance=2e-4,
        learning_rate=0.1,
        momentum=0.9,
    )


def test_no_steps_is_snip():
    problem = PROBLEMS[0]
    model, data = problem.model(), problem.data()
    options = {"loss": problem.loss, "seed": 4, "verbose": 0}
    exact = po.score(model, data, method="exact", steps=0, **options)
    for path, expected in po.score(model, data, method="snip", **options).items():
        np.testing.assert_allclose(exact[path], expected, rtol=1e-6)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("method", ["exact", "first_order", "grasp"])
def test_the_passes_of_a_method_share_one_trace_of_the_model(method, monkeypatch):
    """Tracing a deep network takes longer than a few steps of it."""
    traces = []
    plain_call = Objective.__call__

    def counting_call(self, *arguments):
        traces.extend([arguments] * tf.inside_function())
        return plain_call(self, *arguments)

    monkeypatch.setattr(Objective, "__call__", counting_call)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, activation="tanh"), layers.Dense(3)]
    )
    x = np.random.default_rng(0).normal(size=(32, 4))
    po.score(model, (x, np.arange(32) % 3), method=method, loss=LOGITS, batch_size=16, verbose=0)
    assert len(traces) == 1


@pytest.mark.parametrize("factor", [-2.0, -0.5])
def test_a_thousand_steps_neither_overflow_nor_vanish(factor):
    """One weight, at the minimum of every batch but the last: ∂w_M/∂w_0 = (1 − α h)^M."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign([[2.0]])
    one = np.ones((1, 1), "float32")
    steps, curvature = 1000, 2.0
    data = [(one, 2 * one)] * steps + [(one, one)]
    scores = po.score(
        model,
        data,
        method="exact",
        loss="mean_squared_error",
        steps=steps,
        learning_rate=(1 - factor) / curvature,
        verbose=0,
    )
    found = next(iter(scores.values())).item()
    # ∇L_M = 2 (w − 1) = 2, times w = 2.
    assert found == pytest.approx(math.log(4) + steps * math.log(abs(factor)), rel=1e-6)


@pytest.mark.usefixtures("traced")
def test_memory_of_a_step_is_let_go():
    """The steps leave tensors behind, not graphs: no more traces for more steps."""
    problem = PROBLEMS[0]
    model, data = problem.model(), problem.data()
    calls = []
    original = type(model).call

    def counted(self, *arguments, **options):
        calls.append(1)
        return original(self, *arguments, **options)

    counts = []
    for steps in (2, 9):
        calls.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(model), "call", counted)
            po.score(
                model, data, method="exact", loss=LOGITS, steps=steps, batch_size=16, verbose=0
            )
        counts.append(len(calls))
    assert counts[0] == counts[1]


@pytest.mark.usefixtures("execution")
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("dtypes", [("float64", "float32"), ("float32", "float64")])
def test_weights_of_two_dtypes(dtypes, momentum):
    first, second = (layers.Dense(3, dtype=dtype) for dtype in dtypes)
    model = keras.Sequential([keras.Input([4], dtype=dtypes[0]), first, second])
    twin = keras.Sequential([keras.Input([4]), *(layers.Dense(3, dtype="float64") for _ in "12")])
    twin.set_weights(model.get_weights())
    random = np.random.default_rng(0)
    data = random.standard_normal([40, 4]), random.standard_normal([40, 3])

    def scores(model):
        options = {"momentum": momentum, "batch_size": 8, "learning_rate": 0.1, "seed": 0}
        return po.score(model, data, method="exact", loss="mse", verbose=0, **options)

    found, expected = scores(model).values(), scores(twin).values()
    for values, others, dtype in zip(found, expected, dtypes, strict=True):
        assert values.dtype == dtype
        np.testing.assert_allclose(values, others, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("execution")
@pytest.mark.parametrize(("memory", "kept"), [(0, 0), (99, 0), (250, 2), (10**9, 4), (None, 4)])
def test_what_is_kept_is_not_computed_again_and_gives_the_same_bits(memory, kept, monkeypatch):
    """Each step makes the process grow by 100 bytes here."""
    problem, steps = PROBLEMS[2], 4
    model, data = problem.model(), problem.data()
    clock, calls = itertools.count(0, 100), []
    monkeypatch.setattr(exact, "used_bytes", lambda: next(clock))
    plain_taped = passes.taped

    def counting_taped(*arguments):
        calls.append(arguments)
        return plain_taped(*arguments)

    def scores(memory):
        calls.clear()
        return po.score(
            model,
            data,
            method="exact",
            loss=problem.loss,
            steps=steps,
            memory=memory,
            momentum=0.5,
            batch_size=16,
            seed=2,
            verbose=0,
        )

    expected = scores(0)
    monkeypatch.setattr(passes, "taped", counting_taped)
    found = scores(memory)
    assert len(calls) == (0 if memory == 0 else steps) + (steps - kept)
    for path, values in expected.items():
        np.testing.assert_array_equal(found[path], values)


@pytest.mark.parametrize(
    ("memory", "error"), [(-1, ValueError), (1.5, TypeError), ("1", TypeError)]
)
def test_bad_sizes_of_memory_are_refused(memory, error):
    problem = PROBLEMS[0]
    with pytest.raises(error, match="memory must be"):
        po.score(problem.model(), problem.data(), loss=LOGITS, memory=memory, verbose=0)


@pytest.mark.usefixtures("execution")
def test_derivatives_that_are_not_finite_name_the_step_and_the_weight():
    """x^1.5 at 0 has a finite slope and an infinite curvature."""
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(3, kernel_initializer="zeros", use_bias=False)]
    )
    path = model.layers[0].kernel.path
    before = [variable.numpy() for variable in model.variables]

    def loss(y_true, y_pred):
        return keras.ops.power(keras.ops.relu(y_pred), 1.5) + 0 * y_true

    data = np.ones((4, 2), "float32"), np.ones((4, 3), "float32")
    with pytest.raises(
        ValueError, match=f"step [12]: NaN or infinity in the Hessian-vector product of {path}"
    ):
        po.score(model, data, method="exact", loss=loss, verbose=0)
    for variable, old in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, old)


def test_half_precision_keeps_its_sums_in_float32():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("bfloat16")
    try:
        model = PROBLEMS[0].model()
    finally:
        keras.config.set_dtype_policy(policy)
    scores = po.score(
        model, PROBLEMS[0].data(), method="exact", loss=LOGITS, momentum=0.5, seed=1, verbose=0
    )
    assert all(values.dtype == np.float32 for values in scores.values())
    reference = PROBLEMS[0].model()
    for variable, other in zip(reference.variables, model.variables, strict=True):
        variable.assign(tf.cast(other.value, tf.float32))
    expected = po.score(
        reference, PROBLEMS[0].data(), method="exact", loss=LOGITS, momentum=0.5, seed=1, verbose=0
    )
    for found, wanted in zip(scores.values(), expected.values(), strict=True):
        assert np.corrcoef(np.exp(found).ravel(), np.exp(wanted).ravel())[0, 1] > 0.98
