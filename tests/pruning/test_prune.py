from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from problems import LOGITS, PROBLEMS

import prospr_ops as po
from prospr_ops.curvature import ESTIMATORS
from prospr_ops.curvature.row_sum import row_sum_estimate
from prospr_ops.data.batches import endless_batches
from prospr_ops.methods import METHODS
from prospr_ops.network.loss import Objective
from prospr_ops.network.weights import prunable_weights

NAMES = [problem.name for problem in PROBLEMS]


def _state(model):
    return [variable.numpy() for variable in model.variables]


def _assert_unchanged(model, state):
    for variable, old in zip(model.variables, state, strict=True):
        np.testing.assert_array_equal(variable, old, err_msg=variable.path)
    assert all(variable.constraint is None for variable in model.trainable_variables)


@pytest.mark.filterwarnings("ignore:model.save will not write the masks")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=NAMES)
def test_prune_keeps_exactly_what_was_asked_and_restores_the_rest(problem, method):
    model, data = problem.model(), problem.data()
    state = _state(model)
    weights = prunable_weights(model)
    scores = po.score(model, data, method=method, loss=problem.loss, seed=2, verbose=0)
    _assert_unchanged(model, state)
    assert list(scores) == list(weights)

    result = po.prune(
        model,
        data,
        sparsity=0.4,
        method=method,
        loss=problem.loss,
        seed=2,
        batch_size=16,
        allow_empty=True,
        verbose=0,
    )
    size = sum(weight.numpy().size for weight in weights.values())
    assert result.weights == size
    assert result.kept == -(-size * 6 // 10)
    by_id = {id(variable): path for path, variable in weights.items()}
    for variable, old in zip(model.variables, state, strict=True):
        mask = result.masks[by_id[id(variable)]] if id(variable) in by_id else True
        np.testing.assert_array_equal(variable, np.where(mask, old, 0))
    passes = METHODS[method].passes
    batches = 0 if passes(3) == 0 else 1 if passes(3) == passes(0) else 3 + 1
    assert len(result.losses) == batches

    model.compile(keras.optimizers.AdamW(0.01), problem.loss)
    model.fit(*data, verbose=0)
    for path, weight in weights.items():
        assert (weight.numpy()[~result.masks[path]] == 0).all()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("curvature", ["row_sum", "hutchinson"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=NAMES)
def test_diagonal_equals_its_reference(problem, curvature, momentum):
    """The compiled, traced, logarithmic loop against an eager one in plain numbers."""
    options = {"learning_rate": 0.3, "momentum": momentum}
    model, data = problem.model(), problem.data()
    scores = po.score(
        model,
        data,
        method="diagonal",
        loss=problem.loss,
        curvature=curvature,
        steps=4,
        batch_size=16,
        seed=11,
        verbose=0,
        **options,
    )
    seeds = [variable for variable in model.variables if "seed" in variable.path]
    objective = Objective.of(model, problem.loss)
    stream = endless_batches(data, 16, 11)
    batches = [next(stream) for _ in range(5)]
    weights = [variable.value for variable in prunable_weights(model).values()]
    estimate = ESTIMATORS[curvature]

    def diagonal(batch, number):
        before = [tf.identity(variable.value) for variable in seeds]
        found = estimate(objective, batch, [], weights, 1, tf.constant([11, number], tf.int64))
        for variable, value in zip(seeds, before, strict=True):
            variable.assign(value)  # the gradient of this step sees the same dropout mask
        return found.diagonal

    expected = po.reference.diagonal_scores(
        objective, batches, weights, diagonal, options["learning_rate"], options["momentum"]
    )
    for (path, found), signed in zip(scores.items(), expected, strict=True):
        wanted = np.abs(signed.numpy().astype(np.float64))
        scale = wanted.max()
        np.testing.assert_allclose(
            np.exp(found.astype(np.float64)), wanted, rtol=2e-3, atol=2e-5 * scale, err_msg=path
        )


def test_no_steps_is_snip_and_first_order_too():
    problem = PROBLEMS[0]
    model, data = problem.model(), problem.data()
    options = {"loss": problem.loss, "seed": 4, "verbose": 0}
    snip = po.score(model, data, method="snip", **options)
    for method in ("diagonal", "first_order"):
        scores = po.score(model, data, method=method, steps=0, **options)
        for path, expected in snip.items():
            np.testing.assert_allclose(scores[path], expected, rtol=1e-6)


def test_snip_is_gradient_times_weight():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign([[2.0], [-1.0]])
    x, y = np.array([[1.0, 3.0]], "float32"), np.array([[0.0]], "float32")
    # loss (2·1 − 1·3)² = 1, gradient 2·(−1)·x = (−2, −6)
    scores = po.score(model, (x, y), method="snip", loss="mean_squared_error", verbose=0)
    np.testing.assert_allclose(np.exp(next(iter(scores.values()))), [[4.0], [6.0]], rtol=1e-6)


def test_compiled_loss_is_the_default_and_regularisers_count():
    problem = next(p for p in PROBLEMS if p.name == "regularised")
    model, data = problem.model(), problem.data()
    given = po.score(model, data, method="snip", loss=problem.loss, seed=1, verbose=0)
    model.compile("sgd", problem.loss)
    compiled = po.score(model, data, method="snip", seed=1, verbose=0)
    for path in given:
        np.testing.assert_allclose(given[path], compiled[path], rtol=1e-5)
    model.layers[0].kernel.regularizer = None
    without = po.score(model, data, method="snip", seed=1, verbose=0)
    first = next(iter(given))
    assert not np.allclose(given[first], without[first])


@pytest.mark.parametrize("kind", ["dataset", "list"])
def test_data_may_be_a_dataset_or_a_list_of_batches_and_starts_over(kind):
    problem = PROBLEMS[0]
    model, (x, y) = problem.model(), problem.data()
    batches = [(x[i : i + 16], y[i : i + 16]) for i in (0, 16)]
    data = tf.data.Dataset.from_tensor_slices((x[:32], y[:32])).batch(16)
    options = {
        "loss": problem.loss,
        "method": "diagonal",
        "curvature": "row_sum",
        "steps": 3,
        "verbose": 0,
    }
    found = po.score(model, data if kind == "dataset" else batches, **options)
    repeated = po.score(model, [*batches, *batches], **options)
    for path in found:
        np.testing.assert_array_equal(found[path], repeated[path])


def test_sample_weights_count():
    problem = PROBLEMS[0]
    model, (x, y) = problem.model(), problem.data()
    weight = np.zeros(len(x), "float32")
    weight[:8] = len(x) / 8
    options = {"method": "snip", "loss": problem.loss, "batch_size": 48, "verbose": 0}
    weighted = po.score(model, (x, y, weight), **options)
    first_eight = po.score(model, (x[:8], y[:8]), **options)
    for path in weighted:
        np.testing.assert_allclose(
            np.exp(weighted[path]), np.exp(first_eight[path]), rtol=1e-4, atol=1e-7
        )


def test_step_is_traced_once(monkeypatch):
    problem = PROBLEMS[0]
    traces = []

    def counted(*arguments):
        traces.append(1)
        return row_sum_estimate(*arguments)

    monkeypatch.setitem(ESTIMATORS, "row_sum", counted)
    po.score(
        problem.model(),
        problem.data(),
        method="diagonal",
        loss=problem.loss,
        curvature="row_sum",
        steps=12,
        batch_size=16,
        verbose=0,
    )
    assert len(traces) == 1


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float64"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_every_precision(dtype, momentum):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        model = PROBLEMS[0].model()
    finally:
        keras.config.set_dtype_policy(policy)
    state = _state(model)
    scores = po.score(model, PROBLEMS[0].data(), loss=LOGITS, momentum=momentum, seed=0, verbose=0)
    for variable, old in zip(model.variables, state, strict=True):
        assert variable.numpy().tobytes() == old.tobytes()
    expected = np.float64 if dtype == "float64" else np.float32
    assert all(values.dtype == expected for values in scores.values())
    assert all(np.isfinite(values).any() for values in scores.values())


def test_prunable_by_function_and_by_path():
    model, data = PROBLEMS[0].model(), PROBLEMS[0].data()
    first, second = (layer.kernel.path for layer in model.layers)
    options = {"method": "magnitude", "verbose": 0}
    assert list(po.score(model, data, prunable=lambda layer, _: layer.name, **options)) == [
        variable.path for variable in model.trainable_variables
    ]
    assert list(po.score(model, data, prunable=[second], **options)) == [second]
    assert list(po.score(model, data, prunable=["*kernel"], **options)) == [first, second]
    model.layers[0].trainable = False
    assert list(po.score(model, data, **options)) == [second]


@pytest.mark.filterwarnings("ignore:model.save will not write the masks")
def test_layers_of_the_same_name_are_told_apart():
    class Twice(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [layers.Dense(4, name="same"), layers.Dense(4, name="same")]

        def call(self, x):
            for part in self.parts:
                x = part(x)
            return x

    model = Twice()
    model(np.zeros((1, 4), "float32"))
    masks = po.prune(model, None, sparsity=0.5, method="magnitude", verbose=0).masks
    assert len(masks) == 2
    assert len({id(v) for v in prunable_weights(model).values()}) == 2


def test_result_and_progress_are_readable(capsys):
    problem = PROBLEMS[0]
    result = po.prune(
        problem.model(),
        problem.data(),
        sparsity=0.5,
        method="diagonal",
        loss=problem.loss,
        seed=3,
        verbose=1,
    )
    shown = capsys.readouterr().out
    assert "kernel" in shown
    assert "total" in shown
    assert repr(result).startswith("PruneResult(method='diagonal', sparsity=0.5, kept=24 of 48")
    assert result.settings["seed"] == 3
    assert set(result.estimators.values()) == {"ggn (exact)"}


def test_same_seed_same_masks_and_a_seed_is_recorded():
    problem = PROBLEMS[3]
    model, data = problem.model(), problem.data()
    options = {"loss": problem.loss, "batch_size": 8, "verbose": 0}
    keras.utils.set_random_seed(1)
    first = po.score(model, data, seed=9, **options)
    again = po.score(model, data, seed=9, **options)
    other = po.score(model, data, seed=10, **options)
    for path in first:
        np.testing.assert_array_equal(first[path], again[path])
    assert any(not np.array_equal(first[path], other[path]) for path in first)


# --- bad input -----------------------------------------------------------------------------------

X, Y = PROBLEMS[0].data()


def _nan_x():
    x = X.copy()
    x[5, 2] = np.nan
    return x


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sparsity": -0.1}, ValueError, "sparsity must be at least 0 and less than 1, not -0.1"),
        ({"sparsity": 1}, ValueError, "sparsity must be at least 0 and less than 1, not 1"),
        ({"sparsity": float("nan")}, ValueError, "sparsity must be"),
        ({"sparsity": "half"}, TypeError, "sparsity must be a number, not str"),
        ({"steps": -1}, ValueError, "steps must be at least 0, not -1"),
        ({"steps": 1.5}, TypeError, "steps must be an integer"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must be at least 0 and fin"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate must be at least 0"),
        ({"momentum": 1.0}, ValueError, "momentum must be at least 0 and less than 1"),
        ({"nesterov": True}, ValueError, "nesterov needs a momentum above 0"),
        ({"nesterov": 1}, TypeError, "nesterov must be True or False"),
        (
            {"method": "diagonal", "nesterov": True, "momentum": 0.9},
            ValueError,
            "'diagonal' knows plain momentum only",
        ),
        ({"probes": 0}, ValueError, "probes must be at least 1"),
        ({"probes": 2, "method": "exact"}, ValueError, "probes=2 is given with 'exact'"),
        (
            {"curvature": "ggn", "method": "snip"},
            ValueError,
            "curvature='ggn' is given with 'snip'",
        ),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"method": "obd"}, ValueError, "method must be one of 'exact', .*'random', not 'obd'"),
        ({"curvature": "exact"}, ValueError, "curvature must be one of 'auto', .*not 'exact'"),
        ({"min_keep": -1}, ValueError, "min_keep must be at least 0, not -1"),
        ({"min_keep": 1.5}, TypeError, "min_keep must be an integer, not float"),
        ({"min_keep": 30}, ValueError, "min_keep=30 keeps .* weights, but sparsity 0.5 leaves"),
        ({"scope": "block"}, ValueError, "scope must be one of 'global', 'layer', 'erk', not"),
        (
            {"structure": "row"},
            ValueError,
            "structure must be one of 'weight', 'channel', not 'row'",
        ),
        ({"loss": None}, ValueError, "no loss is given and model .* is not compiled"),
        ({"loss": "squares"}, ValueError, "squares"),
        ({"loss": 3}, TypeError, "loss must be a Keras loss"),
        ({"prunable": ["nothing*"]}, ValueError, r"'nothing\*' matches none of"),
        ({"data": (X[:0], Y[:0])}, ValueError, "data must be arrays of one length, at least 1"),
        ({"data": (X, Y[:3])}, ValueError, r"arrays of one length.*\(48, 5\), \(3,\)"),
        ({"data": []}, ValueError, "data is empty"),
        ({"data": [X]}, ValueError, "data has no targets"),
        ({"data": iter([(X, Y)])}, ValueError, "ended after 1 batches, and more are needed"),
        ({"data": 5}, TypeError, "data must be a tuple"),
        ({"data": None}, TypeError, "no data is given"),
        ({"data": (X, Y + 1)}, ValueError, "labels of batch 0 range from 1 to 3; .* from 0 to 2"),
        ({"data": (X, Y - 1)}, ValueError, "labels of batch 0 range from -1 to 1"),
        ({"data": (_nan_x(), Y)}, ValueError, "x of batch 0 holds NaN"),
        ({"data": [(X, Y), (_nan_x(), Y)]}, ValueError, "x of batch 1 holds NaN"),
        ({"data": (X[:, :4], Y)}, ValueError, "shape"),
        ({"learning_rate": 1e38}, ValueError, r"step [12]|scores of"),
    ],
)
def test_bad_arguments_leave_the_model_alone(options, error, message):
    model = PROBLEMS[0].model()
    state = _state(model)
    arguments = {
        "data": (X, Y),
        "sparsity": 0.5,
        "loss": LOGITS,
        "batch_size": 48,
        "verbose": 0,
        **options,
    }
    with pytest.raises(error, match=message):
        po.prune(model, **arguments)
    _assert_unchanged(model, state)


