"""Twin of the selection: sorts all scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def select(
    scores: Sequence[npt.NDArray[np.floating]], keep: int, min_keep: int = 0
) -> list[npt.NDArray[np.bool_]]:
    """Marks the `keep` largest scores of all arrays together; ties go to the lower index.

    Args:
        scores: Floating arrays of any shapes, without NaN. Their elements are numbered array after
            array, each in C order.
        keep: Number of elements to keep, from 0 to all.
        min_keep: Minimum number of elements kept of each array; an array that has fewer keeps all.

    Returns:
        Boolean arrays in the scores' shapes, with `keep` True elements in all.

    Examples:
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> masks = po.reference.select([np.array([3.0, 1.0]), np.array([[2.0, 0.0]])], keep=2)
        >>> [mask.tolist() for mask in masks]
        [[True, False], [[True, False]]]
    """
    flat = np.concatenate([np.ravel(array) for array in scores])
    order = np.argsort(-flat, kind="stable")
    mask = np.zeros(flat.size, bool)
    ends = np.cumsum([array.size for array in scores])
    for array, end in zip(scores, ends, strict=True):
        own = order[(order >= end - array.size) & (order < end)]
        mask[own[:min_keep]] = True
    others = order[~mask[order]]
    mask[others[: keep - np.count_nonzero(mask)]] = True
    parts = np.split(mask, ends[:-1])
    return [part.reshape(array.shape) for part, array in zip(parts, scores, strict=True)]
