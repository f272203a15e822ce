"""Budgets against their twins, which take one weight after the other."""

from __future__ import annotations

import math
from fractions import Fraction

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

import prospr_ops as po
from prospr_ops.pruning.arrays import Kernels
from prospr_ops.pruning.flops import model_flops, weight_uses
from prospr_ops.pruning.selection import kept_of
from prospr_ops.pruning.target import Target, erk_counts, kept_count
from prospr_ops.utils.axes import Axes


@st.composite
def ranked(draw, dtype=np.float32):
    """Arrays of scores with many ties, and −inf."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([1, 3, 1000]))
    arrays = {}
    for number in range(draw(st.integers(1, 5))):
        shape = draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
        array = rng.integers(0, levels, shape) / levels
        arrays[f"layer_{number}/kernel"] = np.where(array == 0, -np.inf, array).astype(dtype)
    return arrays


def assert_equal(masks, expected):
    for (path, mask), twin in zip(masks.items(), expected, strict=True):
        np.testing.assert_array_equal(mask, twin, err_msg=path, strict=True)


@given(data=st.data())
def test_flops_are_exact_to_one_weight(data):
    scores = data.draw(ranked())
    uses = {path: data.draw(st.integers(0, 9)) for path in scores}
    min_keep = data.draw(st.integers(0, 2))
    flops = data.draw(st.sampled_from([1.0, 0.5, 0.3, 0.1, 0.01]))
    whole = sum(uses[path] * array.size for path, array in scores.items())
    budget = math.floor(whole * Fraction(str(flops)))
    target = Target.of(flops=flops, min_keep=min_keep)
    least = sum(uses[path] * min(min_keep, array.size) for path, array in scores.items())
    if least > budget:
        with pytest.raises(ValueError, match=r"min_keep=.* needs .* multiply-adds"):
            kept_of(scores, target, Kernels(uses=uses))
        return
    masks = kept_of(scores, target, Kernels(uses=uses))
    twin = po.reference.select_within([*scores.values()], [*uses.values()], budget, min_keep)
    assert_equal(masks, twin)
    spent = sum(uses[path] * int(mask.sum()) for path, mask in masks.items())
    assert spent <= budget
    # Whatever is left out costs as much as the rest of the budget, or more, or ranks below that.
    left = [uses[path] for path, mask in masks.items() if not mask.all()]
    assert not left or spent + max(left) > budget


@given(data=st.data())
def test_erk_is_exact_and_no_layer_is_more_than_whole(data):
    count = data.draw(st.integers(1, 6))
    numbers = st.lists(st.integers(1, 3000), min_size=count, max_size=count)
    neurons, sizes = data.draw(numbers), data.draw(numbers)
    keep = data.draw(st.integers(0, sum(sizes)))
    counts = erk_counts(neurons, sizes, keep, [0] * count)
    assert sum(counts) == keep
    assert all(0 <= own <= size for own, size in zip(counts, sizes, strict=True))
    for own, part in zip(counts, po.reference.erk_shares(neurons, sizes, keep), strict=True):
        assert abs(own - part) < 1

    least = [data.draw(st.integers(0, min(size, 5))) for size in sizes]
    if sum(least) <= keep:
        counts = erk_counts(neurons, sizes, keep, least)
        assert sum(counts) == keep
        for own, low, high in zip(counts, least, sizes, strict=True):
            assert low <= own <= high


@given(data=st.data())
def test_a_mapping_prunes_its_layers_and_ranks_the_others(data):
    scores = data.draw(ranked())
    sparsity = data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.9]))
    scope = {
        path: data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.99]))
        for path in scores
        if data.draw(st.booleans())
    }
    if not scope:
        return
    sizes = {path: array.size for path, array in scores.items()}
    own = [kept_count(sizes[path], scope[path]) if path in scope else None for path in scores]
    fixed = sum(count for count in own if count is not None)
    keep = kept_count(sum(sizes.values()), sparsity)
    others = sum(size for path, size in sizes.items() if path not in scope)
    if not others:
        masks = po.select(scores, scope=scope)
        keep = fixed
    elif not 0 <= keep - fixed <= others:
        with pytest.raises(ValueError, match="contradicts the sparsities of scope"):
            po.select(scores, sparsity, scope)
        return
    else:
        masks = po.select(scores, sparsity, scope)
    assert sum(int(mask.sum()) for mask in masks.values()) == keep
    assert_equal(masks, po.reference.select_by_share([*scores.values()], own, keep))


@given(data=st.data())
def test_rounds_only_ever_take_away(data):
    scores = data.draw(ranked())
    shapes = {path: array.shape for path, array in scores.items()}
    first = next(iter(scores))
    sparsity = data.draw(st.sampled_from([0.5, 0.9]))
    options = data.draw(
        st.sampled_from(
            [
                {"sparsity": sparsity},
                {"flops": 1 - sparsity},
                {"scope": {"*": sparsity}},
                {"scope": {first: sparsity, "*": 0.3}},
                {"sparsity": sparsity, "scope": "layer"},
            ]
        )
    )
    uses = {path: data.draw(st.integers(1, 9)) for path in scores}
    rounds = data.draw(st.integers(1, 6))
    kept, kernels = None, Kernels(uses=uses)
    for number in range(rounds):
        aim = Target.of(**options).at((number + 1) / rounds)
        masks = kept_of(scores, aim, kernels)
        assert {path: mask.shape for path, mask in masks.items()} == shapes
        if kept is not None:
            for path, mask in masks.items():
                assert not (mask & ~kept[path]).any()
        kept = masks
    assert_equal(kept, [*kept_of(scores, Target.of(**options), kernels).values()])


@given(data=st.data())
def test_nothing_comes_back_whatever_the_scores_and_what_is_gone(data):
    """Also where a layer's share of the budget is more than is left of it."""
    shapes = {path: array.shape for path, array in data.draw(ranked()).items()}
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    levels = data.draw(st.sampled_from([1, 3, 1000]))
    scores = {
        path: np.where((r := rng.integers(0, levels, shape)) == 0, -np.inf, r).astype("f")
        for path, shape in shapes.items()
    }
    dead = {path: rng.random(shape) < rng.choice([0, 0.5, 1]) for path, shape in shapes.items()}
    options = data.draw(
        st.sampled_from([{"sparsity": 0.7}, {"sparsity": 0.7, "scope": "erk"}, {"flops": 0.6}])
    )
    kernels = Kernels(
        uses={path: data.draw(st.sampled_from([0, 1, 7, 100])) for path in shapes},
        axes={path: Axes((), (len(shape) - 1,)) for path, shape in shapes.items()},
        dead=dead,
    )
    size, left = sum(map(np.size, dead.values())), sum(int((~gone).sum()) for gone in dead.values())
    masks = kept_of(scores, Target.of(**options), kernels)
    returned = sum(int((mask & dead[path]).sum()) for path, mask in masks.items())
    if "flops" in options:
        assert returned == 0
        return
    keep = kept_count(size, 0.7)
    assert sum(int(mask.sum()) for mask in masks.values()) == keep
    if left >= keep or "scope" not in options:
        assert returned == max(0, keep - left)


