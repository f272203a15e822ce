from __future__ import annotations

import keras
import numpy as np
import pytest

from prospr_ops import models

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
