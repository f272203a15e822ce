"""Convolution by the weights that are left of its filters, and its gradients.

What a pruned network needs to be trained at the price of what was kept. The samples of a batch lie
along the last axis in blocks of `BLOCK`, so that a weight meets a vector of them; `to_blocks` and
`from_blocks` lead there and back. A pattern of F filters on images of C channels is a sparse matrix
in compressed rows: filter f has the weights ``splits[f]`` to ``splits[f + 1]``, and the *tap* of a
weight is the element of the image below the filter that it reads, ``(i * kernel_width + j) * C +
c``. Filters of ``1 x 1`` on an image of ``1 x 1`` are a dense layer.

`sparse_conv`, `sparse_conv_small`, `to_blocks` and `from_blocks` can be differentiated once. All are for CPUs: there are no
kernels for a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from prospr_ops.ops._arguments import per_axis
from prospr_ops.ops._library import library, raises_value_error
from prospr_ops.utils.checks import choose

BLOCK = 16

_PADDINGS = {"valid": "VALID", "same": "SAME"}


class TransposedPattern(NamedTuple):
    """A pattern's weights by the channel that they read, for the gradient by the image.

    Attributes:
        taps: ``(i * kernel_width + j) * F + f`` of each entry, ``[K]``, int32.
        splits: Range of entries of each channel, ``[C + 1]``, int32.
        order: The weight that is each entry, ``[K]``, int32.
    """

    taps: Any
    splits: Any
    order: Any


def transposed_pattern(taps: Any, splits: Any, channels: Any) -> TransposedPattern:
    """Sorts a pattern's weights by the channel that they read.

    Args:
        taps: Element of the image that each weight reads, ``[K]``, int32.
        splits: Range of weights of each filter, ``[F + 1]``, int32.
        channels: Number of channels C of the image.

    Returns:
        The pattern of the gradient by the image.

    Raises:
        TypeError: `channels` is no integer.
        ValueError: Taps or splits are no vectors, the splits do not rise from 0 to K, or there are no
            channels; what only a running graph knows is not looked at.

    Examples:
        >>> import prospr_ops as po
        >>> pattern = po.ops.transposed_pattern([1, 0, 1], [0, 1, 3], channels=2)
        >>> pattern.splits.numpy().tolist(), pattern.order.numpy().tolist()
        ([0, 1, 3], [1, 0, 2])
        >>> pattern.taps.numpy().tolist()  # the filters that read channel 0, then channel 1
        [1, 0, 1]
    """
    taps, splits = tf.cast(taps, tf.int32), tf.cast(splits, tf.int32)
    _check_pattern(taps, splits, channels)
    filters = tf.size(splits) - 1
    filter_of = tf.repeat(tf.range(filters), splits[1:] - splits[:-1])
    channel = taps % channels
    order = tf.argsort(channel, stable=True)
    counts = tf.math.bincount(channel, minlength=channels, maxlength=channels)
    return TransposedPattern(
        tf.gather(taps // channels * filters + filter_of, order),
        tf.concat([[0], tf.cumsum(counts)], axis=0),
        order,
    )


def _check_pattern(taps: tf.Tensor, splits: tf.Tensor, channels: Any) -> None:
    """Refuses what TensorFlow's own operations would not survive, as far as it is known."""
    if taps.shape.rank not in (1, None) or splits.shape.rank not in (1, None):
        msg = f"taps and splits must be vectors, not of shapes {taps.shape} and {splits.shape}"
        raise ValueError(msg)
    number = tf.convert_to_tensor(channels)
    if not number.dtype.is_integer:
        msg = f"channels must be an integer, not {number.dtype.name}"
        raise TypeError(msg)
    known, count = tf.get_static_value(splits), tf.get_static_value(number)
    if known is not None and taps.shape.rank == 1 and taps.shape[0] is not None:
        ends = [*known[:1], *known[-1:]]
        if ends != [0, taps.shape[0]] or (known[1:] < known[:-1]).any():
            msg = f"splits must rise from 0 to the number of taps, {taps.shape[0]}"
            raise ValueError(msg)
    if count is not None and (count.ndim or not count > 0):
        msg = f"channels must be a number above 0, not {count}"
        raise ValueError(msg)


