"""Pruning in rounds: against pruning by hand, resumed, and in every combination with other options."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import LOGITS, PROBLEMS

import prospr_ops as po
from prospr_ops.data.batches import endless_batches
from prospr_ops.methods import METHODS
from prospr_ops.methods.engine import checkpoint as checkpoints
from prospr_ops.network.loss import Batch, Objective
from prospr_ops.pruning import scoring
from prospr_ops.pruning.rounds import Rounds, check_rounds
from prospr_ops.pruning.target import Target

BY_NAME = {problem.name: problem for problem in PROBLEMS}
STEPS, ROUNDS, SPARSITY = 2, 3, 0.6
OPTIONS = {"steps": STEPS, "batch_size": 16, "seed": 3, "verbose": 0, "allow_empty": True}


class Killed(Exception):
    """Stands for a SIGKILL: the checkpoint is left as it is."""


def _prune(problem, model, data=None, **options) -> po.PruneResult:
    data = problem.data() if data is None else data
    defaults = {"sparsity": SPARSITY, "loss": problem.loss, "rounds": ROUNDS}
    return po.prune(model, data, **{**OPTIONS, **defaults, **options})


def _state(model: keras.Model) -> list[np.ndarray]:
    return [variable.numpy() for variable in model.variables]


def _twin(problem, **changed) -> keras.Model:
    """The same model, with the same weights and names, every time."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(7)
    return problem.model(**changed)


def _batches(problem, method: str) -> list[list[Any]]:
    """The batches of each round, as the run draws them from the shuffled stream."""
    count = {0: 0, 1: 1, 2: 1}.get(METHODS[method].passes(STEPS), STEPS + 1)
    stream = endless_batches(problem.data(), 16, 3)
    drawn = [(batch.x, batch.y) for batch in itertools.islice(stream, count * ROUNDS)]
    return [drawn[count * number : count * (number + 1)] or None for number in range(ROUNDS)]


def _cases():
    for problem, method in itertools.product(BY_NAME, METHODS):
        # Random layers and estimators draw other numbers in each round.
        if problem != "subclassed_dropout" and (problem, method) not in {
            ("functional_residual_batchnorm", "diagonal"),
            ("every_kernel", "diagonal"),
        }:
            yield problem, method


@pytest.mark.parametrize(("name", "method"), list(_cases()))
def test_equals_pruning_by_hand(name, method):
    problem = BY_NAME[name]
    batches = _batches(problem, method)
    paths: list[str] = []
    scores: list[dict[str, np.ndarray]] = []

    def score(number, masks):
        model = _twin(problem)
        if number:
            po.apply_masks(model, dict(zip(paths, masks, strict=True)))
        options = {k: v for k, v in OPTIONS.items() if k != "allow_empty"}
        found = po.score(model, batches[number], method=method, loss=problem.loss, **options)
        paths[:] = found
        scores.append(found)
        return list(found.values())

    model = _twin(problem)
    kernels = list(po.score(model, None, method="magnitude", verbose=0).values())
    *_, expected = po.reference.pruned_in_rounds(
        score, [np.ones(k.shape, bool) for k in kernels], SPARSITY, ROUNDS
    )
    result = _prune(problem, model, method=method)
    for path, mask in zip(paths, expected, strict=True):
        np.testing.assert_array_equal(result.masks[path], mask, err_msg=path)
        plain = np.asarray if METHODS[method].signed else np.exp
        np.testing.assert_allclose(
            plain(result.scores[path]), plain(scores[-1][path]), rtol=1e-4, atol=1e-7
        )
    assert len(result.losses) == sum(len(drawn or ()) for drawn in batches)
    assert result.settings["rounds"] == ROUNDS


