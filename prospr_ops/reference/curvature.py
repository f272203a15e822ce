"""The closed-form curvature contractions in plain TensorFlow, one product tensor and one square.

The twins of the functions of the same names in `prospr_ops.ops`; they hold every sample's products
in memory and are for small problems.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def dense_curvature(inputs: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """``sum_n sum_c (sum_t inputs[n, t, i] * factors[c, n, t, o])**2``.

    Args:
        inputs: ``[N, ..., I]``.
        factors: ``[C, N, ..., O]``.

    Returns:
        The diagonal, ``[I, O]``, of the inputs' dtype.
    """
    inputs = tf.reshape(inputs, [inputs.shape[0], -1, inputs.shape[-1]])
    factors = tf.reshape(factors, [*factors.shape[:2], -1, factors.shape[-1]])
    return tf.reduce_sum(tf.square(tf.einsum("nti,cnto->cnio", inputs, factors)), [0, 1])


def conv_curvature(
    inputs: tf.Tensor,
    factors: tf.Tensor,
    kernel_size: Sequence[int],
    *,
    strides: Sequence[int],
    padding: str = "valid",
    dilation_rate: Sequence[int],
    groups: int = 1,
    depthwise: bool = False,
) -> tf.Tensor:
    """``sum_n sum_c (sum_t patches[n, t, k, i] * factors[c, n, t, o])**2``.

    Args:
        inputs: ``[N, spatial..., channels]``.
        factors: ``[C, N, output spatial..., O]``.
        kernel_size: One number for each spatial axis.
        strides: One number for each spatial axis.
        padding: ``"valid"``, ``"same"`` or ``"causal"``.
        dilation_rate: One number for each spatial axis.
        groups: Groups of channels that are convolved apart.
        depthwise: Whether each channel is a group of its own.

    Returns:
        The diagonal in the shape of the Keras kernel, of the inputs' dtype.
    """
    channels, outputs = inputs.shape[-1], factors.shape[-1]
    if depthwise:
        groups = channels
    patches = _patches(inputs, kernel_size, strides, padding, dilation_rate)
    samples, positions, elements = patches.shape[:3]
    patches = tf.reshape(patches, [samples, positions, elements, groups, channels // groups])
    factors = tf.reshape(factors, [-1, samples, positions, groups, outputs // groups])
    products = tf.einsum("ntkgi,cntgo->cnkigo", patches, factors)
    shape = [channels, outputs // channels] if depthwise else [channels // groups, outputs]
    return tf.reshape(tf.reduce_sum(tf.square(products), [0, 1]), [*kernel_size, *shape])


def pooled_conv_curvature(
    inputs: tf.Tensor,
    factors: tf.Tensor,
    derivative: tf.Tensor,
    kernel_size: Sequence[int],
    *,
    strides: Sequence[int],
    padding: str = "valid",
    dilation_rate: Sequence[int],
    groups: int = 1,
) -> tf.Tensor:
    """`conv_curvature` of the dense factors.

    Args:
        inputs: ``[N, spatial..., channels]``.
        factors: ``[C, N, windows..., O]``.
        derivative: ``[N, output spatial..., O]``; multiplies each window's factor.
        kernel_size: One number for each spatial axis.
        strides: One number for each spatial axis.
        padding: ``"valid"``, ``"same"`` or ``"causal"``.
        dilation_rate: One number for each spatial axis.
        groups: Groups of channels that are convolved apart.

    Returns:
        The diagonal in the shape of the Keras kernel, of the inputs' dtype.
    """
    return conv_curvature(
        inputs,
        _dense_factors(factors, derivative),
        kernel_size,
        strides=strides,
        padding=padding,
        dilation_rate=dilation_rate,
        groups=groups,
    )


def pooled_conv_input_gradient(
    kernel: tf.Tensor,
    factors: tf.Tensor,
    derivative: tf.Tensor,
    input_size: Sequence[int],
    *,
    strides: Sequence[int],
    padding: str = "valid",
    dilation_rate: Sequence[int],
    groups: int = 1,
) -> tf.Tensor:
    """The gradient of each column through the convolution's product with explicit patches.

    Args:
        kernel: ``[kernel..., channels / groups, O]``.
        factors: ``[C, N, windows..., O]``.
        derivative: ``[N, output spatial..., O]``; multiplies each window's factor.
        input_size: The spatial axes of the input.
        strides: One number for each spatial axis.
        padding: ``"valid"``, ``"same"`` or ``"causal"``.
        dilation_rate: One number for each spatial axis.
        groups: Groups of channels that are convolved apart.

    Returns:
        The gradients, ``[C, N, input_size..., channels]``, of the kernel's dtype.
    """
    *kernel_size, group_channels, outputs = kernel.shape
    inputs = tf.zeros([factors.shape[1], *input_size, groups * group_channels], kernel.dtype)
    by_group = tf.reshape(kernel, [-1, group_channels, groups, outputs // groups])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        patches = _patches(inputs, kernel_size, strides, padding, dilation_rate)
        by_channel = tf.reshape(patches, [*patches.shape[:3], groups, group_channels])
        output = tf.einsum("ntkgi,kigo->ntgo", by_channel, by_group)
        output = tf.reshape(output, [*patches.shape[:2], outputs])
    dense = tf.reshape(_dense_factors(factors, derivative), [-1, *output.shape])
    return tf.stack([tape.gradient(output, inputs, column) for column in dense])


def embedding_curvature(indices: tf.Tensor, factors: tf.Tensor, vocabulary: int) -> tf.Tensor:
    """``sum_n sum_c (sum of factors[c, n, t, o] over the t with indices[n, t] == v)**2``.

    Args:
        indices: ``[N, ...]``.
        factors: ``[C, N, ..., O]``.
        vocabulary: Rows of the table, V.

    Returns:
        The diagonal, ``[V, O]``, of the factors' dtype.
    """
    return dense_curvature(tf.one_hot(indices, vocabulary, dtype=factors.dtype), factors)


def _dense_factors(factors: tf.Tensor, derivative: tf.Tensor) -> tf.Tensor:
    """The factors at every output pixel: its window's, times its derivative."""
    for axis in range(2, factors.shape.rank - 1):
        factors = tf.repeat(factors, derivative.shape[axis - 1] // factors.shape[axis], axis)
    return factors * derivative


def _patches(
    inputs: tf.Tensor,
    kernel_size: Sequence[int],
    strides: Sequence[int],
    padding: str,
    dilation_rate: Sequence[int],
) -> tf.Tensor:
    """Every output pixel's patch, ``[N, pixels, kernel elements, channels]``.

    One axis after the other is padded and gathered into an axis of pixels and one of kernel
    elements.
    """
    patches = inputs
    axes = len(kernel_size)
    # Axis `2 * i + 1` is the i-th not gathered yet: pixels and elements of earlier axes come first.
    for i, (kernel, stride, dilation) in enumerate(
        zip(kernel_size, strides, dilation_rate, strict=True)
    ):
        axis = 2 * i + 1
        size = patches.shape[axis]
        reach = (kernel - 1) * dilation + 1
        before = after = 0
        if padding == "causal":
            before = reach - 1
        elif padding == "same":
            zeros = max((-(-size // stride) - 1) * stride + reach - size, 0)
            before, after = zeros // 2, zeros - zeros // 2
        widths = [[0, 0]] * patches.shape.rank
        widths[axis] = [before, after]
        pixels = (size + before + after - reach) // stride + 1
        places = stride * tf.range(pixels)[:, None] + dilation * tf.range(kernel)[None, :]
        patches = tf.gather(tf.pad(patches, widths), places, axis=axis)
    order = [0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1]
    patches = tf.transpose(patches, order)
    pixels = 1
    for size in patches.shape[1 : axes + 1]:
        pixels *= size
    return tf.reshape(patches, [inputs.shape[0], pixels, -1, inputs.shape[-1]])
