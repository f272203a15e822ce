"""Twins of the patterns: loops over groups and blocks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def best_n_of_m(
    scores: npt.NDArray[np.floating], n: int, m: int, axis: int
) -> npt.NDArray[np.bool_]:
    """Marks the n largest of each m scores that follow each other; ties go to the lower index.

    Args:
        scores: Array without NaN, in which `m` divides the axis.
        n: Number of scores to keep of each group.
        m: Number of scores of a group.
        axis: Axis along which the scores of a group follow each other.

    Returns:
        Boolean array in the scores' shape.

    Examples:
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> scores = np.array([[3.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 9.0]])
        >>> po.reference.best_n_of_m(scores, 2, 4, axis=1).astype(int).tolist()
        [[1, 0, 1, 0], [1, 0, 0, 1]]
    """
    moved = np.moveaxis(scores, axis, -1)
    kept = np.zeros(moved.shape, bool)
    for index in np.ndindex(moved.shape[:-1]):
        for start in range(0, moved.shape[-1], m):
            order = np.argsort(-moved[index][start : start + m], kind="stable")
            kept[index][start + order[:n]] = True
    return np.moveaxis(kept, -1, axis)


def block_sums(
    logs: npt.NDArray[np.floating], inputs: int, outputs: int
) -> npt.NDArray[np.floating]:
    """The logarithm of the sum of each block's scores.

    Args:
        logs: Log-scores of a kernel, [..., input, output].
        inputs: Number of inputs that a block spans; it divides their axis.
        outputs: Number of outputs that a block spans; it divides their axis.

    Returns:
        Array [..., blocks along the inputs, blocks along the outputs].

    Examples:
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> scores = np.array([[1.0, 2.0], [3.0, 4.0]])
        >>> np.exp(po.reference.block_sums(np.log(scores), 2, 1)).round(6).tolist()
        [[4.0, 6.0]]
    """
    *rest, height, width = logs.shape
    sums = np.empty((*rest, height // inputs, width // outputs), logs.dtype)
    for index in np.ndindex(sums.shape):
        row, column = index[-2] * inputs, index[-1] * outputs
        block = logs[index[:-2]][row : row + inputs, column : column + outputs]
        sums[index] = np.logaddexp.reduce(block.astype(np.float64), axis=None)
    return sums