def test_a_loss_that_diverges_names_the_step():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3)])
    state = _state(model)
    with pytest.raises(ValueError, match=r"the loss of step 2 is (inf|nan).*lower learning_rate"):
        po.prune(
            model,
            (X, np.zeros((48, 3), "float32")),
            sparsity=0.5,
            loss="mean_squared_error",
            learning_rate=1e15,
            steps=5,
            method="first_order",
            verbose=0,
        )
    _assert_unchanged(model, state)


def test_derivatives_that_are_not_finite_name_the_step_and_the_weight():
    """√|x| at 0 has a finite value and no finite slope."""
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3, kernel_initializer="zeros")])
    path = model.layers[0].kernel.path

    def loss(y_true, y_pred):
        return keras.ops.sqrt(keras.ops.abs(y_pred)) + 0 * y_true

    for method in ("diagonal", "first_order"):
        with pytest.raises(ValueError, match=f"step 0: NaN or infinity in .* of {path}"):
            po.score(model, (X, np.ones((48, 3), "float32")), loss=loss, method=method, verbose=0)


def test_an_unbuilt_model_is_refused():
    model = keras.Sequential([layers.Dense(3)])
    with pytest.raises(ValueError, match="is not built"):
        po.prune(model, (X, Y), sparsity=0.5, loss=LOGITS, verbose=0)


def test_a_model_without_prunable_layers_is_refused():
    model = keras.Sequential([keras.Input((5,)), layers.BatchNormalization()])
    with pytest.raises(ValueError, match="has nothing to prune"):
        po.prune(model, (X, Y), sparsity=0.5, loss=LOGITS, verbose=0)


def test_no_model_is_refused():
    with pytest.raises(TypeError, match=r"model must be a keras\.Model, not list"):
        po.prune([], (X, Y), sparsity=0.5, loss=LOGITS, verbose=0)


def test_an_interrupted_run_leaves_the_model_alone():
    model = PROBLEMS[0].model()
    state = _state(model)

    class Interrupted:
        def __iter__(self):
            yield X[:16], Y[:16]
            yield X[16:32], Y[16:32]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        po.prune(model, Interrupted(), sparsity=0.5, loss=LOGITS, verbose=0)
    _assert_unchanged(model, state)
