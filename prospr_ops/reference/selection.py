"""Twin of the selection: sort everything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def select(scores: Sequence[npt.NDArray[np.floating]], keep: int) -> list[npt.NDArray[np.bool_]]:
    """Marks the `keep` largest scores of all arrays together; ties go to the lower index.

    Args:
        scores: Floating arrays of any shapes, without NaN. Their elements are numbered array after
            array, each in C order.
        keep: How many to keep, from 0 to the number of elements.

    Returns:
        Boolean arrays of the scores' shapes, `keep` elements True in all.
    """
    flat = np.concatenate([np.ravel(array) for array in scores])
    mask = np.zeros(flat.size, bool)
    mask[np.argsort(-flat, kind="stable")[:keep]] = True
    ends = np.cumsum([array.size for array in scores])
    parts = np.split(mask, ends[:-1])
    return [part.reshape(array.shape) for part, array in zip(parts, scores, strict=True)]