@pytest.mark.parametrize("method", METHODS)
def test_channels_equal_pruning_by_hand(method):
    problem = BY_NAME["sequential"]
    batches = _batches(problem, method)
    kept = None
    for number, density in enumerate((0.4**0.5, 0.4)):  # of 6 units 4 and 3
        model = _twin(problem)
        if kept:
            po.apply_masks(model, po.channel_masks(model, kept))
        options = {k: v for k, v in OPTIONS.items() if k != "allow_empty"}
        scores = po.score(
            model,
            batches[number],
            method=method,
            structure="channel",
            loss=problem.loss,
            **options,
        )
        kept = po.select(scores, 1 - density)
    assert sum(map(np.count_nonzero, kept.values())) == 3
    model = _twin(problem)
    expected = po.channel_masks(model, kept)
    result = _prune(problem, model, method=method, structure="channel", rounds=2)
    assert {p: m.tolist() for p, m in result.masks.items()} == {
        p: m.tolist() for p, m in expected.items()
    }


@pytest.mark.usefixtures("execution")
@pytest.mark.parametrize("method", ["exact", "diagonal", "first_order", "snip", "grasp"])
@pytest.mark.parametrize("options", [{"microbatch": 5}, {"momentum": 0.9}, {"scope": "layer"}])
def test_other_options(method, options):
    problem = BY_NAME["sequential"]
    result = _prune(problem, _twin(problem), method=method, **options)
    expected = _prune(problem, _twin(problem), method=method, **{**options, "microbatch": None})
    for path, mask in expected.masks.items():
        np.testing.assert_array_equal(result.masks[path], mask)
    if "scope" in options:
        for path, mask in result.masks.items():
            assert np.count_nonzero(mask) == math.ceil(0.4 * mask.size), path


# --- pruned weights that may return --------------------------------------------------------------


REVIVING = [method for method, row in METHODS.items() if row.revives]


def _returned(masks) -> int:
    """Number of weights that a round keeps and the one before had pruned."""
    return sum(
        int(np.count_nonzero(after[path] & ~before[path]))
        for before, after in itertools.pairwise(masks)
        for path in after
    )


@pytest.mark.usefixtures("execution")
@pytest.mark.parametrize("method", REVIVING)
@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "subclassed_dropout"])
def test_pruned_weights_return_as_by_hand(name, method, monkeypatch):
    problem = BY_NAME[name]
    batches = _batches(problem, method)
    steps = {"learning_rate": 0.3, "momentum": 0.5}
    model = _twin(problem)
    paths = list(po.score(model, None, method="magnitude", verbose=0))

    def score(number, masks):
        model = _twin(problem)
        by_path = {v.path: v.value for v in model.trainable_variables}
        found = po.reference.first_order_scores(
            Objective.of(model, problem.loss),
            [Batch(tf.constant(x), tf.constant(y)) for x, y in batches[number]],
            [by_path[path] for path in paths],
            masks,
            **steps,
        )
        return [np.abs(values.numpy()) for values in found]

    shapes = [v.shape for path in paths for v in model.trainable_variables if v.path == path]
    by_hand = po.reference.pruned_in_rounds(
        score, [np.ones(shape, bool) for shape in shapes], SPARSITY, ROUNDS, revive=True
    )
    seen = _spied(monkeypatch)
    result = _prune(problem, _twin(problem), method=method, revive=True, **steps)
    assert len(seen) == len(by_hand) == ROUNDS
    for found, expected in zip(seen, by_hand, strict=True):
        for path, mask in zip(paths, expected, strict=True):
            np.testing.assert_array_equal(found[path], mask, err_msg=path)
    assert _returned(seen) > 0
    assert result.settings["revive"] is True


@pytest.mark.parametrize("method", REVIVING)
@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9},
        {"scope": "erk"},
        {"sparsity": None, "flops": 0.4},
        {"pattern": "2x1", "prunable": ["*dense_1/kernel"]},
    ],
)
def test_weights_return_within_other_options(method, options, monkeypatch):
    problem = BY_NAME["sequential"]
    masks = _spied(monkeypatch)
    options |= {"method": method, "revive": True, "learning_rate": 0.5}
    _prune(problem, _twin(problem), **options)
    assert _returned(masks) > 0
    expected, masks[:] = list(masks), []
    _prune(problem, _twin(problem), microbatch=5, **options)
    for one, other in zip(masks, expected, strict=True):
        for path, mask in one.items():
            np.testing.assert_array_equal(mask, other[path])


