"""The shrunk model against the masked one, with trained-looking statistics everywhere."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import prospr_ops as po
from prospr_ops.delivery import shrinking
from prospr_ops.pruning.channels import graph, rules
from prospr_ops.pruning.channels.groups import ChannelGroups


def _trained(model: keras.Model) -> None:
    """Gives every variable values as training does: no bias is zero, and statistics are data's."""
    random = np.random.default_rng(5)
    for variable in model.trainable_variables:
        name = variable.path.split("/")[-1]
        noise = 0.3 * random.standard_normal(variable.shape)
        if name in ("gamma", "beta", "bias"):
            variable.assign(noise + (name == "gamma"))
    normalisations = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, layers.BatchNormalization) and layer.axis != 1
    ]
    for layer in normalisations:
        layer.momentum = 0.0
    model(_inputs(model), training=True)
    for layer in normalisations:
        assert layer.moving_mean.numpy().any()


def _prune_channels(model: keras.Model, fraction: float) -> dict[str, np.ndarray]:
    """Masks a fraction of the channels, by chance."""
    scores = po.score(model, None, method="random", structure="channel", seed=1, verbose=0)
    kept = po.select(scores, fraction, "layer", min_keep=1)
    po.apply_masks(model, po.channel_masks(model, kept))
    return kept


def _inputs(model: keras.Model) -> Any:
    random = np.random.default_rng(6)
    x = [random.standard_normal((8, *x.shape[1:])).astype("float32") for x in model.inputs]
    return x if len(x) > 1 else x[0]


def _assert_same_function(small: keras.Model, model: keras.Model) -> None:
    x = _inputs(model)
    expected = keras.tree.flatten(model(x, training=False))
    found = keras.tree.flatten(small(x, training=False))
    for one, other in zip(found, expected, strict=True):
        values = other.numpy()
        scale = np.abs(values).max()
        assert np.abs(values - values[:1]).max() > 1e-3 * scale, "the output ignores the input"
        np.testing.assert_allclose(one, values, rtol=0, atol=1e-5 * max(scale, 1))


def _functional(body, shape=(8, 8, 3)) -> keras.Model:
    inputs = keras.Input(shape)
    x = body(inputs)
    x = layers.Flatten()(x) if len(x.shape) > 2 else x
    return keras.Model(inputs, layers.Dense(3)(x))


def _residual(x):
    x = layers.Conv2D(6, 3, padding="same")(x)
    y = layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same")(x))
    x = layers.ReLU()(layers.Add()([x, y]))
    z = layers.Conv2D(4, 1)(x)
    return layers.Concatenate()([layers.Subtract()([x, y]), z + layers.Conv2D(4, 1)(x), z])


def _depthwise(x):
    x = layers.Conv2D(4, 3, activation="relu6")(x)
    x = layers.ZeroPadding2D()(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="silu")(x)
    x = layers.BatchNormalization(center=False)(x)
    x = layers.SeparableConv2D(5, 3, depth_multiplier=2, activation="gelu")(x)
    return layers.SeparableConv2D(6, 2)(x)


def _sequence(x):
    x = layers.Reshape((64, 3))(x)
    x = layers.Conv1D(6, 3, activation="tanh")(x)
    x = layers.SeparableConv1D(4, 3)(layers.PReLU()(x))
    x = layers.DepthwiseConv1D(3)(layers.UpSampling1D()(x))
    x = layers.Conv1DTranspose(5, 2, activation="elu")(x)
    return layers.Reshape((-1, 10))(layers.Cropping1D((0, 1))(x))


def _positions(x):
    """Dense on pixels; a reshape that takes a row of pixels as channels."""
    x = layers.Dense(4, activation="relu")(x)
    x = layers.LeakyReLU()(layers.Reshape((8, 32))(x))
    x = layers.Dense(6, activation="selu")(x)
    return layers.Dropout(0.5)(layers.GlobalMaxPooling1D()(x))


def _nested(x):
    shared = layers.Conv2D(4, 3, padding="same", activation="relu")
    x = layers.Conv2D(4, 1)(x)
    inner = keras.Sequential([keras.Input((8, 8, 4)), shared, layers.BatchNormalization()])
    start = keras.Input((8, 8, 4))
    outer = keras.Model(start, layers.MaxPooling2D()(inner(start)))
    return layers.Average()([outer(x), outer(shared(x))])


def _transposed(x):
    x = layers.Conv2DTranspose(5, 3, strides=2, activation="relu")(x)
    x = layers.AveragePooling2D(2)(layers.BatchNormalization(axis=-1)(x))
    return layers.Multiply()([x, layers.Conv2D(5, 1)(x)])


