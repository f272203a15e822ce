"""The closed-form curvature contractions in plain TensorFlow.

They are the twins of the functions with the same names in `prospr_ops.ops`. They hold every
sample's products in memory, so they are for small problems.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def dense_curvature(inputs: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Twin of `prospr_ops.ops.dense_curvature`.

    Computes ``sum_n sum_c (sum_t inputs[n, t, i] * factors[c, n, t, o])**2``.

    Args:
        inputs: Input of the layer, ``[N, ..., I]``.
        factors: Gradient factors at the layer's output, ``[C, N, ..., O]``.

    Returns:
        The diagonal, ``[I, O]``, of the inputs' dtype.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> inputs = tf.constant([[1.0, 2.0]])  # N = 1 sample, I = 2
        >>> factors = tf.constant([[[3.0]]])  # C = 1 column, O = 1
        >>> po.reference.dense_curvature(inputs, factors).numpy().tolist()
        [[9.0], [36.0]]
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
    """Twin of `prospr_ops.ops.conv_curvature`.

    Computes ``sum_n sum_c (sum_t patches[n, t, k, i] * factors[c, n, t, o])**2``.

    Args:
        inputs: Input of the layer, ``[N, spatial..., channels]``.
        factors: Gradient factors at the layer's output, ``[C, N, output spatial..., O]``.
        kernel_size: Size of the kernel along each spatial axis.
        strides: Stride along each spatial axis.
        padding: Padding as in Keras: ``"valid"``, ``"same"`` or ``"causal"``.
        dilation_rate: Dilation along each spatial axis.
        groups: Number of channel groups, each convolved by its own filters.
        depthwise: Whether this is a depthwise convolution; `groups` is then ignored.

    Returns:
        The diagonal in the shape of the Keras kernel, of the inputs' dtype.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> inputs = tf.constant([[[1.0], [2.0], [3.0]]])  # [N, pixels, channels] = [1, 3, 1]
        >>> factors = tf.ones([1, 1, 2, 1])  # [C, N, output pixels, O]
        >>> curvature = po.reference.conv_curvature(
        ...     inputs, factors, [2], strides=[1], dilation_rate=[1]
        ... )
        >>> tf.squeeze(curvature).numpy().tolist()  # (1 + 2)², (2 + 3)²
        [9.0, 25.0]
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
    """Twin of `prospr_ops.ops.pooled_conv_curvature`: `conv_curvature` of the dense factors.

    Args:
        inputs: Input of the layer, ``[N, spatial..., channels]``.
        factors: Gradient factors after the pooling, ``[C, N, windows..., O]``.
        derivative: Derivative of the pooling and of what lies elementwise before it, ``[N, output
            spatial..., O]``; multiplies each window's factor.
        kernel_size: Size of the kernel along each spatial axis.
        strides: Stride along each spatial axis.
        padding: Padding as in Keras: ``"valid"``, ``"same"`` or ``"causal"``.
        dilation_rate: Dilation along each spatial axis.
        groups: Number of channel groups, each convolved by its own filters.

    Returns:
        The diagonal in the shape of the Keras kernel, of the inputs' dtype.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> inputs = tf.reshape(tf.constant([1.0, 2.0, 3.0, 4.0]), [1, 4, 1])
        >>> factors = tf.ones([1, 1, 2, 1])  # 2 windows of 2 pixels each
        >>> derivative = tf.reshape(tf.constant([0.0, 1.0, 1.0, 0.0]), [1, 4, 1])
        >>> curvature = po.reference.pooled_conv_curvature(
        ...     inputs, factors, derivative, [1], strides=[1], dilation_rate=[1]
        ... )
        >>> tf.squeeze(curvature).numpy().item()  # (2 + 3)²
        25.0
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
    """Twin of `prospr_ops.ops.pooled_conv_input_gradient`.

    Differentiates the product of the kernel and explicit patches, for each column.

    Args:
        kernel: Kernel of the convolution, ``[kernel..., channels / groups, O]``.
        factors: Gradient factors after the pooling, ``[C, N, windows..., O]``.
        derivative: Derivative of the pooling and of what lies elementwise before it, ``[N, output
            spatial..., O]``; multiplies each window's factor.
        input_size: Size of the convolution's input along each spatial axis.
        strides: Stride along each spatial axis.
        padding: Padding as in Keras: ``"valid"``, ``"same"`` or ``"causal"``.
        dilation_rate: Dilation along each spatial axis.
        groups: Number of channel groups, each convolved by its own filters.

    Returns:
        The gradients, ``[C, N, input_size..., channels]``, of the kernel's dtype.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> kernel = tf.constant([[[2.0]]])  # [kernel size, channels, O]
        >>> factors = tf.ones([1, 1, 2, 1])  # 2 windows of 2 pixels each
        >>> derivative = tf.reshape(tf.constant([0.0, 1.0, 1.0, 0.0]), [1, 4, 1])
        >>> gradient = po.reference.pooled_conv_input_gradient(
        ...     kernel, factors, derivative, [4], strides=[1], dilation_rate=[1]
        ... )
        >>> tf.squeeze(gradient).numpy().tolist()
        [0.0, 2.0, 2.0, 0.0]
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
    """Twin of `prospr_ops.ops.embedding_curvature`.

    Computes ``sum_n sum_c (sum of factors[c, n, t, o] over the t with indices[n, t] == v)**2``.

    Args:
        indices: Input of the layer, ``[N, ...]``.
        factors: Gradient factors at the layer's output, ``[C, N, ..., O]``.
        vocabulary: Number of rows V of the table.

    Returns:
        The diagonal, ``[V, O]``, of the factors' dtype.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> indices = tf.constant([[0, 2, 2]])  # one sample of three time steps
        >>> factors = tf.ones([1, 1, 3, 1])  # [C, N, time steps, O]
        >>> po.reference.embedding_curvature(indices, factors, 3).numpy().tolist()
        [[1.0], [0.0], [4.0]]
    """
    return dense_curvature(tf.one_hot(indices, vocabulary, dtype=factors.dtype), factors)


def _dense_factors(factors: tf.Tensor, derivative: tf.Tensor) -> tf.Tensor:
    """The factor at every output pixel: its window's factor times its derivative."""
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
    """The patch of every output pixel, ``[N, pixels, kernel elements, channels]``.

    Each spatial axis in turn is padded and gathered into one axis of pixels and one of kernel
    elements.
    """
    patches = inputs
    axes = len(kernel_size)
    # Axis `2 * i + 1` is spatial axis i: each earlier one has become two axes.
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
