"""Twin of the selection: sort everything."""

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
        keep: How many to keep, from 0 to the number of elements.
        min_keep: How many of each array come before all others, or all of an array that has fewer.

    Returns:
        Boolean arrays of the scores' shapes, `keep` elements True in all.
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