@pytest.mark.parametrize("method", REVIVING)
def test_what_was_pruned_before_the_call_does_not_return(method, monkeypatch):
    problem = BY_NAME["every_kernel"]
    model = _twin(problem)
    before = _prune(problem, model, sparsity=0.3, method="random", rounds=1).masks
    masks = _spied(monkeypatch)
    _prune(problem, model, sparsity=0.9, method=method, rounds=4, revive=True)
    assert _returned(masks) > 0
    for found in masks:
        for path, mask in found.items():
            assert not (mask & ~before[path]).any(), path


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "exact"}, ValueError, "is for methods 'first_order', 'snip', not 'exact'"),
        ({"method": "magnitude"}, ValueError, "is for methods 'first_order', 'snip'"),
        ({"rounds": 1}, ValueError, "needs rounds of at least 2"),
        ({"rounds": None}, ValueError, "needs rounds of at least 2"),
        ({"structure": "channel"}, ValueError, "is for structure='weight', not 'channel'"),
        ({"revive": 1}, TypeError, "revive must be True or False, not 1"),
        ({"method": "snap"}, ValueError, "method must be one of"),
    ],
)
def test_a_return_that_means_nothing_is_refused(options, error, message):
    model = _twin(PROBLEMS[0])
    before = _state(model)
    with pytest.raises(error, match=message):
        _prune(PROBLEMS[0], model, **{"method": "snip", "revive": True, **options})
    for old, new in zip(before, _state(model), strict=True):
        np.testing.assert_array_equal(new, old)


# --- masks of rounds ------------------------------------------------------------------------------


def _spied(monkeypatch) -> list[dict[str, np.ndarray]]:
    masks: list[dict[str, np.ndarray]] = []
    kept_of = scoring.kept_of

    def spy(scores, target, kernels):
        masks.append(kept_of(scores, target, kernels))
        return masks[-1]

    monkeypatch.setattr(scoring, "kept_of", spy)
    return masks


@settings(max_examples=25)
@given(st.floats(0.3, 0.95), st.integers(1, 12), st.sampled_from(["snip", "magnitude", "synflow"]))
def test_masks_are_nested_and_counts_exact(sparsity, rounds, method):
    with pytest.MonkeyPatch.context() as monkeypatch:
        masks = _spied(monkeypatch)
        model = po.models.lenet_300_100(input_shape=(5,), classes=3)
        random = np.random.default_rng(0)
        x, y = random.random((32, 5), np.float32), random.integers(3, size=32)
        x[:, :2] = 0  # so that many scores are −inf, and ties
        po.prune(
            model, (x, y), sparsity=sparsity, method=method, rounds=rounds, loss=LOGITS, **OPTIONS
        )
    assert len(masks) == rounds
    size = sum(mask.size for mask in masks[0].values())
    target = 1 - Decimal(repr(sparsity))
    before = {path: np.ones(mask.shape, bool) for path, mask in masks[0].items()}
    for number, after in enumerate(masks, start=1):
        kept = sum(map(np.count_nonzero, after.values()))
        assert kept == math.ceil(size * target ** (Decimal(number) / rounds))
        for path, mask in after.items():
            assert not (mask & ~before[path]).any(), "a pruned weight came back"
        before = after


@pytest.mark.parametrize("method", METHODS)
def test_one_round_is_what_there_was(method):
    problem = BY_NAME["sequential"]
    data = problem.data() if METHODS[method].needs_data else None
    result = _prune(problem, _twin(problem), data, method=method, rounds=1)
    options = {k: v for k, v in OPTIONS.items() if k != "allow_empty"}
    scores = po.score(_twin(problem), data, method=method, loss=problem.loss, **options)
    for path, mask in po.select(scores, SPARSITY).items():
        np.testing.assert_array_equal(result.masks[path], mask)
        np.testing.assert_array_equal(result.scores[path], scores[path])