def _padded(x):
    x = layers.Conv2D(3, 3, padding="same")(x)
    wide = keras.ops.pad(x, [[0, 0], [0, 0], [0, 0], [2, 1]])
    return layers.Maximum()([wide, layers.Conv2D(6, 1)(x)])


def _squeeze(x):
    """A gate of Dense layers, and one of operations, over a residual sum."""
    for gate in (_dense_gate, _written_gate):
        y = layers.Conv2D(6, 3, padding="same")(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = gate(y)
        x = layers.Add()([layers.Conv2D(6, 1)(x), y])
    return layers.Conv2D(4, 1)(x)


def _dense_gate(y):
    g = layers.Dense(3, activation="swish")(layers.GlobalAveragePooling2D()(y))
    g = layers.Dense(6, activation="sigmoid")(g)
    return layers.Multiply()([y, layers.Reshape((1, 1, 6))(g)])


def _written_gate(y):
    ops = keras.ops
    g = ops.mean(y, axis=[1, 2])[:, None, None, :]
    g = layers.Conv2D(6, 1)(layers.Conv2D(4, 1, activation=lambda z: ops.maximum(z, 0))(g))
    return y * (ops.relu6(g + 3.0) / 6.0)


def _gates_of_other_branches(x):
    """One gate for two products; x · sigmoid(x); a map over space; maxima of gates."""
    one = layers.Conv2D(6, 3, padding="same", activation="gelu")(x)
    two = layers.Conv2D(6, 1, activation="hard_silu")(x)
    gate = layers.Conv2D(6, 1, activation="hard_sigmoid")(x)
    one, two = one * gate, keras.ops.multiply(gate, two)
    two = two * keras.ops.sigmoid(two)
    space = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x)
    both = layers.Concatenate()([one * space, two])
    return layers.Conv2D(5, 1, activation="relu")(both)


def _after_a_sigmoid(x):
    """A gamma of zero makes zero of 0.5."""
    x = layers.Conv2D(6, 1, activation="sigmoid")(x)
    return layers.Conv2D(4, 1)(layers.BatchNormalization()(x))


def _normalised(x):
    x = layers.LayerNormalization()(layers.Conv2D(9, 3, activation="relu")(x))
    x = layers.LayerNormalization(center=False)(layers.Dense(8)(x))
    x = layers.GroupNormalization(4)(layers.Conv2D(8, 3, padding="same")(x))
    y = layers.GroupNormalization(4, scale=False)(layers.Conv2D(8, 1)(x))
    return layers.Conv2D(6, 1)(layers.Add()([layers.Activation("silu")(x), y]))


def _group_convolutions(x):
    x = layers.Conv2D(8, 1, activation="sigmoid")(x)
    x = layers.Conv2D(12, 3, groups=4, padding="same", activation="relu")(x)
    return layers.Conv2D(4, 1)(layers.Conv2D(12, 3, groups=12)(x))


BODIES = [_residual, _depthwise, _sequence, _positions, _nested, _transposed, _padded]
BODIES += [_squeeze, _gates_of_other_branches, _after_a_sigmoid, _normalised, _group_convolutions]
NETWORKS = {
    "lenet_300_100": po.models.lenet_300_100,
    "lenet5": po.models.lenet5,
    "lenet5_caffe": po.models.lenet5_caffe,
    "resnet20": po.models.resnet20,
    "vgg16": po.models.vgg16,
    "vgg16 without normalisation": lambda: po.models.vgg16(batch_norm=False),
    **{body.__name__.strip("_"): lambda body=body: _functional(body) for body in BODIES},
}


@pytest.mark.parametrize("network", NETWORKS)
def test_computes_the_same_function(network):
    model = NETWORKS[network]()
    _trained(model)
    _prune_channels(model, 0.4)
    state = [variable.numpy() for variable in model.variables]
    small = po.shrink(model)
    _assert_same_function(small, model)
    assert type(small) is type(model)
    assert not small.compiled
    assert small.name == model.name
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    assert all(variable.constraint is None for variable in small.variables)
    for variable, old in zip(model.variables, state, strict=True):
        np.testing.assert_array_equal(variable, old)
    # All that was pruned is gone: no channel of the small model can be pruned any further.
    assert small.count_params() < 0.8 * model.count_params()
    for member in ChannelGroups.of(small).members.values():
        if len(member.variable.shape) > 1 and member.labels.any():
            assert (member.variable.numpy() != 0).any(axis=member.others).all()


