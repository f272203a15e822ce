from __future__ import annotations

from functools import partial

import keras
import numpy as np
import pytest

from prospr_ops import models
from prospr_ops.network.weights import prunable_weights

LENETS = {
    models.lenet_300_100: 266_610,
    models.lenet5: 61_706,
    models.lenet5_caffe: 431_080,
}
all_lenets = pytest.mark.parametrize("build", LENETS, ids=lambda build: build.__name__)


@all_lenets
def test_parameters_and_shapes(build):
    model = build()
    assert model.name == build.__name__
    assert model.count_params() == LENETS[build]
    assert model.input_shape == (None, 28, 28, 1)
    assert model(np.zeros((3, 28, 28, 1), np.float32)).shape == (3, 10)
    assert not model.compiled


@all_lenets
def test_other_input_and_classes(build):
    model = build((32, 20, 3), 7)
    assert model(np.zeros((2, 32, 20, 3), np.float32)).shape == (2, 7)


@all_lenets
def test_output_is_logits(build):
    assert build().layers[-1].activation is keras.activations.linear


def test_caffe_has_no_activation_after_convolutions():
    convolutions = [
        layer for layer in models.lenet5_caffe().layers if isinstance(layer, keras.layers.Conv2D)
    ]
    assert [layer.filters for layer in convolutions] == [20, 50]
    assert all(layer.activation is keras.activations.linear for layer in convolutions)


@all_lenets
def test_kernels_are_scaled_by_fan_in(build):
    keras.utils.set_random_seed(0)
    for layer in build().layers:
        if hasattr(layer, "kernel"):
            kernel = layer.kernel.numpy()
            fan_in = np.prod(kernel.shape[:-1])
            assert kernel.std() * np.sqrt(fan_in) == pytest.approx(1, abs=0.15)
            assert not layer.bias.numpy().any()


def test_seed_decides_the_weights():
    def kernels(seed):
        keras.utils.set_random_seed(seed)
        return [weight.numpy() for weight in models.lenet_300_100().weights]

    first, again, other = kernels(1), kernels(1), kernels(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


CIFAR = {
    "resnet20": (models.resnet20, 268_336, 268_336 + 10 + 4 * 688),
    "vgg16": (models.vgg16, 14_715_584, 14_715_584 + 10 + 4 * 4224),
    "vgg16_plain": (
        partial(models.vgg16, batch_norm=False),
        14_715_584,
        14_715_584 + 10 + 4224,
    ),
}


@pytest.mark.parametrize(("build", "kernels", "parameters"), CIFAR.values(), ids=CIFAR)
def test_cifar_parameters_and_shapes(build, kernels, parameters):
    model = build()
    weights = prunable_weights(model).values()
    assert sum(np.prod(weight.shape) for weight in weights) == kernels
    assert model.count_params() == parameters
    assert model.input_shape == (None, 32, 32, 3)
    assert model(np.zeros((3, 32, 32, 3), np.float32)).shape == (3, 10)
    assert model.layers[-1].activation is keras.activations.linear
    assert not model.compiled
    assert build((16, 20, 1), 7)(np.zeros((2, 16, 20, 1), np.float32)).shape == (2, 7)


def test_vgg7_has_six_convolutions():
    model = models.vgg7()
    weights = prunable_weights(model).values()
    assert len(weights) == 7
    assert sum(np.prod(weight.shape) for weight in weights) == 72_208
    assert model.count_params() == 72_208 + 10 + 4 * 224
    assert model.output_shape == (None, 10)
    assert models.vgg7((8, 8, 3), 4, batch_norm=False)(np.zeros((2, 8, 8, 3))).shape == (2, 4)


def test_vgg16_without_batch_norm_has_none():
    kinds = {type(layer) for layer in models.vgg16(batch_norm=False).layers}
    assert keras.layers.BatchNormalization not in kinds


def test_resnet20_shortcuts_subsample_and_pad():
    model = models.resnet20()
    block = "stage_2_block_1"
    before, branch, after = (
        model.get_layer(name).output
        for name in ("stage_1_block_3_relu_2", f"{block}_conv_2_norm", f"{block}_sum")
    )
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    before, branch, after = keras.Model(model.input, [before, branch, after])(images)
    shortcut = np.pad(before[:, ::2, ::2], [(0, 0), (0, 0), (0, 0), (0, 16)])
    np.testing.assert_allclose(after, shortcut + branch, rtol=1e-6)


def test_resnet20_is_rebuilt_from_its_config():
    model = models.resnet20()
    rebuilt = keras.Model.from_config(model.get_config())
    rebuilt.set_weights(model.get_weights())
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    np.testing.assert_allclose(rebuilt(images), model(images), rtol=1e-6)
