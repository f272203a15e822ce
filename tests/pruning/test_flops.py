from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import prospr_ops as po
from prospr_ops.pruning.flops import input_specs, model_flops, weight_uses

# A layer on an input, and the multiply-adds that each weight of its kernels takes part in.
CASES = {
    "dense": (layers.Dense(7), (5,), 1),
    "dense on positions": (layers.Dense(7), (4, 3, 5), 12),
    "embedding": (layers.Embedding(11, 3), (6,), 0),
    "conv 1d": (layers.Conv1D(4, 3), (10, 2), 8),
    "conv 2d": (layers.Conv2D(4, 3, strides=2, padding="same"), (9, 7, 2), 20),
    "conv 2d in groups": (layers.Conv2D(4, 3, groups=2), (6, 6, 2), 16),
    "dilated conv 2d": (layers.Conv2D(4, 3, dilation_rate=2), (9, 9, 2), 25),
    "conv 3d": (layers.Conv3D(2, 2), (4, 4, 4, 3), 27),
    "transposed conv": (layers.Conv2DTranspose(4, 3, strides=2), (5, 6, 2), 30),
    "depthwise conv": (layers.DepthwiseConv2D(3, depth_multiplier=2), (6, 6, 3), 16),
    "separable conv": (layers.SeparableConv2D(5, 3, strides=2), (7, 7, 3), 9),
    "einsum": (layers.EinsumDense("abc,cd->abd", (None, 3)), (9, 4), 9),
    "einsum with an ellipsis": (layers.EinsumDense("...c,cde->...de", (3, 2)), (5, 6, 4), 30),
    "einsum of positions": (layers.EinsumDense("abc,bd->adc", (3, 4)), (9, 4), 4),
}


def _model(layer, shape) -> keras.Model:
    layer = type(layer).from_config(layer.get_config())  # a model each may own it
    return keras.Sequential([keras.Input(shape), layer])


@pytest.mark.parametrize("name", CASES)
def test_uses_of_each_layer(name):
    layer, shape, expected = CASES[name]
    found = weight_uses(_model(layer, shape))
    assert set(found.values()) == {expected}
    assert not any("bias" in path for path in found)


# Of einsums, transposed, grouped and dilated convolutions it counts nothing, or something else.
@pytest.mark.parametrize(
    "name",
    ["dense", "dense on positions", "conv 2d", "conv 3d", "depthwise conv", "separable conv"],
)
def test_flops_are_those_of_tensorflows_profiler(name):
    layer, shape, _ = CASES[name]
    model = _model(layer, shape)
    graph = tf.function(model).get_concrete_function(tf.TensorSpec((1, *shape), tf.float32)).graph
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation())
    counted = profiler.profile(graph, options=options.with_empty_output().build())
    biases = np.prod(model.output_shape[1:]) if layer.get_config().get("use_bias") else 0
    assert model_flops(model) == counted.total_float_ops - biases


def test_a_shared_layer_counts_every_call():
    shared = layers.Dense(4)
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, shared(shared(inputs)))
    assert list(weight_uses(model).values()) == [6]


def test_nested_models_and_attention():
    inputs = keras.Input((6, 8))
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    inner = keras.Sequential([keras.Input((6, 8)), layers.Dense(3)], name="inner")
    model = keras.Model(inputs, inner(attention(inputs, inputs)))
    uses = weight_uses(model)
    assert len(uses) == 5
    assert set(uses.values()) == {6}


class Cell(layers.Layer):
    state_size = 3

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(3)

    def build(self, shape):
        self.dense.build((shape[0], shape[1] + 3))

    def call(self, inputs, states):
        output = self.dense(keras.ops.concatenate([inputs, states[0]], axis=-1))
        return output, [output]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (lambda: layers.TimeDistributed(layers.Dense(3)), [5, 1]),
        (lambda: layers.RNN(Cell(), unroll=True), [5, 1]),
        (lambda: layers.RNN(Cell()), [1]),  # a trace does not show how often a loop turns
    ],
)
def test_steps_of_time(layer, expected):
    model = keras.Sequential(
        [keras.Input((5, 4)), layer(), layers.Flatten(), layers.Dense(2, name="last")]
    )
    assert list(weight_uses(model).values()) == expected


def test_images_of_any_size_are_counted_by_a_batch():
    model = keras.Sequential([keras.Input((None, None, 1)), layers.Conv2D(2, 3)])
    assert weight_uses(model) == {}
    specs = input_specs(model, np.zeros((4, 6, 7, 1), "f"))
    assert list(weight_uses(model, specs).values()) == [20]


def test_a_batch_that_the_model_insists_on():
    inputs = keras.Input(batch_shape=(8, 6))
    model = keras.Model(inputs, layers.Dense(2)(keras.ops.reshape(inputs, (16, 3))))
    assert list(weight_uses(model).values()) == [2]


def test_several_inputs():
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((5, 2), name="b")}
    outputs = [layers.Dense(4)(inputs["a"]), layers.Dense(4)(inputs["b"])]
    assert list(weight_uses(keras.Model(inputs, outputs)).values()) == [1, 5]


def test_a_model_is_left_as_it_was():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3), layers.BatchNormalization(), layers.Dropout(0.5)]
    )
    before = [variable.numpy() for variable in model.variables]
    weight_uses(model)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
    assert "call" not in vars(model.layers[0])


def test_known_networks():
    assert model_flops(po.models.lenet_300_100()) == 2 * 266_200
    assert sum(weight_uses(po.models.lenet5()).values()) == 28 * 28 + 10 * 10 + 3


def test_bad_models():
    with pytest.raises(TypeError, match=r"keras\.Model"):
        model_flops("model")
    with pytest.raises(ValueError, match="not built"):
        weight_uses(keras.Sequential([layers.Dense(3)]))


def test_a_model_that_cannot_be_traced_is_pruned_all_the_same():
    def eager(inputs):
        return inputs * float(inputs.numpy().max())

    model = keras.Sequential([keras.Input((6,)), layers.Dense(4)])
    model.layers[0].activation = eager
    assert weight_uses(model) == {}
    result = po.prune(model, None, sparsity=0.5, method="magnitude", verbose=0)
    assert result.kept == 12
    assert result.uses == {}


class _Underscored(keras.Model):
    """TensorFlow takes no scope whose name begins with an underscore, as this model's does."""


def test_a_model_that_cannot_be_traced_leaves_no_name_scope_open():
    inputs = keras.Input((3,))
    model = _Underscored(inputs, layers.Dense(2)(inputs))
    assert model.name.startswith("_")
    weight_uses(model)
    later = layers.Dense(2, name="later")
    later.build((None, 3))
    assert later.kernel.path == "later/kernel"
