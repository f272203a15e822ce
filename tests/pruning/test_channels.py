"""Scores and masks of whole channels."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from problems import PROBLEMS, logits_loss

import prospr_ops as po
from prospr_ops.curvature import ESTIMATORS
from prospr_ops.data.batches import endless_batches
from prospr_ops.methods import METHODS
from prospr_ops.network.loss import Objective
from prospr_ops.pruning.channels.groups import ChannelGroups

GRAPHS = [problem for problem in PROBLEMS if problem.name != "subclassed_dropout"]
NAMES = [problem.name for problem in GRAPHS]
OPTIONS = {"steps": 3, "learning_rate": 0.3, "batch_size": 16, "seed": 5, "verbose": 0}


def _with_biases(model: keras.Model) -> keras.Model:
    """No bias is zero, so that all members count."""
    random = np.random.default_rng(2)
    for variable in model.trainable_variables:
        if variable.path.endswith(("bias", "beta")):
            variable.assign(0.3 * random.standard_normal(variable.shape))
    return model


def _batches(data, steps):
    stream = endless_batches(data, OPTIONS["batch_size"], OPTIONS["seed"])
    return [next(stream) for _ in range(steps + 1)]


def _summed(groups: ChannelGroups, signed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sums of each group's weights, one by one."""
    return {
        path: np.array(
            [
                sum(
                    np.take(signed[name], index, member.axis).sum()
                    for name, member in groups.members.items()
                    for index in np.flatnonzero(member.labels == label)
                )
                for label in labels
            ]
        )
        for path, labels in groups.groups.items()
    }


def _assert_scores(scores, expected, tolerance):
    assert list(scores) == list(expected)
    scale = max(np.abs(values).max() for values in expected.values())
    for path, values in expected.items():
        np.testing.assert_allclose(
            np.exp(scores[path]),
            np.abs(values),
            rtol=tolerance,
            atol=tolerance * scale,
            err_msg=path,
        )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("method", ["exact", "snip"])