@given(data=st.data())
def test_rounds_of_other_scores_are_nested(data):
    shapes = {path: array.shape for path, array in data.draw(ranked()).items()}
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    options = data.draw(
        st.sampled_from(
            [
                {"sparsity": 0.7},
                {"sparsity": 0.7, "scope": "erk"},
                {"sparsity": 0.7, "scope": "layer"},
                {"flops": 0.3},
                {"scope": {"*": 0.8}},
            ]
        )
    )
    uses = {path: data.draw(st.sampled_from([0, 1, 7, 100])) for path in shapes}
    axes = {path: Axes((), (len(shape) - 1,)) for path, shape in shapes.items()}
    rounds = data.draw(st.integers(2, 9))
    dead = {path: np.zeros(shape, bool) for path, shape in shapes.items()}
    for number in range(rounds):
        scores = {path: rng.random(shape, np.float32) for path, shape in shapes.items()}
        aim = Target.of(**options).at((number + 1) / rounds)
        masks = kept_of(scores, aim, Kernels(uses=uses, axes=axes, dead=dead))
        for path, mask in masks.items():
            assert not (mask & dead[path]).any(), path
        dead = {path: ~mask for path, mask in masks.items()}


def _network():
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, activation="relu")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(8, 3, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)))


DATA = (
    np.random.default_rng(0).standard_normal((32, 8, 8, 4)).astype(np.float32),
    np.arange(32) % 4,
)
SNIP = {
    "method": "snip",
    "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "seed": 0,
    "batch_size": 16,
    "verbose": 0,
}