@pytest.mark.parametrize("method", METHODS)
def test_the_default_is_the_methods_own(method):
    results = [
        _prune(PROBLEMS[0], _twin(PROBLEMS[0]), method=method, rounds=rounds)
        for rounds in (None, 2, 2)
    ]
    assert results[0].settings["rounds"] == {"synflow": 100}.get(method, 1)
    for path in results[1].masks:
        np.testing.assert_array_equal(results[1].scores[path], results[2].scores[path])


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("method", ["exact", "diagonal", "first_order", "snip", "grasp", "synflow"])
def test_one_trace_serves_all_rounds(method, monkeypatch):
    counts = []
    for rounds in (1, 2, 4):
        model = _twin(BY_NAME["sequential"])
        calls = [0]
        call = type(model).call

        def counted(self, *args, calls=calls, call=call, **kwargs):
            calls[0] += 1
            return call(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(type(model), "call", counted)
            _prune(BY_NAME["sequential"], model, method=method, rounds=rounds)
        counts.append(calls[0])
    assert counts[0] == counts[1] == counts[2]


def test_random_layers_draw_anew_and_all_else_is_as_it_was():
    problem = BY_NAME["subclassed_dropout"]
    model = _twin(problem)
    before = _state(model)
    weights = {v.path: v for v in model.trainable_variables if v.name == "kernel"}
    rounds = Rounds(model, weights, None, 3)
    states = []
    for number in (1, 2):
        for variable in model.trainable_variables:
            variable.assign(variable.value + 1)
        rounds.begin(number, {path: np.ones(v.shape, bool) for path, v in weights.items()})
        states.append(_state(model))
    for variable, old, first, second in zip(model.variables, before, *states, strict=True):
        if "seed" in variable.path:
            assert (old != first).any()
            assert (first != second).any()
        else:
            np.testing.assert_array_equal(first, old)
            np.testing.assert_array_equal(second, old)


def test_a_pruned_model_goes_on_from_what_it_has(monkeypatch):
    problem = BY_NAME["every_kernel"]
    model = _twin(problem)
    first = _prune(problem, model, sparsity=0.5, method="random", rounds=1)
    masks = _spied(monkeypatch)
    _prune(problem, model, sparsity=0.9, method="snip", rounds=2)
    kept = [sum(map(np.count_nonzero, found.values())) for found in masks]
    size = first.weights
    density = first.kept / size
    assert kept == [math.ceil(size * math.sqrt(density * 0.1)), math.ceil(size * 0.1)]
    for path, mask in first.masks.items():
        assert not (masks[0][path] & ~mask).any()
        assert not (masks[1][path] & ~masks[0][path]).any()


# --- resumed -------------------------------------------------------------------------------------


RESUMED = [
    *itertools.product(
        ["subclassed_dropout", "functional_residual_batchnorm"],
        ["exact", "diagonal", "first_order"],
        ["weight"],
        [False],
    ),
    ("subclassed_dropout", "snip", "weight", False),
    ("sequential", "exact", "channel", False),
    ("subclassed_dropout", "snip", "weight", True),
    ("functional_residual_batchnorm", "first_order", "weight", True),
]


@pytest.mark.usefixtures("execution")
@pytest.mark.filterwarnings("ignore:model.save will not write")
@pytest.mark.parametrize(("name", "method", "structure", "revive"), RESUMED)
def test_resumes_in_the_middle_of_a_round(name, method, structure, revive, tmp_path, monkeypatch):
    problem, path = BY_NAME[name], tmp_path / "run.ckpt"
    monkeypatch.setattr(checkpoints, "_SHARE", 1.0)
    rounds = 2 if structure == "channel" else ROUNDS
    options = {"method": method, "structure": structure, "momentum": 0.5, "rounds": rounds}
    options["revive"] = revive
    expected = _prune(problem, _twin(problem), **options)
    save = checkpoints.Checkpoint.save
    # After every step, and when a round begins.
    writes = rounds - 1 + (0 if method == "snip" else rounds * STEPS)
    for dies_after in {min(2, writes), max(1, writes - 1)}:
        seen = itertools.count(1)

        def save_and_die(self, progress, state, dies_after=dies_after, seen=seen):
            save(self, progress, state)
            if next(seen) == dies_after:
                raise Killed

        model = _twin(problem)
        before = _state(model)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints.Checkpoint, "save", save_and_die)
            with pytest.raises(Killed):
                _prune(problem, model, checkpoint=path, **options)
        for old, new in zip(before, _state(model), strict=True):
            np.testing.assert_array_equal(new, old)
        result = _prune(problem, model, checkpoint=path, **options)
        assert not path.exists()
        assert result.losses == expected.losses
        for weight, mask in expected.masks.items():
            np.testing.assert_array_equal(result.masks[weight], mask)
        for weight, scores in expected.scores.items():
            np.testing.assert_array_equal(result.scores[weight], scores)


