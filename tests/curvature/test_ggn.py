"""The closed-form estimators against brute force, in float64."""

from __future__ import annotations

import itertools
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import ggn_problems
import keras
import numpy as np
import pytest
import tensorflow as tf
from ggn_problems import FALLBACKS, LOGITS, PROBLEMS

import prospr_ops as po
from prospr_ops.curvature import ESTIMATORS, backpropagation
from prospr_ops.data.batches import endless_batches
from prospr_ops.network.loss import Batch, Objective
from prospr_ops.network.restore import preserved
from prospr_ops.network.tracing import traced
from prospr_ops.network.weights import prunable_weights

# The package has a function of the module's name.
GGN = sys.modules["prospr_ops.curvature.ggn"]


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.backend.clear_session(free_memory=False)  # names of layers start over
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


class Set(NamedTuple):
    """A problem, ready to run."""

    model: keras.Model
    objective: Objective
    batch: Batch
    weights: dict[str, tf.Variable]


def set_up(problem) -> Set:
    model = problem.model()
    # Biases of zero would hide mistakes.
    random = np.random.default_rng(11)
    for variable in model.trainable_variables:
        if not np.any(variable.numpy()):
            variable.assign(random.uniform(-0.3, 0.3, variable.shape))
    loss = problem.loss.make()
    if problem.loss.compiled:
        model.compile(loss=loss)
        loss = None
    batch = Batch(*problem.data()).map(tf.convert_to_tensor)
    objective = Objective.of(model, loss)
    if problem.loss.compiled:
        with preserved(model):
            objective(batch)  # Keras builds some of the loss on first use
    weights = {path: variable.value for path, variable in prunable_weights(model).items()}
    return Set(model, objective, batch, weights)


class Found(NamedTuple):
    diagonal: np.ndarray
    origin: str


def estimate(ready: Set, name: str, probes: int = 1, seed: int = 5) -> dict[str, Found]:
    """What an estimator finds, by weight."""
    origins: list[str] = []

    def run() -> list[tf.Tensor]:
        found = ESTIMATORS[name](
            ready.objective,
            ready.batch,
            [],
            list(ready.weights.values()),
            probes,
            tf.constant([seed, 0]),
        )
        origins.extend(found.origin)
        return found.diagonal

    with preserved(ready.model):
        diagonal = [values.numpy() for values in traced(run)()]
    return dict(zip(ready.weights, map(Found, diagonal, origins), strict=True))