@pytest.mark.parametrize("rounds", [1, 3])
def test_flops_of_a_network(rounds):
    model = _network()
    uses = weight_uses(model)
    result = po.prune(model, DATA, flops=0.2, rounds=rounds, **SNIP)
    whole = sum(uses[path] * mask.size for path, mask in result.masks.items())
    kept = sum(uses[path] * int(mask.sum()) for path, mask in result.masks.items())
    assert 0.2 * whole - max(uses.values()) < kept <= 0.2 * whole
    assert result.settings["flops"] == 0.2
    assert result.sparsity == pytest.approx(1 - result.kept / result.weights)
    assert "20 % of the FLOPs" in result.rows().title
    if rounds == 1:
        by_hand = po.select(result.scores, flops=0.2, model=model)
        for path, mask in by_hand.items():
            np.testing.assert_array_equal(mask, result.masks[path])


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("make", [_network, po.models.resnet20])
def test_flops_of_channels_are_those_after_shrink(make, rounds):
    model = make()
    data = (np.zeros((2, *model.input_shape[1:]), np.float32), None)
    whole = model_flops(model)
    result = po.prune(
        model, data, flops=0.4, method="random", seed=1, rounds=rounds, structure="channel",
        verbose=0, min_keep=1,
    )  # fmt: skip
    assert sum(map(len, result.pruned_groups.values()))
    small = po.shrink(model)
    assert 0 < model_flops(small) <= 0.4 * whole


