"""The selection op: the largest of many scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from prospr_ops.ops._library import library, raises_value_error
from prospr_ops.utils.checks import check_integer

_DTYPES = (tf.float16, tf.bfloat16, tf.float32, tf.float64)


@raises_value_error
def select(
    scores: Sequence[Any],
    keep: int | tf.Tensor,
    *,
    min_keep: int | tf.Tensor = 0,
    packed: bool = False,
) -> list[tf.Tensor]:
    """Marks the `keep` largest scores of a list of tensors.

    The scores of all tensors are ranked together, without being copied or sorted: for each of a few
    passes over memory the rank that is looked for is narrowed down to a smaller window. −inf comes
    last, −0 equals +0, and ties go to the earlier tensor and then to the lower index, in row-major
    order. The masks are the same for any number of threads and every instruction set.

    The CPU reads the scores about three times (five times in float64) and needs less than a megabyte
    per thread beside the masks; a GPU reads them once more than they have digits of 11 bits, and the
    call waits for it. A `min_keep` that some tensors do not reach by rank takes as many reads again,
    and again where that leaves others short.

    Args:
        scores: Tensors of one dtype (float16, bfloat16, float32 or float64), of any shapes with at
            least one element each, without NaN.
        keep: Number of scores to keep, exactly, from 0 to all of them; an integer, or an integer
            scalar tensor.
        min_keep: Minimum number kept in each tensor, whatever their rank; a tensor that has fewer
            keeps all. `keep` remains the total, so fewer scores of the other tensors are kept in
            return; the minimums must not exceed `keep` in all.
        packed: Whether masks take 1 bit per score instead of 1 byte.

    Returns:
        For each tensor a boolean tensor of its shape, True where a score is kept. If `packed`, a
        uint8 vector of ⌈size / 8⌉ bytes, the first score in the highest bit of the first and the
        last one filled up with zeros: what `numpy.packbits` gives, and `numpy.unpackbits(mask,
        count=size)` reads.

    Raises:
        TypeError: `scores` is no list or tuple, or `keep` or `min_keep` is no integer.
        ValueError: `scores` has no tensors, or one that is empty, holds NaN or is of another dtype;
            or `keep` or `min_keep` is out of range.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> masks = po.ops.select([tf.constant([3.0, 1.0]), tf.constant([[2.0, 0.0]])], keep=2)
        >>> [mask.numpy().tolist() for mask in masks]
        [[True, False], [[True, False]]]
    """
    if not isinstance(scores, (list, tuple)):
        msg = f"scores must be a list of tensors, not {type(scores).__name__}"
        raise TypeError(msg)
    if not scores:
        msg = "scores is empty: there is nothing to select from"
        raise ValueError(msg)
    tensors = [tf.convert_to_tensor(tensor) for tensor in scores]
    dtype = tensors[0].dtype
    if dtype not in _DTYPES:
        accepted = ", ".join(dtype.name for dtype in _DTYPES)
        msg = f"scores[0] has dtype {dtype.name}; it must be one of {accepted}"
        raise ValueError(msg)
    for i, tensor in enumerate(tensors):
        if tensor.dtype != dtype:
            msg = f"scores[{i}] has dtype {tensor.dtype.name}; it must be that of scores[0], {dtype.name}"
            raise ValueError(msg)
    return library.prospr_select(
        tensors,
        _count("keep", keep),
        _count("min_keep", min_keep),
        mask_type=tf.uint8 if packed else tf.bool,
    )


def _count(name: str, value: Any) -> tf.Tensor:
    """An integer, or a tensor of one, as an int64 tensor."""
    if not tf.is_tensor(value):
        # On a GPU too the op reads its scalars on the host.
        with tf.device("CPU:0"):
            return tf.constant(check_integer(name, value, at_least=0), tf.int64)
    if not value.dtype.is_integer:
        msg = f"{name} must be an integer, not a tensor of {value.dtype.name}"
        raise TypeError(msg)
    return tf.cast(value, tf.int64)
