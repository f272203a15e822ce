"""The residual network that pruning papers train on CIFAR: uncompiled, with logits as outputs."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

__all__ = ["resnet20"]


def resnet20(input_shape: Sequence[int] = (32, 32, 3), classes: int = 10) -> keras.Model:
    """ResNet-20 for CIFAR: three stages of three blocks, 16-32-64 channels (268,336 weights).

    Its shortcuts hold no weights: at the start of a stage they take every second pixel and pad the
    channels with zeros (option A of He et al., "Deep Residual Learning for Image Recognition",
    2016).

    Args:
        input_shape: Shape of one input, `(height, width, channels)`.
        classes: Number of logits.

    Returns:
        An uncompiled model from `[n, *input_shape]` to logits `[n, classes]`.

    Examples:
        >>> import prospr_ops as po
        >>> po.models.resnet20(input_shape=(16, 16, 3)).output_shape
        (None, 10)
    """
    inputs = keras.Input(input_shape)
    x = _conv(inputs, 16, "stem")
    x = layers.ReLU(name="stem_relu")(x)
    for stage, channels in enumerate((16, 32, 64), start=1):
        for block in range(1, 4):
            stride = 2 if stage > 1 and block == 1 else 1
            x = _block(x, channels, stride, f"stage_{stage}_block_{block}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="resnet20")


def _block(x: keras.KerasTensor, channels: int, stride: int, name: str) -> keras.KerasTensor:
    shortcut = x
    if stride > 1:
        shortcut = layers.AveragePooling2D(1, stride, name=f"{name}_subsample")(shortcut)
        zeros = channels - shortcut.shape[-1]
        shortcut = keras.ops.pad(shortcut, [[0, 0], [0, 0], [0, 0], [0, zeros]])
    x = _conv(x, channels, f"{name}_conv_1", stride)
    x = layers.ReLU(name=f"{name}_relu_1")(x)
    x = _conv(x, channels, f"{name}_conv_2")
    x = layers.Add(name=f"{name}_sum")([shortcut, x])
    return layers.ReLU(name=f"{name}_relu_2")(x)


def _conv(x: keras.KerasTensor, channels: int, name: str, stride: int = 1) -> keras.KerasTensor:
    """A 3 x 3 convolution with batch normalisation, centred on the pixels of the shortcut."""
    if stride > 1:
        x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    x = layers.Conv2D(
        channels,
        kernel_size=3,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        kernel_initializer=keras.initializers.HeNormal(),
        name=name,
    )(x)
    return layers.BatchNormalization(name=f"{name}_norm")(x)