@pytest.mark.parametrize("rounds", [1, 3])
def test_erk_and_a_mapping_of_a_network(rounds):
    model = _network()
    result = po.prune(model, DATA, sparsity=0.8, scope="erk", rounds=rounds, **SNIP)
    assert result.kept == kept_count(result.weights, 0.8)
    density = [float(mask.mean()) for mask in result.masks.values()]
    neurons = [3 + 3 + 4 + 8, 3 + 3 + 8 + 8, 128 + 4]
    sizes = [mask.size for mask in result.masks.values()]
    shares = po.reference.erk_shares(neurons, sizes, result.kept)
    for own, size, part in zip(density, sizes, shares, strict=True):
        assert abs(own * size - float(part)) < 1

    model = _network()
    first, *_, last = po.score(model, None, method="magnitude", verbose=0)
    scope = {first: 0.5, "*dense*/kernel": 0.9}
    result = po.prune(model, DATA, sparsity=0.7, scope=scope, rounds=rounds, **SNIP)
    assert result.kept == kept_count(result.weights, 0.7)
    assert result.masks[first].sum() == kept_count(result.masks[first].size, 0.5)
    assert result.masks[last].sum() == kept_count(result.masks[last].size, 0.9)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "pass exactly one of sparsity and flops"),
        ({"sparsity": 0.5, "flops": 0.5}, ValueError, "two budgets: pass exactly one"),
        ({"flops": 0}, ValueError, "flops must be above 0 and at most 1, not 0"),
        ({"flops": 1.5}, ValueError, "flops must be above 0 and at most 1, not 1.5"),
        ({"flops": "half"}, TypeError, "flops must be a number, not str"),
        ({"flops": 0.5, "scope": "erk"}, ValueError, "pass sparsity instead of flops"),
        ({"flops": 0.5, "method": "grasp"}, ValueError, "grasp.*signed"),
        ({"sparsity": 0.5, "scope": {}}, ValueError, "scope is an empty mapping"),
        ({"sparsity": 0.5, "scope": {3: 0.5}}, TypeError, "keys of scope must be path patterns"),
        ({"sparsity": 0.5, "scope": {"*": 1}}, ValueError, r"sparsity of '\*' in scope must be"),
        ({"sparsity": 0.5, "scope": {"dens_99/k": 0.5}}, ValueError, "nearest are .*dense"),
        ({"scope": {"*dense*/kernel": 0.5}}, ValueError, "scope says nothing of .*conv"),
        ({"scope": {"*": 0.5}, "flops": 0.5}, ValueError, "cover every layer: leave flops out"),
        ({"scope": {"*": 0.5}, "sparsity": 0.9}, ValueError, "which is not sparsity 0.9"),
        ({"scope": {"*conv*": 0.0}, "sparsity": 0.99}, ValueError, "contradicts the sparsities"),
        ({"sparsity": 0.5, "pattern": "2;4"}, ValueError, "pattern must be n:m.*not '2;4'"),
        ({"sparsity": 0.5, "pattern": 24}, TypeError, "pattern must be text"),
        ({"pattern": "4:4"}, ValueError, "pattern '4:4' prunes nothing"),
        ({"pattern": "0:4"}, ValueError, "n must be at least 1"),
        ({"pattern": "2:3"}, ValueError, "does not divide .*conv2d.* its input axis has 4 elem"),
        ({"pattern": "1x3", "sparsity": 0.5}, ValueError, "its output axis has 8 elements"),
        ({"pattern": "2:4", "sparsity": 0.9}, ValueError, "which is not sparsity 0.9"),
        ({"pattern": "2:4", "flops": 0.9}, ValueError, "leave flops out"),
        ({"pattern": "2:4", "scope": "erk"}, ValueError, "scope must be 'global' or 'layer'"),
        ({"pattern": "2:4", "rounds": 3}, ValueError, "rounds=3 are too many for pattern '2:4'"),
        ({"pattern": "2:4", "structure": "channel"}, ValueError, "contradicts structure='channel'"),
        ({"pattern": "2:4", "min_keep": 10**6}, ValueError, "keeps more of .* than pattern '2:4'"),
        ({"flops": 0.5, "rounds": 10**9}, ValueError, "rounds must be at most"),
        ({"scope": {"*": 0.5}, "rounds": 10**9}, ValueError, "rounds must be at most"),
        (
            {"flops": 0.5, "scope": "layer", "structure": "channel"},
            ValueError,
            "needs scope='global'",
        ),
    ],
)
def test_what_contradicts_is_refused_in_one_sentence(options, error, message):
    model = _network()
    before = [variable.numpy() for variable in model.variables]
    with pytest.raises(error, match=message) as caught:
        po.prune(model, DATA, **{**SNIP, **options})
    assert "\n" not in str(caught.value)
    for variable, old in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, old)
    assert all(variable.constraint is None for variable in model.trainable_variables)


def test_scores_that_are_not_the_model_s_are_refused():
    model = _network()
    scores = po.score(model, None, method="magnitude", verbose=0)
    with pytest.raises(ValueError, match="flops needs the model"):
        po.select(scores, flops=0.5)
    with pytest.raises(ValueError, match="pattern needs the model"):
        po.select(scores, pattern="2:4")
    with pytest.raises(ValueError, match="scope='erk' needs the model"):
        po.select(scores, 0.5, "erk")
    with pytest.raises(ValueError, match=r"the scores of a, of shape .* has no weight of that"):
        po.select({"a": np.ones(3)}, 0.5, "erk", model=model)
