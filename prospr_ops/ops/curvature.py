"""Closed-form diagonals of the Hessian (generalised Gauss-Newton), one function a kind of layer.

All are sums over samples and over the columns of a factor of the loss's Hessian at the model's
output, backpropagated to the layer's output before its activation. Scale factors such as
1 / sqrt(batch size) belong in the factors; nothing is divided in here. Positions (time steps,
pixels) are summed before the square, so no tensor of products is ever stored. An accumulator that
nobody else holds is updated in its own buffer, so columns or samples can come in several calls.

With few positions, dense and convolution ops expand the square into products of pairs of positions.
The error is then a few roundings of ``sum_n sum_c (sum_t |inputs * factors|)**2``, which is more than
those of a result that cancels over positions, and ``inputs**2`` must not overflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from prospr_ops.ops._arguments import per_axis
from prospr_ops.ops._library import library, raises_value_error

_SUM_DTYPES = {
    tf.float16: tf.float32,
    tf.bfloat16: tf.float32,
    tf.float32: tf.float32,
    tf.float64: tf.float64,
}


@raises_value_error
def dense_curvature(inputs: Any, factors: Any, accumulator: Any = None) -> tf.Tensor:
    """Diagonal of the Hessian of a dense layer's kernel.

    Computes ``accumulator[i, o] + sum_n sum_c (sum_t inputs[n, t, i] * factors[c, n, t, o])**2``,
    t being all middle axes together. Without middle axes this is one matrix product. The result is
    the same bits for any number of threads.

    Args:
        inputs: Input of the layer, ``[N, ..., I]``, of float16, bfloat16, float32 or float64.
        factors: Gradient factors at the layer's output, ``[C, N, ..., O]``, of the inputs' dtype.
        accumulator: Tensor to which the result is added, ``[I, O]``, of float64 for float64 inputs,
            else float32. Zeros by default.

    Returns:
        The diagonal, ``[I, O]``, of the accumulator's dtype.

    Raises:
        ValueError: The dtypes do not match, or shapes do not fit each other, have no elements or
            are not known well enough.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> inputs = tf.constant([[1.0, 2.0]])  # N = 1 sample, I = 2
        >>> factors = tf.constant([[[3.0]]])  # C = 1 column, O = 1
        >>> po.ops.dense_curvature(inputs, factors).numpy().tolist()
        [[9.0], [36.0]]
    """
    inputs, factors, sum_dtype = _checked(inputs, factors)
    shape = [_last_axis("inputs", inputs), _last_axis("factors", factors)]
    return library.prospr_dense_curvature(
        inputs, factors, _accumulator(accumulator, shape, sum_dtype)
    )


@raises_value_error
def conv_curvature(
    inputs: Any,
    factors: Any,
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    dilation_rate: int | Sequence[int] = 1,
    groups: int = 1,
    depthwise: bool = False,
    accumulator: Any = None,
) -> tf.Tensor:
    """Diagonal of the Hessian of a convolution's kernel, in 1, 2 or 3 dimensions, channels last.

    Computes ``accumulator[k, i, o] + sum_n sum_c (sum_t patches[n, t, k, i] * factors[c, n, t,
    o])**2``, t being the output pixels and ``patches[n, t]`` the inputs that pixel t sees. The
    result is the same bits for any number of threads.

    Args:
        inputs: Input of the layer, ``[N, spatial..., channels]``, of float16, bfloat16, float32 or
            float64.
        factors: Gradient factors at the layer's output, ``[C, N, output spatial..., O]``, of the
            inputs' dtype.
        kernel_size: Size of the kernel along each spatial axis, or one number for all.
        strides: Stride along each spatial axis, or one number for all.
        padding: Padding as in Keras: ``"valid"``, ``"same"`` or, with one spatial axis,
            ``"causal"``.
        dilation_rate: Dilation along each spatial axis, or one number for all.
        groups: Number of channel groups, each convolved by its own filters.
        depthwise: Whether this is a depthwise convolution, with O = channels * multiplier. Each
            channel then forms its own group, and `groups` must be 1.
        accumulator: Tensor to which the result is added, in the shape of the Keras kernel:
            ``[kernel_size, channels / groups, O]``, or ``[kernel_size, channels, multiplier]`` if
            depthwise; of float64 for float64 inputs, else float32. Zeros by default.

    Returns:
        The diagonal, in the accumulator's shape and dtype.

    Raises:
        ValueError: An argument is not one of those accepted, the dtypes do not match, or shapes do
            not fit each other, have no elements or are not known well enough.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> inputs = tf.constant([[[1.0], [2.0], [3.0]]])  # [N, pixels, channels] = [1, 3, 1]
        >>> factors = tf.ones([1, 1, 2, 1])  # [C, N, output pixels, O]
        >>> curvature = po.ops.conv_curvature(inputs, factors, 2)
        >>> tf.squeeze(curvature).numpy().tolist()  # (1 + 2)², (2 + 3)²
        [9.0, 25.0]
    """
    inputs, factors, sum_dtype = _checked(inputs, factors)
    axes = (inputs.shape.rank or 0) - 2
    if axes not in {1, 2, 3} or factors.shape.rank != axes + 3:
        msg = (
            f"inputs has shape {inputs.shape} and factors {factors.shape}; they must be [samples, "
            "1 to 3 spatial axes, channels] and [columns, samples, as many axes, outputs]"
        )
        raise ValueError(msg)
    channels, outputs = _channels(inputs, factors)
    if depthwise:
        if groups != 1 or outputs % channels:
            msg = (
                f"a depthwise convolution has groups=1, not {groups}, and a multiple of its "
                f"{channels} input channels as outputs, not {outputs}"
            )
            raise ValueError(msg)
        groups = channels
    elif groups < 1 or channels % groups or outputs % groups:
        msg = (
            f"groups is {groups}; it must divide both the {channels} input channels and the "
            f"{outputs} output channels"
        )
        raise ValueError(msg)

    # A depthwise kernel, [..., channels, multiplier], is the same memory as that of `channels`
    # groups, [..., 1, outputs].
    options = _convolution_options(axes, kernel_size, strides, padding, dilation_rate, groups)
    kernel = options.pop("kernel_size")
    grouped_shape = [*kernel, channels // groups, outputs]
    shape = [*kernel, channels, outputs // channels] if depthwise else grouped_shape
    curvature = library.prospr_conv_curvature(
        inputs,
        factors,
        tf.reshape(_accumulator(accumulator, shape, sum_dtype), grouped_shape),
        **options,
    )
    return tf.reshape(curvature, shape)


@raises_value_error
def pooled_conv_curvature(
    inputs: Any,
    factors: Any,
    derivative: Any,
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    dilation_rate: int | Sequence[int] = 1,
    groups: int = 1,
    accumulator: Any = None,
) -> tf.Tensor:
    """`conv_curvature` of factors that come from behind a pooling.

    The windows of the pooling tile the convolution's output, and the factor at an output pixel is
    that of its window times a derivative, which after a max-pooling is mostly zero. Pixels whose
    derivative is zero cost nothing on the CPU; on a GPU they cost as much as any. The result is the
    same bits for any number of threads.

    Args:
        inputs: Input of the layer, ``[N, spatial..., channels]``, of float32 or float64.
        factors: Gradient factors after the pooling, ``[C, N, windows..., O]``, of the inputs'
            dtype; the windows on each spatial axis divide the output's size.
        derivative: Derivative of the pooling and of what lies elementwise before it, ``[N, output
            spatial..., O]``, of the inputs' dtype.
        kernel_size: Size of the kernel along each spatial axis, or one number for all.
        strides: Stride along each spatial axis, or one number for all.
        padding: Padding as in Keras: ``"valid"``, ``"same"`` or, with one spatial axis,
            ``"causal"``.
        dilation_rate: Dilation along each spatial axis, or one number for all.
        groups: Number of channel groups, each convolved by its own filters.
        accumulator: Tensor to which the result is added, ``[kernel_size, channels / groups, O]``,
            of the inputs' dtype. Zeros by default.

    Returns:
        The diagonal, in the accumulator's shape and dtype.

    Raises:
        ValueError: An argument is not one of those accepted, the dtypes do not match, or shapes do
            not fit each other, have no elements or are not known well enough.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> inputs = tf.reshape(tf.constant([1.0, 2.0, 3.0, 4.0]), [1, 4, 1])
        >>> factors = tf.ones([1, 1, 2, 1])  # 2 windows of 2 pixels each
        >>> derivative = tf.reshape(tf.constant([0.0, 1.0, 1.0, 0.0]), [1, 4, 1])
        >>> curvature = po.ops.pooled_conv_curvature(inputs, factors, derivative, 1)
        >>> tf.squeeze(curvature).numpy().item()  # (2 + 3)²
        25.0
    """
    inputs, factors, sum_dtype = _checked(inputs, factors)
    channels, outputs = _channels(inputs, factors)
    if groups < 1 or channels % groups:
        msg = f"groups is {groups}; it must divide the {channels} input channels"
        raise ValueError(msg)
    options = _convolution_options(
        (inputs.shape.rank or 0) - 2, kernel_size, strides, padding, dilation_rate, groups
    )
    shape = [*options.pop("kernel_size"), channels // groups, outputs]
    return library.prospr_pooled_conv_curvature(
        inputs,
        factors,
        _derivative(derivative, factors),
        _accumulator(accumulator, shape, sum_dtype),
        **options,
    )


@raises_value_error
def pooled_conv_input_gradient(
    kernel: Any,
    factors: Any,
    derivative: Any,
    input_size: Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    dilation_rate: int | Sequence[int] = 1,
    groups: int = 1,
) -> tf.Tensor:
    """Backpropagates the factors of `pooled_conv_curvature` to the convolution's input.

    Pixels whose derivative is zero cost nothing on the CPU; on a GPU they cost as much as any. An
    infinite factor (on a GPU an infinite weight too) makes its neighbours NaN. The result is the same
    bits for any number of threads.

    Args:
        kernel: Kernel of the convolution, ``[kernel_size, channels / groups, O]``, of float32 or
            float64.
        factors: Gradient factors after the pooling, ``[C, N, windows..., O]``, of the kernel's
            dtype; the windows on each spatial axis divide the output's size.
        derivative: Derivative of the pooling and of what lies elementwise before it, ``[N, output
            spatial..., O]``, of the kernel's dtype.
        input_size: Size of the convolution's input along each spatial axis.
        strides: Stride along each spatial axis, or one number for all.
        padding: Padding as in Keras: ``"valid"``, ``"same"`` or, with one spatial axis,
            ``"causal"``.
        dilation_rate: Dilation along each spatial axis, or one number for all.
        groups: Number of channel groups, each convolved by its own filters.

    Returns:
        The gradients, ``[C, N, input_size, channels]``, of the kernel's dtype.

    Raises:
        ValueError: An argument is not one of those accepted, the dtypes do not match, or shapes do
            not fit each other, have no elements or are not known well enough.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> kernel = tf.constant([[[2.0]]])  # [kernel size, channels, O]
        >>> factors = tf.ones([1, 1, 2, 1])  # 2 windows of 2 pixels each
        >>> derivative = tf.reshape(tf.constant([0.0, 1.0, 1.0, 0.0]), [1, 4, 1])
        >>> gradient = po.ops.pooled_conv_input_gradient(kernel, factors, derivative, [4])
        >>> tf.squeeze(gradient).numpy().tolist()
        [0.0, 2.0, 2.0, 0.0]
    """
    kernel, factors, _ = _checked(kernel, factors, "kernel")
    axes = len(input_size)
    options = _convolution_options(axes, 1, strides, padding, dilation_rate, groups)
    del options["kernel_size"]
    return library.prospr_pooled_conv_input_gradient(
        kernel,
        factors,
        _derivative(derivative, factors),
        input_size=per_axis("input_size", input_size, axes),
        **options,
    )


@raises_value_error
def embedding_curvature(
    indices: Any, factors: Any, vocabulary: int, accumulator: Any = None
) -> tf.Tensor:
    """Diagonal of the Hessian of an embedding's table.

    Computes ``accumulator[v, o] + sum_n sum_c (sum of factors[c, n, t, o] over the t with
    indices[n, t] == v)**2``, t being all axes of indices after the first. The result is the same
    bits for any number of threads.

    Args:
        indices: Input of the layer, ``[N, ...]``, of int32 or int64; each at least 0 and less than
            vocabulary.
        factors: Gradient factors at the layer's output, ``[C, N, ..., O]``, of float16, bfloat16,
            float32 or float64.
        vocabulary: Number of rows V of the table.
        accumulator: Tensor to which the result is added, ``[V, O]``, of float64 for float64
            factors, else float32. Zeros by default.

    Returns:
        The diagonal, ``[V, O]``, of the accumulator's dtype.

    Raises:
        ValueError: The dtypes do not match, an index is out of range (inside a `tf.function`: an
            InvalidArgumentError when it runs; on a GPU, which is not waited for, no error: the
            index counts for nothing, as in TensorFlow's gather there), or shapes do not fit each
            other or have no elements.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> indices = tf.constant([[0, 2, 2]])  # one sample of three time steps
        >>> factors = tf.ones([1, 1, 3, 1])  # [C, N, time steps, O]
        >>> po.ops.embedding_curvature(indices, factors, 3).numpy().tolist()
        [[1.0], [0.0], [4.0]]
    """
    indices = tf.convert_to_tensor(indices)
    factors = tf.convert_to_tensor(factors)
    if indices.dtype not in {tf.int32, tf.int64}:
        msg = f"indices has dtype {indices.dtype.name}; it must be int32 or int64"
        raise ValueError(msg)
    sum_dtype = _sum_dtype("factors", factors)
    shape = [vocabulary, _last_axis("factors", factors)]
    return library.prospr_embedding_curvature(
        indices, factors, _accumulator(accumulator, shape, sum_dtype)
    )


def _sum_dtype(name: str, tensor: tf.Tensor) -> tf.DType:
    """The dtype that sums of a tensor's are kept in."""
    if tensor.dtype not in _SUM_DTYPES:
        accepted = ", ".join(dtype.name for dtype in _SUM_DTYPES)
        msg = f"{name} has dtype {tensor.dtype.name}; it must be one of {accepted}"
        raise ValueError(msg)
    return _SUM_DTYPES[tensor.dtype]


def _checked(
    inputs: Any, factors: Any, name: str = "inputs"
) -> tuple[tf.Tensor, tf.Tensor, tf.DType]:
    """Inputs and factors as tensors of one dtype, and the dtype of their sums."""
    inputs = tf.convert_to_tensor(inputs)
    factors = tf.convert_to_tensor(factors)
    sum_dtype = _sum_dtype(name, inputs)
    if factors.dtype != inputs.dtype:
        msg = f"factors has dtype {factors.dtype.name}; it must be that of {name}, {inputs.dtype.name}"
        raise ValueError(msg)
    return inputs, factors, sum_dtype


def _derivative(derivative: Any, factors: tf.Tensor) -> tf.Tensor:
    """The derivative that goes with pooled factors."""
    derivative = tf.convert_to_tensor(derivative)
    if factors.dtype not in {tf.float32, tf.float64}:
        msg = f"factors has dtype {factors.dtype.name}; it must be float32 or float64"
        raise ValueError(msg)
    if derivative.dtype != factors.dtype:
        msg = (
            f"derivative has dtype {derivative.dtype.name}; it must be that of factors, "
            f"{factors.dtype.name}"
        )
        raise ValueError(msg)
    return derivative


def _channels(inputs: tf.Tensor, factors: tf.Tensor) -> tuple[int, int]:
    """The last axis of both, which must be known."""
    channels = inputs.shape[-1] if inputs.shape.rank else None
    outputs = factors.shape[-1] if factors.shape.rank else None
    if not channels or not outputs:
        msg = (
            f"inputs has shape {inputs.shape} and factors {factors.shape}; the last axis of both "
            "must be known and not empty"
        )
        raise ValueError(msg)
    return channels, outputs


def _convolution_options(
    axes: int,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int],
    padding: str,
    dilation_rate: int | Sequence[int],
    groups: int,
) -> dict[str, Any]:
    """The attributes of a convolution's op, and its kernel size."""
    if axes not in {1, 2, 3}:
        msg = f"a convolution has 1 to 3 spatial axes, not {axes}"
        raise ValueError(msg)
    if padding not in {"valid", "same", "causal"}:
        msg = f"padding is {padding!r}; it must be 'valid', 'same' or 'causal'"
        raise ValueError(msg)
    if not 1 <= groups < 2**31:
        msg = f"groups is {groups}; it must divide the channels and the outputs"
        raise ValueError(msg)
    return {
        "kernel_size": per_axis("kernel_size", kernel_size, axes),
        "strides": per_axis("strides", strides, axes),
        "dilations": per_axis("dilation_rate", dilation_rate, axes),
        "padding": padding.upper(),
        "groups": groups,
    }


def _last_axis(name: str, tensor: tf.Tensor) -> int | tf.Tensor:
    """The size of the last axis, as a number where it is known."""
    if not tensor.shape.rank:
        msg = f"{name} has shape {tensor.shape}; it must have a known rank of at least 1"
        raise ValueError(msg)
    size = tensor.shape[-1]
    return tf.shape(tensor)[-1] if size is None else size


def _accumulator(accumulator: Any, shape: list[Any], dtype: tf.DType) -> tf.Tensor:
    """The accumulator, checked, or zeros."""
    if accumulator is None:
        return tf.zeros(shape, dtype)
    accumulator = tf.convert_to_tensor(accumulator)
    if accumulator.dtype != dtype:
        msg = f"accumulator has dtype {accumulator.dtype.name}; it must be {dtype.name}"
        raise ValueError(msg)
    wanted = tf.TensorShape([size if isinstance(size, int) else None for size in shape])
    if not accumulator.shape.is_compatible_with(wanted):
        msg = f"accumulator has shape {accumulator.shape}; it must be {wanted}"
        raise ValueError(msg)
    return accumulator
