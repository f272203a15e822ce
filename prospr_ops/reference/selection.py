"""Twins of the selection: they sort all scores, and take one weight after the other."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

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


def select_within(
    scores: Sequence[npt.NDArray[np.floating]],
    uses: Sequence[int],
    budget: int,
    min_keep: int = 0,
) -> list[npt.NDArray[np.bool_]]:
    """Takes weights in the order of log score − log uses, until the next would exceed a budget.

    Args:
        scores: Floating arrays of log-scores of any shapes, without NaN.
        uses: Multiply-adds that each weight of an array takes part in, by array; ≥ 0.
        budget: Number of multiply-adds; at least those of the `min_keep` best of each array.
        min_keep: Minimum number of elements kept of each array; an array that has fewer keeps all.

    Returns:
        Boolean arrays in the scores' shapes.

    Examples:
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> scores = [np.log([8.0, 3.0]), np.log([9.0, 1.0])]
        >>> masks = po.reference.select_within(scores, uses=[1, 4], budget=5)
        >>> [mask.tolist() for mask in masks]  # 8 and 3 per use, then 9/4, which does not fit
        [[True, True], [False, False]]
    """
    costs = np.concatenate(
        [np.full(array.size, each) for array, each in zip(scores, uses, strict=True)]
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        ranked = [
            np.where(array == -np.inf, array, array - np.log(np.float64(each)).astype(array.dtype))
            for array, each in zip(scores, uses, strict=True)
        ]
    flat = np.concatenate([array.ravel() for array in ranked])
    masks = select(ranked, sum(min(min_keep, array.size) for array in ranked), min_keep)
    mask = np.concatenate([part.ravel() for part in masks])
    spent = costs[mask].sum()
    for index in np.argsort(-flat, kind="stable"):
        if mask[index]:
            continue
        if spent + costs[index] > budget:
            break
        mask[index] = True
        spent += costs[index]
    parts = np.split(mask, np.cumsum([array.size for array in scores])[:-1])
    return [part.reshape(array.shape) for part, array in zip(parts, scores, strict=True)]


def select_by_share(
    scores: Sequence[npt.NDArray[np.floating]], own: Sequence[int | None], keep: int
) -> list[npt.NDArray[np.bool_]]:
    """Marks a number of scores of some arrays each, and of the others together.

    Args:
        scores: Floating arrays of any shapes, without NaN.
        own: Number of scores to keep by array; None for an array that is ranked with the others.
        keep: Number of scores to keep in all.

    Returns:
        Boolean arrays in the scores' shapes.

    Examples:
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> scores = [np.array([3.0, 1.0]), np.array([2.0, 0.0]), np.array([5.0, 4.0])]
        >>> masks = po.reference.select_by_share(scores, [None, None, 1], keep=3)
        >>> [mask.tolist() for mask in masks]
        [[True, False], [True, False], [True, False]]
    """
    masks = [np.zeros(array.shape, bool) for array in scores]
    for i, count in enumerate(own):
        if count is not None:
            masks[i] = select([scores[i]], count)[0]
    others = [i for i, count in enumerate(own) if count is None]
    if others:
        rest = keep - sum(count for count in own if count is not None)
        found = select([scores[i] for i in others], rest)
        for i, mask in zip(others, found, strict=True):
            masks[i] = mask
    return masks


def erk_shares(neurons: Sequence[int], sizes: Sequence[int], keep: int) -> list[Fraction]:
    """How much is kept of each layer by Erdős–Rényi-kernel, before rounding.

    As in RigL: every layer gets ε times its neurons; where that is more than there is, the layer stays
    whole, and ε is found again for the others.

    Args:
        neurons: Sum of the sizes of each kernel along its axes; ≥ 1.
        sizes: Number of weights of each kernel.
        keep: Number of weights to keep, at most all.

    Returns:
        Numbers that sum to `keep`.

    Examples:
        >>> import prospr_ops as po
        >>> [float(part) for part in po.reference.erk_shares([110, 20], [1000, 10], 120)]
        [110.0, 10.0]
    """
    whole: set[int] = set()
    while True:
        free = [i for i in range(len(sizes)) if i not in whole]
        if not free:
            return [Fraction(size) for size in sizes]
        left = keep - sum(sizes[i] for i in whole)
        epsilon = Fraction(left, sum(neurons[i] for i in free))
        above = {i for i in free if epsilon * neurons[i] > sizes[i]}
        if not above:
            return [
                Fraction(size) if i in whole else epsilon * neurons[i]
                for i, size in enumerate(sizes)
            ]
        whole |= above
