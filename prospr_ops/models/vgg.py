"""The VGG that pruning papers train on CIFAR: uncompiled, with logits as outputs."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

__all__ = ["vgg7", "vgg16"]

# Channels of each convolution, with max-pooling between the stages.
_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_SMALL_STAGES = ((16, 16), (32, 32), (64, 64))


def vgg16(
    input_shape: Sequence[int] = (32, 32, 3), classes: int = 10, batch_norm: bool = True
) -> keras.Sequential:
    """VGG-16 for CIFAR: 13 convolutions and one dense layer (14,715,584 kernel weights).

    Global average pooling and one dense layer replace the three dense layers of Simonyan and
    Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2015).

    Args:
        input_shape: Shape of one input, `(height, width, channels)`, at least 16 x 16 pixels.
        classes: Number of logits.
        batch_norm: Whether batch normalisation follows each convolution, which then has no bias.

    Returns:
        An uncompiled model from `[n, *input_shape]` to logits `[n, classes]`.

    Examples:
        >>> import prospr_ops as po
        >>> po.models.vgg16(input_shape=(16, 16, 3)).output_shape
        (None, 10)
    """
    return _vgg("vgg16", _STAGES, input_shape, classes, batch_norm)


def vgg7(
    input_shape: Sequence[int] = (28, 28, 1), classes: int = 10, batch_norm: bool = True
) -> keras.Sequential:
    """A small VGG for images of 28 × 28: 6 convolutions and one dense layer (72,208 kernel weights).

    Three stages of two convolutions, of 16, 32 and 64 channels, in the form of `vgg16`.

    Args:
        input_shape: Shape of one input, `(height, width, channels)`, at least 4 x 4 pixels.
        classes: Number of logits.
        batch_norm: Whether batch normalisation follows each convolution, which then has no bias.

    Returns:
        An uncompiled model from `[n, *input_shape]` to logits `[n, classes]`.

    Examples:
        >>> import prospr_ops as po
        >>> po.models.vgg7().count_params()
        73114
    """
    return _vgg("vgg7", _SMALL_STAGES, input_shape, classes, batch_norm)


def _vgg(
    name: str,
    stages: Sequence[Sequence[int]],
    input_shape: Sequence[int],
    classes: int,
    batch_norm: bool,
) -> keras.Sequential:
    parts = [keras.Input(input_shape)]
    for i, stage in enumerate(stages, start=1):
        if i > 1:
            parts.append(layers.MaxPooling2D(name=f"pool_{i - 1}"))
        for j, channels in enumerate(stage, start=1):
            parts += _conv(channels, f"conv_{i}_{j}", batch_norm)
    parts.append(layers.GlobalAveragePooling2D(name="pool"))
    parts.append(layers.Dense(classes, name="logits"))
    return keras.Sequential(parts, name=name)


def _conv(channels: int, name: str, batch_norm: bool) -> list[layers.Layer]:
    convolution = layers.Conv2D(
        channels,
        kernel_size=3,
        padding="same",
        activation=None if batch_norm else "relu",
        use_bias=not batch_norm,
        kernel_initializer=keras.initializers.HeNormal(),
        name=name,
    )
    if not batch_norm:
        return [convolution]
    normalisation = layers.BatchNormalization(name=f"{name}_norm")
    return [convolution, normalisation, layers.ReLU(name=f"{name}_relu")]
