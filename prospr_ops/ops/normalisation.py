"""What batch normalisation and its derivatives are made of, each op in one pass over its tensors.

They are for CPUs: there are no kernels for a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from prospr_ops.ops._library import library, raises_value_error

# As many as the kernels take, which keep the sums of a few channels in registers.
MOST_TENSORS = 3


@raises_value_error
def channel_products(tensors: Sequence[Any]) -> tf.Tensor:
    """Sums of the products of tensors with each other, for each channel.

    Computes ``products[i, j, c] = sum over all axes but the last of tensors[i][..., c] *
    tensors[j][..., c]``, the last i and j standing for a tensor of ones. So ``products[i, -1]`` are
    sums, and ``products[-1, -1]`` is the number of rows. Products and sums are in float64, so that a
    variance can be computed as the mean of squares less the square of the mean. The result is the
    same bits for every number of threads, and symmetric in i and j to the bit.

    Args:
        tensors: 1 to 3 tensors of one shape ``[..., C]`` with at least one element, all float32 or
            all float64.

    Returns:
        The sums, ``[len(tensors) + 1, len(tensors) + 1, C]``, of float64.

    Raises:
        ValueError: There are no tensors or too many, or their shapes differ or have no elements.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> x = tf.constant([[1.0], [2.0], [3.0]])  # 3 rows of 1 channel
        >>> po.ops.channel_products([x])[..., 0].numpy().tolist()  # Σ x², Σ x; Σ x, rows
        [[14.0, 6.0], [6.0, 3.0]]
    """
    _check_count(tensors)
    return library.prospr_channel_products(tensors)


@raises_value_error
def channel_combinations(tensors: Sequence[Any], coefficients: Any) -> list[tf.Tensor]:
    """Linear combinations of tensors, with coefficients for each channel.

    Computes ``results[r][..., c] = sum over i of coefficients[r, i, c] * tensors[i][..., c]``, the
    last i standing for a tensor of ones. The same bits for every number of threads.

    Args:
        tensors: 1 to 3 tensors of one shape ``[..., C]`` with at least one element, all float32 or
            all float64.
        coefficients: ``[R, len(tensors) + 1, C]``, R from 1 to 3, of the tensors' dtype.

    Returns:
        R tensors in the shape of the tensors.

    Raises:
        ValueError: There are no tensors or too many, their shapes differ or have no elements, or the
            coefficients do not fit them.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> x = tf.constant([[1.0], [2.0]])
        >>> coefficients = tf.constant([[[10.0], [1.0]]])  # one result: 10 x + 1
        >>> po.ops.channel_combinations([x], coefficients)[0].numpy().tolist()
        [[11.0], [21.0]]
    """
    _check_count(tensors)
    coefficients = tf.convert_to_tensor(coefficients)
    results = coefficients.shape[0] if coefficients.shape.rank == 3 else None
    if results not in range(1, MOST_TENSORS + 1):
        msg = (
            f"coefficients has shape {coefficients.shape}; it must be [R, tensors + 1, channels] with "
            f"an R from 1 to {MOST_TENSORS}"
        )
        raise ValueError(msg)
    return library.prospr_channel_combinations(tensors, coefficients, R=results)


def _check_count(tensors: Sequence[Any]) -> None:
    if not 1 <= len(tensors) <= MOST_TENSORS:
        msg = f"there must be 1 to {MOST_TENSORS} tensors, not {len(tensors)}"
        raise ValueError(msg)
