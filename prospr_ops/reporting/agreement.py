"""How far pruning methods agree: by the weights they keep, and by how they rank all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from prospr_ops.pruning.selection import Masks, Scores


def overlap(masks: Sequence[Masks]) -> npt.NDArray[np.float64]:
    """The share of what one keeps that another keeps too.

    By chance alone it is the density of the other.

    Args:
        masks: Of one model, n of them: the same shapes in the same order.

    Returns:
        `[n, n]`: of the weights that the row keeps, the share that the column keeps; NaN for a row
        that keeps none.
    """
    flat = [np.concatenate([mask.ravel() for mask in one.values()]) for one in masks]
    shared = np.array([[np.count_nonzero(a & b) for b in flat] for a in flat], float)
    with np.errstate(invalid="ignore"):
        return shared / np.diagonal(shared)[:, np.newaxis]


def spearman(scores: Sequence[Scores]) -> npt.NDArray[np.float64]:
    """Spearman's rank correlation of the scores of all weights.

    Args:
        scores: Of one model, n of them: the same shapes in the same order. −inf is the least.

    Returns:
        `[n, n]`, symmetric; equal scores share the mean of their ranks. NaN for one whose scores
        are all equal.
    """
    ranks = [_ranks(np.concatenate([values.ravel() for values in one.values()])) for one in scores]
    with np.errstate(invalid="ignore"):
        return np.atleast_2d(np.corrcoef(ranks))


def _ranks(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Ranks from the least on; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