@pytest.mark.parametrize("problem", GRAPHS, ids=NAMES)
def test_a_score_is_the_sum_of_signed_meta_gradients(problem, method):
    model, data = _with_biases(problem.model()), problem.data(dtype="float64")
    loss = problem.loss_in("float64")
    scores = po.score(model, data, method=method, structure="channel", loss=loss, **OPTIONS)
    groups = ChannelGroups.of(model)
    variables = {path: member.variable.value for path, member in groups.members.items()}
    steps = 0 if method == "snip" else OPTIONS["steps"]
    paths = {id(value): path for path, value in variables.items()}
    order = [v.value for v in model.trainable_variables if id(v.value) in paths]
    found = po.reference.unrolled_meta_gradient(
        Objective.of(model, loss), _batches(data, steps), order, OPTIONS["learning_rate"]
    )
    signed = {paths[id(v)]: values.numpy() for v, values in zip(order, found, strict=True)}
    _assert_scores(scores, _summed(groups, signed), 1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("problem", "method"),
    [(GRAPHS[0], "exact"), (GRAPHS[2], "exact"), (GRAPHS[3], "exact"), (GRAPHS[2], "snip")],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_score_is_the_slope_of_the_loss_by_one_mask_value(problem, method):
    """By finite differences: the mask value multiplies all that pruning would zero."""
    model, data = _with_biases(problem.model()), problem.data(dtype="float64")
    loss = problem.loss_in("float64")
    scores = po.score(model, data, method=method, structure="channel", loss=loss, **OPTIONS)
    groups = ChannelGroups.of(model)
    objective = Objective.of(model, loss)
    batches = _batches(data, 0 if method == "snip" else OPTIONS["steps"])
    variables = [variable.value for variable in model.trainable_variables]
    state = [variable.numpy() for variable in model.variables]

    def loss_after(label, mask_value):
        for member in groups.members.values():
            factor = np.where(member.labels == label, mask_value, 1.0)
            member.variable.assign(member.variable.numpy() * member.spread(factor))
        for batch in batches[:-1]:
            with tf.GradientTape() as tape:
                value = objective(batch)
            for variable, g in zip(variables, tape.gradient(value, variables), strict=True):
                variable.assign_sub(OPTIONS["learning_rate"] * g)
        value = float(objective(batches[-1]))
        for variable, old in zip(model.variables, state, strict=True):
            variable.assign(old)
        return value

    path, labels = next(iter(groups.groups.items()))
    slopes = [(loss_after(g, 1 + 1e-7) - loss_after(g, 1 - 1e-7)) / 2e-7 for g in labels]
    np.testing.assert_allclose(np.exp(scores[path]), np.abs(slopes), rtol=1e-4, atol=1e-8)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_diagonal_takes_the_sign_of_its_factors(momentum):
    problem = GRAPHS[0]
    model, data = problem.model(), problem.data(dtype="float64")
    loss = logits_loss("float64")
    # At this rate some factors are negative.
    options = {**OPTIONS, "learning_rate": 20.0, "momentum": momentum, "steps": 2}
    scores = po.score(
        model,
        data,
        method="diagonal",
        structure="channel",
        curvature="hutchinson",
        loss=loss,
        **options,
    )
    groups = ChannelGroups.of(model)
    objective = Objective.of(model, loss)
    weights = [variable.value for variable in groups.weights().values()]

    def diagonal(batch, number):
        seed = tf.constant([OPTIONS["seed"], number], tf.int64)
        return ESTIMATORS["hutchinson"](objective, batch, [], weights, 1, seed).diagonal

    batches = _batches(data, options["steps"])
    found = po.reference.diagonal_scores(objective, batches, weights, diagonal, 20.0, momentum)
    (path,) = scores
    (signed,) = (values.numpy() for values in found)
    _assert_scores(scores, {path: signed.sum(axis=0)}, 1e-5)
    with pytest.raises(AssertionError):  # it takes the signs to tell
        _assert_scores(scores, {path: np.abs(signed).sum(axis=0)}, 1e-2)


def test_of_first_order_without_steps_snip_remains():
    problem = GRAPHS[2]
    model, data = problem.model(), problem.data()
    options = {**OPTIONS, "steps": 0, "loss": problem.loss, "structure": "channel"}
    expected = po.score(model, data, method="snip", **options)
    for method in ("first_order", "exact", "diagonal"):
        scores = po.score(model, data, method=method, **options)
        for path, values in expected.items():
            np.testing.assert_allclose(scores[path], values, rtol=1e-4)


def test_magnitude_is_the_l1_norm_and_random_is_independent():
    model = _with_biases(po.models.resnet20((8, 8, 3)))
    options = {"structure": "channel", "verbose": 0, "seed": 3}
    groups = ChannelGroups.of(model)
    magnitudes = {path: np.abs(m.variable.numpy()) for path, m in groups.members.items()}
    scores = po.score(model, None, method="magnitude", **options)
    _assert_scores(scores, _summed(groups, magnitudes), 1e-5)
    draws = np.exp(np.concatenate([*po.score(model, None, method="random", **options).values()]))
    assert 0.4 < draws.mean() < 0.6  # whatever the channels' sizes
    assert len(np.unique(draws)) == draws.size


def test_behind_normalisation_gamma_carries_the_score():
    """The loss does not see the scale of a kernel column there: alone, it would be worth nothing."""
    problem = GRAPHS[2]
    model, data = problem.model(), problem.data()
    groups = ChannelGroups.of(model)
    assert any(path.endswith("gamma") for path in groups.weights())
    assert not any(path.endswith(("bias", "beta")) for path in groups.weights())
    scores = po.score(model, data, method="snip", structure="channel", loss=problem.loss, **OPTIONS)
    assert all(np.exp(values).min() > 1e-6 for values in scores.values())


@given(st.data())
@settings(max_examples=30)
def test_sums_in_the_logarithm_equal_sums(data):
    """Also where the terms themselves would overflow or vanish."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(2)])
    groups = ChannelGroups.of(model)
    (path,) = groups.groups
    numbers = st.floats(-1, 1, width=32)
    values = np.array(data.draw(st.lists(numbers, min_size=12, max_size=12))).reshape(3, 4)
    offset = data.draw(st.sampled_from([-5000.0, -100.0, 0.0, 5000.0]))
    with np.errstate(divide="ignore"):
        logs = np.log(np.abs(values))
        expected = np.log(np.abs(values.sum(axis=0)))
    scores = groups.scores({path: logs + offset}, {path: np.sign(values)})[path] - offset
    close = np.abs(np.exp(scores) - np.exp(expected)) <= 1e-9
    assert close.all()
    alone = groups.scores({path: np.full((3, 4), -np.inf)}, {})[path]
    assert np.isneginf(alone).all()


# --- prune ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:shrink. channels stay whole at einsum_dense")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", GRAPHS, ids=NAMES)
def test_prune_removes_exactly_so_many_channels(problem, method):
    model, data = problem.model(), problem.data()
    state = {variable.path: variable.numpy() for variable in model.variables}
    groups = ChannelGroups.of(model)
    count = sum(labels.size for labels in groups.groups.values())
    result = po.prune(
        model,
        data,
        sparsity=0.5,
        method=method,
        structure="channel",
        min_keep=1,
        loss=problem.loss,
        seed=2,
        batch_size=16,
        verbose=0,
    )
    assert result.settings["structure"] == "channel"
    assert {path: values.shape for path, values in result.scores.items()} == {
        path: labels.shape for path, labels in groups.groups.items()
    }
    pruned = np.unique(
        np.concatenate(
            [
                member.labels[~result.masks[path].any(axis=member.others)]
                for path, member in groups.members.items()
                if path in result.masks
            ]
        )
    )
    assert pruned.size == count // 2
    for variable in model.variables:
        mask = result.masks.get(variable.path, True)
        np.testing.assert_array_equal(variable, np.where(mask, state[variable.path], 0))
    x = data[0]
    small = po.shrink(model)
    assert small.count_params() < model.count_params()
    np.testing.assert_allclose(small(x), model(x), rtol=0, atol=1e-5)


def test_score_select_and_masks_are_what_prune_does():
    problem = GRAPHS[2]
    data = problem.data()
    options = {**OPTIONS, "loss": problem.loss, "structure": "channel"}
    model = problem.model()
    scores = po.score(model, data, **options)
    masks = po.channel_masks(model, po.select(scores, 0.5, min_keep=1))
    result = po.prune(model, data, sparsity=0.5, min_keep=1, **options)
    assert list(masks) == list(result.masks)
    for path, mask in masks.items():
        np.testing.assert_array_equal(mask, result.masks[path])


def test_prunable_restricts_the_channels():
    model = po.models.lenet5()
    second = model.layers[2].kernel.path
    options = {"method": "magnitude", "structure": "channel", "verbose": 0}
    assert list(po.score(model, None, prunable=[second], **options)) == [second]
    model.layers[2].trainable = False
    assert second not in po.score(model, None, **options)
    with pytest.raises(ValueError, match="has no channel that can be pruned"):
        po.score(model, None, prunable=[model.layers[-1].kernel.path], **options)


def test_masks_that_do_not_fit_are_refused():
    model = po.models.lenet_300_100()
    first, second = (layer.kernel.path for layer in model.layers[1:3])
    good = {first: np.ones(300, bool), second: np.ones(100, bool)}
    assert list(po.channel_masks(model, good)) == [
        variable.path for layer in model.layers[1:3] for variable in layer.variables
    ]
    with pytest.raises(ValueError, match="the channels of the model have"):
        po.channel_masks(model, {first: good[first]})
    with pytest.raises(ValueError, match="the channels of the model have"):
        po.channel_masks(model, {**good, second: np.ones(99, bool)})
    with pytest.raises(TypeError, match="must be boolean, not float64"):
        po.channel_masks(model, {**good, second: np.ones(100)})


def test_a_layer_that_would_be_emptied_is_refused():
    model = po.models.lenet_300_100()
    model.layers[1].kernel.assign(np.zeros((784, 300)))
    options = {"sparsity": 0.8, "method": "magnitude", "structure": "channel", "verbose": 0}
    with pytest.raises(ValueError, match=r"no longer depend on its input: .*hidden_1/kernel"):
        po.prune(model, None, **options)


# TensorFlow takes no scope whose name begins with an underscore, and layers are named by their class.
class OwnStep(keras.Model):
    """Called as its graph says, and trained in its own way."""

    def train_step(self, data):
        return super().train_step(data)


class OwnCall(OwnStep):
    def call(self, inputs):
        return super().call(inputs)


class OwnSequential(keras.Sequential):
    pass


def _branches(outer: type[keras.Model], inner: type[keras.Model]) -> keras.Model:
    part = keras.Input((8,))
    hidden = layers.Dense(6, activation="relu", name="inner")(part)
    nested = (
        inner(part, hidden)
        if inner is not OwnSequential
        else inner([keras.Input((8,)), layers.Dense(6, activation="relu", name="inner")])
    )
    inputs = keras.Input((4,))
    h = nested(layers.Dense(8, activation="relu", name="first")(inputs))
    return outer(inputs, layers.Dense(3, name="last")(h))


@pytest.mark.parametrize("inner", [keras.Model, OwnStep, OwnSequential])
def test_a_model_is_what_it_does_and_not_its_type(inner):
    model = _branches(OwnStep, inner)
    po.prune(model, None, sparsity=0.5, method="magnitude", structure="channel", verbose=0)
    small = po.shrink(model)
    assert small.count_params() < model.count_params()
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-6)


def test_a_call_in_python_is_refused_and_kept_whole_within_another():
    options = {"sparsity": 0.5, "method": "magnitude", "structure": "channel", "verbose": 0}
    with pytest.raises(ValueError, match="whose layers are called by Python code"):
        po.prune(_branches(OwnCall, keras.Model), None, **options)
    with pytest.raises(ValueError, match="no channel that can be pruned"):
        po.prune(_branches(keras.Model, OwnCall), None, **options)


def _gated() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="trunk")(inputs)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(2, 1, activation="relu", name="squeeze")(gate)
    gate = layers.Conv2D(8, 1, activation="sigmoid", name="gate")(gate)
    x = layers.GlobalAveragePooling2D()(layers.Multiply()([x, gate]))
    return keras.Model(inputs, layers.Dense(4)(x))


def test_a_gate_that_loses_all_of_its_squeezed_channels_is_named():
    model = _gated()
    squeeze = model.get_layer("squeeze").kernel
    squeeze.assign(squeeze * 1e-6)
    options = {"method": "magnitude", "structure": "channel", "verbose": 0}
    with pytest.warns(UserWarning, match="^no weight is left in squeeze/kernel$"):
        result = po.prune(model, None, sparsity=0.4, **options)
    gate = result.masks["gate/kernel"].any(axis=(0, 1, 2))
    np.testing.assert_array_equal(gate, result.masks["trunk/kernel"].any(axis=(0, 1, 2)))
    assert gate.sum() == 6
    small = po.shrink(model)
    assert [small.get_layer(n).filters for n in ("trunk", "squeeze", "gate")] == [6, 1, 6]
    sizes = {
        path: math.prod(small.get_layer(path.split("/")[0]).kernel.shape) for path in result.shrunk
    }
    assert result.shrunk == sizes


def test_what_is_not_trained_and_not_zero_is_named():
    """As in InceptionV3 after some steps: without gamma, the mean alone decides what a zero becomes."""
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.BatchNormalization(scale=False, name="norm")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    model.get_layer("norm").moving_mean.assign([0.1, 0.2, 0.3, 0.4])
    with pytest.raises(ValueError, match=r"left whole: .*norm/moving_mean \(not zero, and not tr"):
        po.score(model, None, method="magnitude", structure="channel", verbose=0)
