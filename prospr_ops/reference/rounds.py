"""Twin of pruning in rounds: a loop that prunes by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal

import numpy as np
import numpy.typing as npt

_Masks = list[npt.NDArray[np.bool_]]


def pruned_in_rounds(
    score: Callable[[int, _Masks], Sequence[npt.NDArray[np.floating]]],
    masks: Sequence[npt.NDArray[np.bool_]],
    sparsity: float,
    rounds: int,
    *,
    revive: bool = False,
) -> list[_Masks]:
    """Scores, prunes, and scores again what is left.

    After round r of R, ⌈n d^(1 − r/R) (1 − sparsity)^(r/R)⌉ of all n weights are kept, where d is the
    fraction that is kept at first; ties go to the lower index. What is pruned does not come back, unless
    a round pruned it and `revive` is given.

    Args:
        score: Function of the number of a round, from 0, and the masks before it; returns an array of
            scores in the shape of each mask.
        masks: Boolean arrays, False for what is pruned before the first round.
        sparsity: Fraction of the weights to prune.
        rounds: Number R of rounds.
        revive: Whether what a round prunes may return in a later one.

    Returns:
        The masks after each round.

    Examples:
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> weights = np.array([4.0, 3.0, 2.0, 1.0])
        >>> found = po.reference.pruned_in_rounds(
        ...     lambda number, masks: [weights], [np.ones(4, bool)], sparsity=0.75, rounds=2
        ... )
        >>> [masks[0].tolist() for masks in found]
        [[True, True, False, False], [True, False, False, False]]
    """
    found = []
    now = [np.array(mask) for mask in masks]
    size = sum(mask.size for mask in now)
    before = Decimal(int(sum(map(np.count_nonzero, now)))) / size
    first = now
    target = 1 - Decimal(repr(float(sparsity)))
    for number in range(rounds):
        way = Decimal(number + 1) / rounds
        keep = math.ceil(size * before ** (1 - way) * target**way)
        scores = np.concatenate([array.ravel() for array in score(number, now)])
        left = first if revive else now
        (candidates,) = np.concatenate([mask.ravel() for mask in left]).nonzero()
        best = candidates[np.argsort(-scores[candidates], kind="stable")[:keep]]
        kept = np.zeros(size, bool)
        kept[best] = True
        parts = np.split(kept, np.cumsum([mask.size for mask in now])[:-1])
        now = [part.reshape(mask.shape) for part, mask in zip(parts, now, strict=True)]
        found.append(now)
    return found