SLOW = ["EfficientNetB0", "EfficientNetV2B0", "ConvNeXtTiny"]


@pytest.mark.filterwarnings(
    "ignore:model.save will not write the masks"
)  # of ConvNeXt's LayerScale
@pytest.mark.parametrize(
    "network",
    [
        *("ResNet50", "MobileNetV2", "DenseNet121", "MobileNetV3Small"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    ],
)
def test_applications(network):
    model = getattr(keras.applications, network)(
        input_shape=(32, 32, 3), weights=None, classes=10, classifier_activation=None
    )
    _trained(model)
    _prune_channels(model, 0.5)
    small = po.shrink(model)
    _assert_same_function(small, model)
    assert small.count_params() < 0.4 * model.count_params()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras
def test_a_part_of_a_normalisation_is_shrunk_again_and_saved(tmp_path):
    model = _functional(_normalised)
    for fraction in (0.3, 0.5):
        _trained(model)
        _prune_channels(model, fraction)
        small = po.shrink(model)
        _assert_same_function(small, model)
        model = small
    file = tmp_path / "small.keras"
    model.save(file)
    _assert_same_function(keras.models.load_model(file), model)


def test_training_keeps_the_channels_zero_and_a_shrunk_model_trains():
    problem_x = np.random.default_rng(0).standard_normal((32, 8, 8, 3)).astype("float32")
    y = np.arange(32) % 3
    model = _functional(_residual)
    _prune_channels(model, 0.5)
    parameters = po.shrink(model).count_params()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(0.01, weight_decay=0.1), loss)
    model.fit(problem_x, y, epochs=3, batch_size=8, verbose=0)
    small = po.shrink(model)
    assert small.count_params() == parameters
    _assert_same_function(small, model)
    small.compile("sgd", loss)
    small.fit(problem_x, y, verbose=0)


def test_nothing_pruned_is_a_copy():
    model = _functional(_nested)
    small = po.shrink(model)
    assert small.count_params() == model.count_params()
    _assert_same_function(small, model)
    assert not {id(v) for v in model.variables} & {id(v) for v in small.variables}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras
def test_saves_and_loads(tmp_path):
    model = po.models.resnet20()
    _prune_channels(model, 0.5)
    small = po.shrink(model)
    file = tmp_path / "small.keras"
    small.save(file)
    _assert_same_function(keras.models.load_model(file), model)


def test_a_layer_of_which_nothing_is_left_keeps_a_channel():
    model = po.models.lenet_300_100()
    kernel, bias = model.layers[1].kernel, model.layers[1].bias
    kernel.assign(keras.ops.zeros_like(kernel))
    bias.assign(keras.ops.zeros_like(bias))
    small = po.shrink(model)
    assert small.layers[1].units == 1
    np.testing.assert_array_equal(small(_inputs(model)), model(_inputs(model)))


@pytest.mark.parametrize("left", ["bias", "beta"])
def test_a_channel_that_is_not_zero_stays(left):
    """A kernel column of zeros gives a constant where something is added."""
    model = _functional(
        lambda x: (
            layers.BatchNormalization()(layers.Conv2D(4, 3)(x))
            if left == "beta"
            else layers.Conv2D(4, 3, activation="relu")(x)
        )
    )
    masks = po.channel_masks(model, {model.layers[1].kernel.path: np.array([0, 1, 0, 1], bool)})
    path = next(path for path in masks if path.endswith(left))
    del masks[path]
    _trained(model)
    po.apply_masks(model, masks)
    small = po.shrink(model)
    assert small.layers[1].filters == 4
    _assert_same_function(small, model)


def test_the_mean_of_a_normalisation_without_gamma_counts():
    model = _functional(lambda x: layers.BatchNormalization(scale=False)(layers.Conv2D(4, 3)(x)))
    _prune_channels(model, 0.5)
    assert po.shrink(model).layers[1].filters == 2
    model.layers[2].moving_mean.assign([0.1, 0.2, 0.3, 0.4])
    small = po.shrink(model)
    assert small.layers[1].filters == 4
    _assert_same_function(small, model)
    with pytest.raises(ValueError, match="no channel that can be pruned"):
        po.score(model, None, method="magnitude", structure="channel", verbose=0)


