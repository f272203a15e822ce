"""The LeNets that pruning papers train on MNIST: uncompiled, with logits as outputs."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

__all__ = ["lenet5", "lenet5_caffe", "lenet_300_100"]


def lenet_300_100(input_shape: Sequence[int] = (28, 28, 1), classes: int = 10) -> keras.Sequential:
    """Multilayer perceptron with 300 and 100 hidden units and ReLU (266,610 parameters).

    Args:
        input_shape: Shape of one input; it is flattened.
        classes: Number of logits.

    Returns:
        An uncompiled model from `[n, *input_shape]` to logits `[n, classes]`.

    Examples:
        >>> import prospr_ops as po
        >>> po.models.lenet_300_100().count_params()
        266610
    """
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Flatten(name="flatten"),
            _dense(300, "hidden_1", activation="relu"),
            _dense(100, "hidden_2", activation="relu"),
            _dense(classes, "logits"),
        ],
        name="lenet_300_100",
    )


def lenet5(input_shape: Sequence[int] = (28, 28, 1), classes: int = 10) -> keras.Sequential:
    """LeNet-5 with 6-16-120-84 units, ReLU and max-pooling (61,706 parameters).

    The first convolution pads, so that 28 x 28 images take the place of the original's 32 x 32
    ones.

    Args:
        input_shape: Shape of one input, `(height, width, channels)`, at least 12 x 12 pixels.
        classes: Number of logits.

    Returns:
        An uncompiled model from `[n, *input_shape]` to logits `[n, classes]`.

    Examples:
        >>> import prospr_ops as po
        >>> po.models.lenet5().count_params()
        61706
    """
    return keras.Sequential(
        [
            keras.Input(input_shape),
            _conv(6, "conv_1", padding="same", activation="relu"),
            layers.MaxPooling2D(name="pool_1"),
            _conv(16, "conv_2", activation="relu"),
            layers.MaxPooling2D(name="pool_2"),
            layers.Flatten(name="flatten"),
            _dense(120, "hidden_1", activation="relu"),
            _dense(84, "hidden_2", activation="relu"),
            _dense(classes, "logits"),
        ],
        name="lenet5",
    )


def lenet5_caffe(input_shape: Sequence[int] = (28, 28, 1), classes: int = 10) -> keras.Sequential:
    """Caffe's LeNet-5 with 20-50-500 units (431,080 parameters).

    As in Caffe's example, no activation follows the convolutions; only max-pooling is nonlinear
    there.

    Args:
        input_shape: Shape of one input, `(height, width, channels)`, at least 16 x 16 pixels.
        classes: Number of logits.

    Returns:
        An uncompiled model from `[n, *input_shape]` to logits `[n, classes]`.

    Examples:
        >>> import prospr_ops as po
        >>> po.models.lenet5_caffe().count_params()
        431080
    """
    return keras.Sequential(
        [
            keras.Input(input_shape),
            _conv(20, "conv_1"),
            layers.MaxPooling2D(name="pool_1"),
            _conv(50, "conv_2"),
            layers.MaxPooling2D(name="pool_2"),
            layers.Flatten(name="flatten"),
            _dense(500, "hidden_1", activation="relu"),
            _dense(classes, "logits"),
        ],
        name="lenet5_caffe",
    )


def _dense(units: int, name: str, activation: str | None = None) -> layers.Layer:
    return layers.Dense(units, activation, kernel_initializer=_variance_scaling(), name=name)


def _conv(
    filters: int, name: str, padding: str = "valid", activation: str | None = None
) -> layers.Layer:
    return layers.Conv2D(
        filters,
        kernel_size=5,
        padding=padding,
        activation=activation,
        kernel_initializer=_variance_scaling(),
        name=name,
    )


def _variance_scaling() -> keras.initializers.Initializer:
    """SNIP's initialiser; one instance per layer, since an instance repeats its numbers."""
    return keras.initializers.VarianceScaling(scale=1.0, mode="fan_in")