def test_a_checkpoint_of_other_rounds_is_refused(tmp_path, monkeypatch):
    problem, path = PROBLEMS[0], tmp_path / "run.ckpt"

    def begin_and_die(self, *arguments):
        begin(self, *arguments)
        raise Killed

    begin = checkpoints.Checkpoint.begin_round
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoint, "begin_round", begin_and_die)
        with pytest.raises(Killed):
            _prune(problem, _twin(problem), checkpoint=path)
    for other, words in (({"rounds": 2}, "rounds was 3 and is 2"), ({"sparsity": 0.7}, "0.6")):
        with pytest.raises(ValueError, match=words):
            _prune(problem, _twin(problem), checkpoint=path, **other)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rounds", "error", "message"),
    [
        (0, ValueError, "rounds must be at least 1, not 0"),
        (-3, ValueError, "rounds must be at least 1, not -3"),
        (2.0, TypeError, r"rounds must be an integer, not float \(2.0\)"),
        (True, TypeError, "rounds must be an integer, not bool"),
        ("5", TypeError, "rounds must be an integer, not str"),
        (21, ValueError, "rounds must be at most 20, not 21: .* 48 weights"),
        (10**12, ValueError, "rounds must be at most 20, not 1,000,000,000,000"),
    ],
)
def test_refused(rounds, error, message):
    model = _twin(PROBLEMS[0])
    before = _state(model)
    with pytest.raises(error, match=message):
        _prune(PROBLEMS[0], model, rounds=rounds)
    for old, new in zip(before, _state(model), strict=True):
        np.testing.assert_array_equal(new, old)
    assert all(variable.constraint is None for variable in model.trainable_variables)


@given(st.integers(1, 10**6), st.floats(0.0, 0.999), st.integers(2, 10**4))
def test_as_many_rounds_as_are_accepted_all_prune(size, sparsity, rounds):
    try:
        check_rounds(rounds, size, 1.0, Target.of(sparsity=sparsity))
    except ValueError:
        return
    counts = [math.ceil(size * (1.0 - sparsity) ** (r / rounds) - 1e-9) for r in range(rounds + 1)]
    assert all(after < before for before, after in itertools.pairwise(counts))


def test_an_error_in_a_later_round_leaves_the_model_as_it_was():
    problem = BY_NAME["functional_residual_batchnorm"]
    model = _twin(problem)
    before = _state(model)
    x, y = problem.data()
    batches = [(x[:16], y[:16])] * 4 + [(np.full_like(x[:16], np.nan), y[:16])]
    with pytest.raises(ValueError, match="x of batch 4 holds NaN"):
        _prune(problem, model, batches)
    for old, new in zip(before, _state(model), strict=True):
        np.testing.assert_array_equal(new, old)
    assert all(variable.constraint is None for variable in model.trainable_variables)


def test_a_diverging_round_is_named():
    problem = PROBLEMS[0]
    x, y = problem.data()
    batches = [(x[:16], y[:16])] * 3 + [(1e30 * x[:16], y[:16])]
    with pytest.raises(ValueError, match="of round 2"):
        _prune(problem, _twin(problem), batches)


def test_the_summary_says_how_many(capsys):
    result = _prune(PROBLEMS[0], _twin(PROBLEMS[0]), method="snip")
    result.summary()
    assert "SNIP in 3 rounds" in " ".join(capsys.readouterr().out.split())


def test_as_many_rounds_as_each_prune_something():
    """Of 4 channels 2 rounds keep 3 and 2."""
    target = Target.of(sparsity=0.5)
    check_rounds(2, 4, 1.0, target)
    check_rounds(1, 4, 1.0, target)
    with pytest.raises(ValueError, match="rounds must be at most 2, not 3: from 1 to"):
        check_rounds(3, 4, 1.0, target)