# --- what must stay whole -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unknown", "says"),
    [
        (
            lambda: layers.LayerNormalization(scale=False, name="odd"),
            "odd .LayerNormalization: it has no gamma",
        ),
        (lambda: layers.GroupNormalization(1, name="odd"), "odd .GroupNorm.*over all channels"),
        (
            lambda: layers.Activation("sigmoid", name="odd"),
            "odd .Activation: activation sigmoid is not 0 at 0",
        ),
        (lambda: layers.Conv2D(4, 1, activation="softmax", name="odd"), "odd .activation softmax"),
        (lambda: layers.BatchNormalization(axis=1, name="odd"), "odd .BatchNorm.*not the last"),
        (lambda: layers.Reshape((16, 18), name="odd"), "odd .Reshape: it splits up"),
        (lambda: layers.Rescaling(2.0, 1.0, name="odd"), "odd .Rescaling: it is not 0 at 0"),
        (
            lambda: layers.ReLU(threshold=1.0, negative_slope=0.5, name="odd"),
            "odd .ReLU: .* 0 at 0",
        ),
    ],
)
def test_what_is_not_known_stays_whole_and_is_named(unknown, says):
    model = _functional(
        lambda x: (
            unknown()(layers.Conv2D(8, 3)(layers.Conv2D(6, 1, activation="relu")(x)))
            if "Reshape" not in says
            else layers.Reshape((6, 6, 8))(unknown()(layers.Conv2D(8, 3)(layers.Conv2D(6, 1)(x))))
        )
    )
    _trained(model)
    kept = _prune_channels(model, 0.5)
    with pytest.warns(UserWarning, match=f"shrink: channels stay whole at {says}"):
        small = po.shrink(model)
    _assert_same_function(small, model)
    assert small.layers[1].filters == 3
    if "softmax" not in says:
        assert len(kept) == 1
    assert small.count_params() < model.count_params()


def test_inputs_outputs_and_what_is_tied_to_them_stay():
    inputs = keras.Input((4,))
    hidden = layers.Dense(4, name="tied")(inputs)
    free = layers.Dense(4, name="free")(layers.Add()([inputs, hidden]))
    outputs = [layers.Dense(2)(free), layers.Dense(4, name="out")(free), hidden]
    groups = ChannelGroups.of(keras.Model(inputs, outputs)).groups
    assert {path.split("/")[0] for path in groups} == {"free"}


def test_a_subclassed_model_is_refused():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    model = Own()
    model(np.zeros((1, 4), "float32"))
    with pytest.raises(ValueError, match=r"functional and Sequential models only; .* is a Own"):
        po.shrink(model)
    with pytest.raises(ValueError, match="functional and Sequential models only"):
        po.prune(model, None, sparsity=0.5, method="magnitude", structure="channel", verbose=0)
    with pytest.raises(TypeError, match=r"model must be a keras\.Model, not list"):
        po.shrink([])
    with pytest.raises(ValueError, match="is not built"):
        po.shrink(keras.Sequential([layers.Dense(3)]))


# --- planted mistakes -----------------------------------------------------------------------------


def test_a_wrong_order_behind_flatten_would_be_seen(monkeypatch):
    def channel_by_channel(graph, node, inputs):
        del graph
        repeats = node.outputs[0].shape[-1] // inputs[0].labels.size
        return inputs[0].each(lambda values: np.repeat(values, repeats))

    model = po.models.lenet5()
    _trained(model)
    _prune_channels(model, 0.5)
    monkeypatch.setitem(rules.RULES, layers.Flatten, channel_by_channel)
    with pytest.raises(ValueError, match="is something else, so it is not handed over"):
        po.shrink(model)


@pytest.mark.parametrize("name", ["kernel", "gamma", "beta", "moving_mean", "moving_variance"])
def test_a_wrong_slice_would_be_seen(monkeypatch, name):
    model = po.models.resnet20()
    _trained(model)
    _prune_channels(model, 0.5)
    wrong = {
        id(variable)
        for variable in model.variables
        if variable.path.endswith(
            f"stage_2_block_2_conv_1{'' if name == 'kernel' else '_norm'}/{name}"
        )
    }
    assert len(wrong) == 1
    graph_of = graph.ChannelGraph

    def with_a_mistake(model):
        graph = graph_of(model)
        for sliced in graph.sliced.values():
            if id(sliced.variable) in wrong:
                sliced.axes = {axis: np.roll(a, 1) for axis, a in sliced.axes.items()}
                sliced.own = None
        return graph

    monkeypatch.setattr(shrinking, "ChannelGraph", with_a_mistake)
    with pytest.raises(ValueError, match="is something else, so it is not handed over"):
        po.shrink(model)
