"""Convolution by the weights that are left of its filters, and its gradients.

What a pruned network needs to be trained at the price of what was kept. The samples of a batch lie
along the last axis, so that a weight meets a vector of them. A pattern of F filters on images of C
channels is a sparse matrix in compressed rows: filter f has the weights ``splits[f]`` to
``splits[f + 1]``, and the *tap* of a weight is the element of the image below the filter that it
reads, ``(i * kernel_width + j) * C + c``. The filters move by one and stay within the image; one of
``1 x 1`` on an image of ``1 x 1`` is a dense layer.

`sparse_conv` can be differentiated once, where the number of channels is known. All three are for CPUs: there are no kernels for a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from prospr_ops.ops._arguments import per_axis
from prospr_ops.ops._library import library, raises_value_error


@raises_value_error
def sparse_conv(
    image: Any,
    weights: Any,
    bias: Any,
    taps: Any,
    splits: Any,
    kernel_size: int | Sequence[int],
) -> tf.Tensor:
    """The output of the filters at every position (Park et al., arXiv 1608.01409).

    The same bits for every number of threads.

    Args:
        image: Images with the samples along the last axis, ``[H, W, C, N]``, float32 or float64.
        weights: Weights of all filters, one after the other, ``[K]``, of image's dtype.
        bias: Bias of each filter, ``[F]``, of image's dtype.
        taps: Element of the image that each weight reads, ``[K]``, int32, each in ``[0,
            kernel_height * kernel_width * C)``.
        splits: Range of weights of each filter, ``[F + 1]``, int32, rising from 0 to K.
        kernel_size: Height and width of the filters, or one number for both; no larger than those
            of the image.

    Returns:
        The output, ``[H - kernel_height + 1, W - kernel_width + 1, F, N]``.

    Raises:
        ValueError: The shapes do not fit together, or a tap, a split or the kernel size is out of
            range.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> image = tf.reshape(tf.constant([1.0, 10.0]), [1, 1, 2, 1])  # 2 channels, 1 sample
        >>> weights, bias = tf.constant([3.0]), tf.constant([0.5, 0.0])
        >>> taps, splits = tf.constant([1]), tf.constant([0, 1, 1])  # filter 0 reads channel 1
        >>> output = po.ops.sparse_conv(image, weights, bias, taps, splits, 1)
        >>> output.numpy().ravel().tolist()
        [30.5, 0.0]
    """
    size = per_axis("kernel_size", kernel_size, 2)
    return library.prospr_sparse_conv(image, weights, bias, taps, splits, kernel_size=size)


@raises_value_error
def sparse_conv_input_gradient(
    output_gradient: Any,
    weights: Any,
    taps: Any,
    splits: Any,
    kernel_size: int | Sequence[int],
    channels: int,
) -> tf.Tensor:
    """The gradient of `sparse_conv` by its image.

    The same bits for every number of threads.

    Args:
        output_gradient: Gradient by the output, ``[R, S, F, N]``, float32 or float64.
        weights: Weights of all filters, one after the other, ``[K]``, of output_gradient's dtype.
        taps: Element of the image that each weight reads, ``[K]``, int32, each in ``[0,
            kernel_height * kernel_width * channels)``.
        splits: Range of weights of each filter, ``[F + 1]``, int32, rising from 0 to K.
        kernel_size: Height and width of the filters, or one number for both.
        channels: Number of channels C of the image.

    Returns:
        The gradient by the image, ``[R + kernel_height - 1, S + kernel_width - 1, C, N]``.

    Raises:
        ValueError: The shapes do not fit together, or a tap, a split, the kernel size or the number
            of channels is out of range.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> gradient = tf.reshape(tf.constant([2.0, 5.0]), [1, 1, 2, 1])  # of 2 filters
        >>> taps, splits = tf.constant([1]), tf.constant([0, 1, 1])  # filter 0 reads channel 1
        >>> by_image = po.ops.sparse_conv_input_gradient(
        ...     gradient, tf.constant([3.0]), taps, splits, 1, channels=2
        ... )
        >>> by_image.numpy().ravel().tolist()
        [0.0, 6.0]
    """
    return library.prospr_sparse_conv_input_gradient(
        output_gradient,
        weights,
        taps,
        splits,
        kernel_size=per_axis("kernel_size", kernel_size, 2),
        channels=per_axis("channels", channels, 1)[0],
    )


@raises_value_error
def sparse_conv_filter_gradient(
    image: Any, output_gradient: Any, taps: Any, splits: Any, kernel_size: int | Sequence[int]
) -> tuple[tf.Tensor, tf.Tensor]:
    """The gradients of `sparse_conv` by its weights and its bias.

    The same bits for every number of threads.

    Args:
        image: Images with the samples along the last axis, ``[H, W, C, N]``, float32 or float64.
        output_gradient: Gradient by the output, ``[H - kernel_height + 1, W - kernel_width + 1, F,
            N]``, of image's dtype.
        taps: Element of the image that each weight reads, ``[K]``, int32, each in ``[0,
            kernel_height * kernel_width * C)``.
        splits: Range of weights of each filter, ``[F + 1]``, int32, rising from 0 to K.
        kernel_size: Height and width of the filters, or one number for both; no larger than those
            of the image.

    Returns:
        The gradients by the weights, ``[K]``, and by the bias, ``[F]``.

    Raises:
        ValueError: The shapes do not fit together, or a tap, a split or the kernel size is out of
            range.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> image = tf.reshape(tf.constant([1.0, 10.0]), [1, 1, 2, 1])  # 2 channels, 1 sample
        >>> gradient = tf.reshape(tf.constant([2.0, 5.0]), [1, 1, 2, 1])  # of 2 filters
        >>> taps, splits = tf.constant([1]), tf.constant([0, 1, 1])  # filter 0 reads channel 1
        >>> by_weights, by_bias = po.ops.sparse_conv_filter_gradient(
        ...     image, gradient, taps, splits, 1
        ... )
        >>> by_weights.numpy().tolist(), by_bias.numpy().tolist()
        ([20.0], [2.0, 5.0])
    """
    size = per_axis("kernel_size", kernel_size, 2)
    return tuple(
        library.prospr_sparse_conv_filter_gradient(
            image, output_gradient, taps, splits, kernel_size=size
        )
    )


@tf.RegisterGradient("Prospr>SparseConv")
def _gradients(op: tf.Operation, by_output: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
    image, weights, _, taps, splits = op.inputs
    size = op.get_attr("kernel_size")
    by_weights, by_bias = sparse_conv_filter_gradient(image, by_output, taps, splits, size)
    if image.shape[2] is None:
        msg = "the gradient of sparse_conv takes an image with a known number of channels"
        raise ValueError(msg)
    by_image = library.prospr_sparse_conv_input_gradient(
        by_output, weights, taps, splits, kernel_size=size, channels=image.shape[2]
    )
    return by_image, by_weights, by_bias, None, None
