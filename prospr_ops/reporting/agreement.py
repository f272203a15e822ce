"""How far pruning results agree: on the weights they keep, and on the ranking of all weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from prospr_ops.pruning.arrays import Masks, Scores


def overlap(masks: Sequence[Masks]) -> npt.NDArray[np.float64]:
    """The fraction of the weights kept by one result that another keeps too.

    For independent masks it is the density of the other.

    Args:
        masks: Masks of n results for one model: the same shapes in the same order.

    Returns:
        Matrix `[n, n]`: of the weights that the row keeps, the fraction that the column keeps; NaN
        for a row that keeps none.
    """
    flat = [np.concatenate([mask.ravel() for mask in one.values()]) for one in masks]
    shared = np.array([[np.count_nonzero(a & b) for b in flat] for a in flat], float)
    with np.errstate(invalid="ignore"):
        return shared / np.diagonal(shared)[:, np.newaxis]


def spearman(scores: Sequence[Scores]) -> npt.NDArray[np.float64]:
    """Spearman's rank correlation of the scores of all weights.

    Args:
        scores: Scores of n results for one model: the same shapes in the same order; −inf is the
            least.

    Returns:
        Symmetric matrix `[n, n]`; equal scores share the mean of their ranks. NaN for a result
        whose scores are all equal.
    """
    ranks = [_ranks(np.concatenate([values.ravel() for values in one.values()])) for one in scores]
    with np.errstate(invalid="ignore"):
        return np.atleast_2d(np.corrcoef(ranks))


def _ranks(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Ranks in ascending order; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