def sparse_conv(
    image: Any,
    weights: Any,
    bias: Any,
    taps: Any,
    splits: Any,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    dilations: int | Sequence[int] = 1,
    padding: str = "valid",
    transposed: TransposedPattern | None = None,
    scale: Any = None,
    residual: Any = None,
    relu: bool = False,
    ceiling: float = math.inf,
) -> tf.Tensor:
    """The output of the filters at every position (Park et al., arXiv 1608.01409).

    What lies behind a convolution can come along, without a pass of its own: ``scale * filters +
    bias + residual``, and its ReLU. The same bits for every number of threads.

    Args:
        image: Images with the samples of a block along the last axis, ``[B, H, W, C, 16]``, float32
            or float64.
        weights: Weights of all filters, one after the other, ``[K]``, of image's dtype.
        bias: Bias of each filter, ``[F]``, of image's dtype.
        taps: Element of the image that each weight reads, ``[K]``, int32, each in ``[0,
            kernel_height * kernel_width * C)``.
        splits: Range of weights of each filter, ``[F + 1]``, int32, rising from 0 to K.
        kernel_size: Height and width of the filters, or one number for both.
        strides: By how much the filters move, down and to the right, or one number for both.
        dilations: Distance of neighbouring elements of a filter, or one number for both axes.
        padding: "valid" or "same", as of `tf.nn.conv2d`.
        transposed: `transposed_pattern` of taps and splits, which the gradient by the image would
            work out at each step.
        scale: Scale of each filter, ``[F]``, of image's dtype, or None for 1.
        residual: What is added to the output, in its shape, or None.
        relu: Whether what is negative is then zero.
        ceiling: Largest output of the ReLU, such as 6 for ReLU6.

    Returns:
        The output, ``[B, R, S, F, 16]``.

    Raises:
        ValueError: The shapes do not fit together, or a tap, a split or a size is out of range.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> image = po.ops.to_blocks(tf.reshape([1.0, 10.0], [1, 1, 1, 2]))  # 1 sample, 2 channels
        >>> weights, bias = tf.constant([3.0]), tf.constant([0.5, 0.0])
        >>> taps, splits = tf.constant([1]), tf.constant([0, 1, 1])  # filter 0 reads channel 1
        >>> output = po.ops.sparse_conv(image, weights, bias, taps, splits, 1)
        >>> po.ops.from_blocks(output, 1).numpy().ravel().tolist()
        [30.5, 0.0]
    """
    window = _window(kernel_size, strides, dilations, padding)
    if transposed is not None:
        _check_transposed(transposed)

    pattern = (taps, splits, *(transposed or ()))

    # All tensors are arguments: a SavedModel takes no gradient that captures others.
    @tf.custom_gradient
    def convolution(
        image: tf.Tensor, weights: tf.Tensor, bias: tf.Tensor, *others: tf.Tensor
    ) -> Any:
        rest = iter(others)
        taps, splits, *entries = (next(rest) for _ in pattern)
        scales = [next(rest)] if scale is not None else []
        residuals = [*rest]
        output = library.prospr_sparse_conv(
            image,
            weights,
            bias,
            taps,
            splits,
            scales,
            residuals,
            **window,
            relu=relu,
            ceiling=ceiling,
        )

        def gradients(by_output: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
            if relu:
                by_output = tf.raw_ops.ReluGrad(gradients=by_output, features=output)
                if ceiling < math.inf:
                    by_output = tf.where(output < ceiling, by_output, 0)
            by_weights, by_bias = library.prospr_sparse_conv_filter_gradient(
                image, by_output, taps, splits, **window
            )
            used, by_scales = weights, []
            for one in scales:
                filter_of = tf.repeat(tf.range(tf.size(one)), splits[1:] - splits[:-1])
                filters = tf.size(one)
                by_scales.append(
                    tf.math.unsorted_segment_sum(weights * by_weights, filter_of, filters)
                )
                by_filter = tf.gather(one, filter_of)
                used, by_weights = weights * by_filter, by_weights * by_filter
            size = tf.shape(image)
            by_channel = entries or transposed_pattern(taps, splits, size[3])
            by_image = library.prospr_sparse_conv_input_gradient(
                by_output, used, *by_channel, size[1:3], **window
            )
            by_image.set_shape(image.shape)
            of_behind = [*by_scales, *[by_output] * len(residuals)]
            return by_image, by_weights, by_bias, *[None] * len(pattern), *of_behind

        return output, gradients

    behind = [tensor for tensor in (scale, residual) if tensor is not None]
    return _raising(convolution)(image, weights, bias, *pattern, *behind)


def _raising(function: Any) -> Any:
    function.__name__ = "sparse_conv"
    return raises_value_error(function)


@raises_value_error
def sparse_conv_small(
    image: Any,
    weights: Any,
    scale: Any,
    bias: Any,
    taps: Any,
    splits: Any,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    dilations: int | Sequence[int] = 1,
    padding: str = "valid",
) -> tf.Tensor:
    """The output of the filters at every position, for few samples.

    Computes what `sparse_conv` computes, on images as TensorFlow lays them, with a factor for each
    filter, as of a batch normalisation behind it. It is the faster one for inference on fewer samples
    than a block has. Its gradients are computed on blocks.
    The same bits for every number of threads.

    Args:
        image: Images with channels along the last axis, ``[N, H, W, C]``, float32 or float64.
        weights: Weights of all filters, one after the other, ``[K]``, of image's dtype.
        scale: Factor of each filter's sums, ``[F]``, of image's dtype.
        bias: Bias of each filter, ``[F]``, of image's dtype.
        taps: Element of the image that each weight reads, ``[K]``, int32, each in ``[0,
            kernel_height * kernel_width * C)``.
        splits: Range of weights of each filter, ``[F + 1]``, int32, rising from 0 to K.
        kernel_size: Height and width of the filters, or one number for both.
        strides: By how much the filters move, down and to the right, or one number for both.
        dilations: Distance of neighbouring elements of a filter, or one number for both axes.
        padding: "valid" or "same", as of `tf.nn.conv2d`.

    Returns:
        The output, ``[N, R, S, F]``.

    Raises:
        ValueError: The shapes do not fit together, or a tap, a split or a size is out of range.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> image = tf.reshape([1.0, 10.0], [1, 1, 1, 2])  # 1 sample of 1 pixel, 2 channels
        >>> weights, scale, bias = tf.constant([3.0]), tf.constant([2.0, 1.0]), tf.constant([0.5, 0.0])
        >>> taps, splits = tf.constant([1]), tf.constant([0, 1, 1])  # filter 0 reads channel 1
        >>> output = po.ops.sparse_conv_small(image, weights, scale, bias, taps, splits, 1)
        >>> output.numpy().ravel().tolist()
        [60.5, 0.0]
    """
    window = _window(kernel_size, strides, dilations, padding)
    return library.prospr_sparse_conv_small(image, weights, scale, bias, taps, splits, **window)


@tf.RegisterGradient("Prospr>SparseConvSmall")
def _gradient_of_sparse_conv_small(op: tf.Operation, by_output: tf.Tensor) -> Any:
    image, weights, scale, bias, taps, splits = op.inputs
    names = ("kernel_size", "strides", "dilations", "padding")
    window = {name: op.get_attr(name) for name in names}
    window["padding"] = tf.compat.as_str(window["padding"])
    ones, zeros = tf.ones_like(scale), tf.zeros_like(bias)
    sums = library.prospr_sparse_conv_small(image, weights, ones, zeros, taps, splits, **window)
    by_scale = tf.reduce_sum(by_output * sums, [0, 1, 2])
    by_bias = tf.reduce_sum(by_output, [0, 1, 2])
    by_blocks, size = to_blocks(by_output * scale), tf.shape(image)
    by_weights, _ = library.prospr_sparse_conv_filter_gradient(
        to_blocks(image), by_blocks, taps, splits, **window
    )
    transposed = transposed_pattern(taps, splits, size[3])
    by_image = library.prospr_sparse_conv_input_gradient(
        by_blocks, weights, *transposed, size[1:3], **window
    )
    return from_blocks(by_image, size[0]), by_weights, by_scale, by_bias, None, None


@raises_value_error
def sparse_conv_input_gradient(
    output_gradient: Any,
    weights: Any,
    transposed: TransposedPattern,
    image_size: Any,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    dilations: int | Sequence[int] = 1,
    padding: str = "valid",
) -> tf.Tensor:
    """The gradient of `sparse_conv` by its image.

    The same bits for every number of threads.

    Args:
        output_gradient: Gradient by the output, ``[B, R, S, F, 16]``, float32 or float64.
        weights: Weights of all filters, one after the other, ``[K]``, of output_gradient's dtype.
        transposed: `transposed_pattern` of the filters' pattern.
        image_size: Height and width of the image.
        kernel_size: Height and width of the filters, or one number for both.
        strides: By how much the filters move, down and to the right, or one number for both.
        dilations: Distance of neighbouring elements of a filter, or one number for both axes.
        padding: "valid" or "same", as of `tf.nn.conv2d`.

    Returns:
        The gradient by the image, ``[B, H, W, C, 16]``.

    Raises:
        TypeError: `transposed` is not a `TransposedPattern`.
        ValueError: The shapes do not fit together, or an entry of the pattern or a size is out of
            range.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> gradient = po.ops.to_blocks(tf.reshape([2.0, 5.0], [1, 1, 1, 2]))  # of 2 filters
        >>> pattern = po.ops.transposed_pattern([1], [0, 1, 1], channels=2)
        >>> by_image = po.ops.sparse_conv_input_gradient(
        ...     gradient, tf.constant([3.0]), pattern, (1, 1), 1
        ... )
        >>> po.ops.from_blocks(by_image, 1).numpy().ravel().tolist()
        [0.0, 6.0]
    """
    window = _window(kernel_size, strides, dilations, padding)
    _check_transposed(transposed)
    return library.prospr_sparse_conv_input_gradient(
        output_gradient, weights, *transposed, image_size, **window
    )


def _check_transposed(transposed: Any) -> None:
    # What is no tuple must not be unpacked: a tensor of 2^40 rows without elements is one as well.
    if not isinstance(transposed, TransposedPattern):
        msg = f"transposed must be a TransposedPattern, not {type(transposed).__name__}"
        raise TypeError(msg)


@raises_value_error
def sparse_conv_filter_gradient(
    image: Any,
    output_gradient: Any,
    taps: Any,
    splits: Any,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    dilations: int | Sequence[int] = 1,
    padding: str = "valid",
) -> tuple[tf.Tensor, tf.Tensor]:
    """The gradients of `sparse_conv` by its weights and its bias.

    The same bits for every number of threads.

    Args:
        image: Images with the samples of a block along the last axis, ``[B, H, W, C, 16]``, float32
            or float64.
        output_gradient: Gradient by the output, ``[B, R, S, F, 16]``, of image's dtype.
        taps: Element of the image that each weight reads, ``[K]``, int32, each in ``[0,
            kernel_height * kernel_width * C)``.
        splits: Range of weights of each filter, ``[F + 1]``, int32, rising from 0 to K.
        kernel_size: Height and width of the filters, or one number for both.
        strides: By how much the filters move, down and to the right, or one number for both.
        dilations: Distance of neighbouring elements of a filter, or one number for both axes.
        padding: "valid" or "same", as of `tf.nn.conv2d`.

    Returns:
        The gradients by the weights, ``[K]``, and by the bias, ``[F]``.

    Raises:
        ValueError: The shapes do not fit together, or a tap, a split or a size is out of range.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> image = po.ops.to_blocks(tf.reshape([1.0, 10.0], [1, 1, 1, 2]))  # 1 sample, 2 channels
        >>> gradient = po.ops.to_blocks(tf.reshape([2.0, 5.0], [1, 1, 1, 2]))  # of 2 filters
        >>> taps, splits = tf.constant([1]), tf.constant([0, 1, 1])  # filter 0 reads channel 1
        >>> by_weights, by_bias = po.ops.sparse_conv_filter_gradient(
        ...     image, gradient, taps, splits, 1
        ... )
        >>> by_weights.numpy().tolist(), by_bias.numpy().tolist()
        ([20.0], [2.0, 5.0])
    """
    window = _window(kernel_size, strides, dilations, padding)
    return tuple(
        library.prospr_sparse_conv_filter_gradient(image, output_gradient, taps, splits, **window)
    )


@raises_value_error
def to_blocks(samples: Any) -> tf.Tensor:
    """Lays the samples of a batch side by side, in blocks of 16.

    Args:
        samples: Samples along the first axis, ``[N, ...]``, float32 or float64.

    Returns:
        The blocks, ``[ceil(N / 16), ..., 16]``, zero behind the last sample.

    Raises:
        ValueError: There is no axis of samples.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> blocks = po.ops.to_blocks(tf.reshape(tf.range(34.0), [17, 2]))
        >>> blocks.shape.as_list(), blocks[1, :, 0].numpy().tolist()
        ([2, 2, 16], [32.0, 33.0])
    """
    return library.prospr_to_blocks(samples)


@raises_value_error
def from_blocks(blocks: Any, samples: Any) -> tf.Tensor:
    """The samples of `to_blocks`.

    Args:
        blocks: Blocks of samples, ``[ceil(N / 16), ..., 16]``, float32 or float64.
        samples: Number of samples N.

    Returns:
        The samples along the first axis, ``[N, ...]``.

    Raises:
        ValueError: There are not as many blocks as N samples have.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> blocks = po.ops.to_blocks(tf.constant([[1.0], [2.0]]))
        >>> po.ops.from_blocks(blocks, 2).numpy().tolist()
        [[1.0], [2.0]]
    """
    return library.prospr_from_blocks(blocks, samples)


@tf.RegisterGradient("Prospr>ToBlocks")
def _gradient_of_to_blocks(op: tf.Operation, by_blocks: tf.Tensor) -> tf.Tensor:
    return library.prospr_from_blocks(by_blocks, tf.shape(op.inputs[0])[0])


@tf.RegisterGradient("Prospr>FromBlocks")
def _gradient_of_from_blocks(
    op: tf.Operation,  # noqa: ARG001 - the signature is TensorFlow's
    by_samples: tf.Tensor,
) -> tuple[tf.Tensor, None]:
    return library.prospr_to_blocks(by_samples), None


def _window(
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int],
    dilations: int | Sequence[int],
    padding: str,
) -> dict[str, Any]:
    """The attributes of the ops."""
    choose("padding", padding, _PADDINGS)
    return {
        "kernel_size": per_axis("kernel_size", kernel_size, 2),
        "strides": per_axis("strides", strides, 2),
        "dilations": per_axis("dilations", dilations, 2),
        "padding": _PADDINGS[padding],
    }