def hessian_diagonal(ready: Set, paths: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """The Hessian's diagonal by some of the weights."""
    paths = list(ready.weights if paths is None else paths)
    with preserved(ready.model):
        found = po.reference.hessian_diagonal(
            ready.objective, ready.batch, [ready.weights[path] for path in paths]
        )
    return dict(zip(paths, (values.numpy() for values in found), strict=True))


def loss_hessian(kind: str, logits: tf.Tensor) -> tf.Tensor:
    """Second derivatives of each sample's loss by its logits, [N, C, C]."""
    outputs = logits.shape[-1]
    if kind == "softmax":
        p = tf.nn.softmax(logits)
        return tf.linalg.diag(p) - p[:, :, None] * p[:, None, :]
    if kind == "sigmoid":
        p = tf.sigmoid(logits)
        return tf.linalg.diag(p * (1 - p)) / outputs
    return tf.eye(outputs, batch_shape=[logits.shape[0]], dtype=logits.dtype) * 2 / outputs


def gauss_newton_diagonal(ready: Set, case: ggn_problems.LossCase) -> dict[str, np.ndarray]:
    """diag(Jᵀ B J) for the average of the samples' losses, J by brute force."""
    weights = list(ready.weights.values())

    @traced
    def run() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = ready.model(ready.batch.x, training=True)
            if case.probabilities and case.kind == "softmax":
                logits = tf.math.log(logits)  # up to a constant a sample, which B does not see
            elif case.probabilities:
                logits = tf.math.log(logits) - tf.math.log1p(-logits)
        jacobians = tape.jacobian(
            logits,
            weights,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
            experimental_use_pfor=False,
        )
        b = loss_hessian(case.kind, logits) / logits.shape[0]
        found = []
        for weight, jacobian in zip(weights, jacobians, strict=True):
            flat = tf.reshape(jacobian, [*logits.shape, -1])
            diagonal = tf.einsum("ncw,ncd,ndw->w", flat, b, flat)
            found.append(tf.reshape(diagonal, weight.shape))
        return found

    with preserved(ready.model):
        found = [values.numpy() for values in run()]
    l2 = {
        path: getattr(variable.regularizer, "l2", 0.0)
        for path, variable in prunable_weights(ready.model).items()
    }
    return {path: values + 2 * l2[path] for path, values in zip(ready.weights, found, strict=True)}


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest element."""
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12))


def named(problems):
    return pytest.mark.parametrize("problem", problems, ids=lambda problem: problem.name)


def of_name(*names: str):
    """Problems by name."""
    by_name = {problem.name: problem for problem in PROBLEMS}
    return [by_name[name] for name in names]


def check_verdicts(problem, ready: Set, found: dict[str, Found]) -> None:
    """The origins are as expected, and each diagonal is what its origin says."""
    for path, (_, origin) in found.items():
        expected = next((o for key, o in problem.origins.items() if key in path), problem.origin)
        assert re.match(expected, origin), f"{path}: {origin}"
        assert origin.startswith(("ggn (exact)", "ggn (Gauss-Newton: ", "hutchinson ("))
    truth = {}
    if any("Gauss-Newton" in origin for _, origin in found.values()):
        truth = gauss_newton_diagonal(ready, problem.loss)
    exact = [path for path, (_, origin) in found.items() if origin == "ggn (exact)"]
    if exact:
        truth |= hessian_diagonal(ready, exact)
    for path, (diagonal, origin) in found.items():
        if not origin.startswith("hutchinson"):
            assert np.abs(truth[path]).max() > 1e-6, f"{path}: zeros prove nothing"
            assert error(diagonal, truth[path]) < 1e-11, path


@named(PROBLEMS)
def test_closed_form_equals_brute_force(problem):
    """The Hessian's diagonal where the origin says "exact", else the Gauss-Newton matrix's."""
    ready = set_up(problem)
    check_verdicts(problem, ready, estimate(ready, "auto"))


@named(FALLBACKS)
def test_never_wrong_in_silence(problem):
    """What has no closed form is left to hutchinson, with the reason; the rest is right."""
    ready = set_up(problem)
    found = estimate(ready, "auto")
    check_verdicts(problem, ready, found)


@named(FALLBACKS[1::6])
@pytest.mark.parametrize("name", ["ggn", "ggn_mc"])
def test_the_closed_form_alone_refuses(problem, name):
    """Naming the weight and the reason that "auto" gives."""
    ready = set_up(problem)
    found = estimate(ready, "auto")
    path, origin = next((p, f.origin) for p, f in found.items() if "ggn" not in f.origin)
    reason = origin.removeprefix("hutchinson (").removesuffix(")")
    message = rf"'{name}' has no closed form for .*{re.escape(f'{path}: {reason}')}"
    with pytest.raises(ValueError, match=message):
        estimate(ready, name)


def test_the_tables_hold_what_they_should():
    assert len(PROBLEMS) >= 24
    names = [problem.name for problem in [*PROBLEMS, *FALLBACKS]]
    assert len(set(names)) == len(names)


@named(of_name("conv2d, max pooling", "multi-head attention"))
def test_ggn_is_auto_where_everything_has_the_closed_form(problem):
    ready = set_up(problem)
    auto, ggn = estimate(ready, "auto"), estimate(ready, "ggn")
    for path in auto:
        np.testing.assert_array_equal(auto[path].diagonal, ggn[path].diagonal)
        assert auto[path].origin == ggn[path].origin


@named(of_name("dropout", "regularisers L1 and L2"))
@pytest.mark.parametrize("name", ["auto", "ggn_mc"])
def test_loss_and_gradient_are_those_of_the_same_pass(problem, name):
    ready = set_up(problem)
    variables = [variable.value for variable in ready.model.trainable_variables]
    weights = list(ready.weights.values())

    def run():
        found = ESTIMATORS[name](
            ready.objective, ready.batch, variables, weights, 1, tf.constant([5, 0])
        )
        return found.loss, found.gradients

    def plain():
        with tf.GradientTape() as tape:
            loss = ready.objective(ready.batch)
        return loss, tape.gradient(loss, variables)

    with preserved(ready.model):
        loss, gradients = traced(run)()
    with preserved(ready.model):
        expected_loss, expected = traced(plain)()
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-14)
    for found, truth in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(found, truth, rtol=1e-12, atol=1e-15)


@named(of_name("residual sum", "loss: squared error", "loss: binary cross-entropy"))
def test_random_columns_converge_at_their_rate(problem, monkeypatch):
    """64 times the probes give an 8th of the error."""
    monkeypatch.setattr(GGN, "COLUMN_BYTES", 1)  # a loop in the graph
    ready = set_up(problem)
    truth = np.concatenate([f.diagonal.ravel() for f in estimate(ready, "ggn").values()])
    errors = []
    for probes in (40, 2560):
        found = estimate(ready, "ggn_mc", probes=probes).values()
        flat = np.concatenate([f.diagonal.ravel() for f in found])
        errors.append(np.linalg.norm(flat - truth) / np.linalg.norm(truth))
    assert 4 < errors[0] / errors[1] < 16
    assert errors[1] < 0.05


def test_random_columns_repeat_for_a_seed_whatever_the_chunks(monkeypatch):
    ready = set_up(PROBLEMS[0])

    def run(seed):
        return np.concatenate(
            [f.diagonal.ravel() for f in estimate(ready, "ggn_mc", 6, seed).values()]
        )

    first, other = run(3), run(4)
    np.testing.assert_array_equal(first, run(3))
    assert not np.array_equal(first, other)
    monkeypatch.setattr(GGN, "COLUMN_BYTES", 1)
    np.testing.assert_allclose(run(3), first, rtol=1e-13)


def on(ready: Set, rows) -> Set:
    """The same, with some of the samples."""
    return ready._replace(batch=ready.batch.map(lambda tensor: tf.gather(tensor, rows)))


@named(of_name("residual sum", "shared embedding"))
def test_a_batch_is_the_mean_of_its_samples_in_any_order(problem):
    ready = set_up(problem)
    whole = estimate(ready, "ggn")
    turned = estimate(on(ready, [4, 2, 0, 6, 1, 5, 3]), "ggn")
    singles = [estimate(on(ready, [i]), "ggn") for i in range(problem.samples)]
    for path, (diagonal, _) in whole.items():
        mean = np.mean([single[path].diagonal for single in singles], axis=0)
        assert error(diagonal, mean) < 1e-12
        assert error(turned[path].diagonal, diagonal) < 1e-12


def many_classes(classes: int) -> Set:
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(classes)]
    )
    random = np.random.default_rng(3)
    x, y = random.standard_normal((7, 5)), random.integers(0, classes, 7)
    objective = Objective.of(model, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batch = Batch(x, y).map(tf.convert_to_tensor)
    weights = {path: variable.value for path, variable in prunable_weights(model).items()}
    return Set(model, objective, batch, weights)


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_columns_in_chunks_make_no_difference(chunk, monkeypatch):
    """37 classes have 36 columns; 5 does not divide them."""
    ready = many_classes(37)
    truth = hessian_diagonal(ready)
    column = 8 * 7 * (3 + 37)
    monkeypatch.setattr(GGN, "COLUMN_BYTES", chunk * column)
    for path, (diagonal, _) in estimate(ready, "ggn").items():
        assert error(diagonal, truth[path]) < 1e-11


@named(of_name("conv2d three times, max pooling of many windows", "dense"))
def test_what_the_kernels_do_not_take_is_multiplied_before(problem, monkeypatch):
    """Half precision and GPUs do without the kernels for pooled gradients."""
    ready = set_up(problem)
    calls = []
    for name in ("pooled_conv_curvature", "pooled_conv_input_gradient"):
        kernel = getattr(po.ops, name)
        monkeypatch.setattr(
            po.ops, name, lambda *a, k=kernel, n=name, **b: (calls.append(n), k(*a, **b))[1]
        )
    with_kernels = estimate(ready, "ggn")
    assert calls
    if "conv2d" in problem.name:
        assert set(calls) == {"pooled_conv_curvature", "pooled_conv_input_gradient"}
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    calls.clear()
    for path, (diagonal, _) in estimate(ready, "ggn").items():
        assert error(diagonal, with_kernels[path].diagonal) < 1e-12
    assert not calls


def test_one_class_has_no_curvature():
    for diagonal, origin in estimate(many_classes(1), "auto").values():
        np.testing.assert_array_equal(diagonal, 0)
        assert origin == "ggn (exact)"


def test_a_softmax_that_is_said_to_be_logits():
    """Keras warns, and takes what went into the softmax; so does the closed form."""
    problem = of_name("loss: sparse cross-entropy of a softmax output")[0]
    loss = ggn_problems.LossCase(LOGITS.make)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*received `from_logits=True`, but.*")
        ready = set_up(replace(problem, loss=loss))
        check_verdicts(problem, ready, estimate(ready, "auto"))


def own_attributes(model):
    return [dict(vars(layer)) for layer in model._flatten_layers()]


def assert_same_attributes(model, before):
    for layer, attributes in zip(model._flatten_layers(), before, strict=True):
        assert vars(layer).keys() == attributes.keys()
        for name in ("call", "activation"):
            assert vars(layer).get(name) is attributes.get(name)


def test_layers_are_as_before():
    problem = of_name("concatenation")[0]
    ready = set_up(problem)
    before = own_attributes(ready.model)
    assert all("call" not in attributes for attributes in before)
    estimate(ready, "auto")
    assert_same_attributes(ready.model, before)


def test_layers_and_loss_are_as_before_when_the_model_raises():
    def call(x, body, head):
        hidden = body(x)
        if broken:
            msg = "in the middle"
            raise RuntimeError(msg)
        return head(hidden)

    broken = False
    base = FALLBACKS[0]
    make = ggn_problems._own(call, ggn_problems._relu, ggn_problems._head)
    ready = set_up(replace(base, model=make))
    before = own_attributes(ready.model)
    broken = True
    with pytest.raises(RuntimeError, match="in the middle"):
        estimate(ready, "auto")
    assert_same_attributes(ready.model, before)
    assert "call" not in vars(ready.objective.loss)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
@named(of_name("separable conv1d"))
def test_half_precision_is_near_single(problem, policy):
    def run(dtype):
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy(dtype)
        keras.backend.clear_session(free_memory=False)
        keras.utils.set_random_seed(7)
        model = problem.model()
        return po.curvature.diagonal(
            model, *problem.data("float32"), loss=LOGITS.make(), estimator="ggn"
        ), prunable_weights(model)

    (single, _), (half, variables) = run("float32"), run(policy)
    tolerance = 0.15 if "bfloat16" in policy else 0.02
    for path, values in half.items():
        assert values.dtype == tf.float32
        assert values.shape == variables[path].shape
        assert error(values.numpy(), single[path].numpy()) < tolerance


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@named(of_name("dense", "conv2d, max pooling", "residual sum"))
def test_method_diagonal_equals_its_twin_with_the_brute_force_diagonal(problem, momentum):
    ready = set_up(problem)
    weights = list(ready.weights.values())
    options = {"learning_rate": 0.25, "momentum": momentum}
    data, steps, size, seed = problem.data(), 3, 3, 4
    result = po.prune(
        ready.model,
        data,
        sparsity=0,
        loss=ready.objective.loss,
        method="diagonal",
        curvature="auto",
        steps=steps,
        batch_size=size,
        seed=seed,
        verbose=0,
        **options,
    )
    assert set(result.estimators.values()) == {"ggn (exact)"}
    batches = list(itertools.islice(endless_batches(data, size, seed), steps + 1))
    expected = po.reference.diagonal_scores(
        ready.objective,
        batches,
        weights,
        lambda batch, _: po.reference.hessian_diagonal(ready.objective, batch, weights),
        **options,
    )
    for values, truth in zip(result.scores.values(), expected, strict=True):
        expected_score = np.abs(truth.numpy())
        np.testing.assert_array_equal(np.isneginf(values), expected_score == 0)
        # The op's learning rate and momentum are float32.
        scale = expected_score.max()
        np.testing.assert_allclose(np.exp(values), expected_score, rtol=1e-6, atol=1e-7 * scale)


def test_result_says_which_estimator_each_weight_got():
    problem = FALLBACKS[0]
    ready = set_up(problem)
    data, loss = problem.data(), ready.objective.loss
    options = {"method": "diagonal", "sparsity": 0.5, "loss": loss, "verbose": 0}
    result = po.prune(ready.model, data, steps=2, seed=1, **options)
    origins = [result.estimators[path] for path in ready.weights]
    assert re.match(problem.origin, origins[0])
    assert origins[1] == "ggn (exact)"
    before = [variable.numpy() for variable in ready.model.variables]
    with pytest.raises(ValueError, match=r"dense/kernel: .* may mix samples"):
        po.prune(ready.model, data, curvature="ggn", **options)
    for variable, old in zip(ready.model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, old)


@pytest.mark.parametrize(
    ("window", "padding", "tiles"),
    [
        ([1, 2, 2, 1], "VALID", True),
        ([1, 2, 2, 1], "SAME", True),
        ([1, 4, 1, 1], "VALID", True),
        ([1, 3, 3, 1], "SAME", False),
        ([1, 2, 2, 1], [[0, 0], [1, 0], [1, 0], [0, 0]], False),  # as many windows, shifted
        ([1, 1, 1, 2], "VALID", False),
    ],
)
def test_which_pooling_tiles(window, padding, tiles):
    with tf.Graph().as_default():
        pooled = tf.nn.max_pool2d(tf.ones([1, 4, 4, 2]), window, window, padding)
        assert backpropagation._is_tiling(pooled.op) is tiles
