"""Which weights survive."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from prospr_ops.settings import check_real, choose

Masks = dict[str, npt.NDArray[np.bool_]]
Scores = dict[str, npt.NDArray[np.floating]]

SCOPES = ("global", "layer")


def select(
    scores: Mapping[str, Any], sparsity: float, scope: str = "global", *, allow_empty: bool = False
) -> Masks:
    """Keeps the weights with the largest scores.

    Args:
        scores: Floating array of any shape by variable path, as `prospr_ops.score` returns them;
            larger is more important, −inf is least. Weights are numbered array after array, each in
            C order.
        sparsity: Fraction of the weights to prune, in [0, 1). Of n weights exactly
            ⌈n (1 − sparsity)⌉ are kept, the sparsity taken as the decimal number that it prints as.
        scope: "global" ranks all weights together; "layer" prunes each array by itself.
        allow_empty: Accept a mask that leaves some array with no weight at all.

    Returns:
        Boolean array by variable path, True for a weight that is kept. Ties go to the lower index,
        so the masks are the same on every machine.

    Raises:
        TypeError: `scores` or `sparsity` is of the wrong type.
        ValueError: `sparsity` or `scope` is out of range, `scores` is empty or holds NaN, or a mask
            would empty an array: the message names it, and the largest sparsity that does not.
    """
    check_real("sparsity", sparsity, below=1.0)
    choose("scope", scope, SCOPES)
    arrays = _checked(scores)
    if scope == "global":
        masks = dict(zip(arrays, _keep_largest(list(arrays.values()), sparsity), strict=True))
    else:
        masks = {path: _keep_largest([array], sparsity)[0] for path, array in arrays.items()}
    if not allow_empty:
        _refuse_empty(masks, arrays, sparsity)
    return masks


def _checked(scores: Mapping[str, Any]) -> Scores:
    if not isinstance(scores, Mapping):
        msg = f"scores must be a mapping of variable path to array, not {type(scores).__name__}"
        raise TypeError(msg)
    arrays = {path: np.asarray(array) for path, array in scores.items()}
    if not sum(array.size for array in arrays.values()):
        msg = "scores is empty: there is nothing to select from"
        raise ValueError(msg)
    for path, array in arrays.items():
        if not np.issubdtype(array.dtype, np.floating):
            msg = f"scores of {path} must be floats, not {array.dtype}"
            raise TypeError(msg)
        if np.isnan(array).any():
            msg = f"scores of {path} hold NaN"
            raise ValueError(msg)
    return arrays


def kept_count(size: int, sparsity: float) -> int:
    """⌈size (1 − sparsity)⌉, exact for the decimal number that `sparsity` prints as."""
    return math.ceil(size * (1 - Decimal(repr(float(sparsity)))))


def _keep_largest(
    arrays: list[npt.NDArray[np.floating]], sparsity: float
) -> list[npt.NDArray[np.bool_]]:
    flat = np.concatenate([array.ravel() for array in arrays])
    keep = kept_count(flat.size, sparsity)
    threshold = np.partition(flat, flat.size - keep)[flat.size - keep]
    masks = [array > threshold for array in arrays]
    ties = keep - sum(int(mask.sum()) for mask in masks)
    for array, mask in zip(arrays, masks, strict=True):
        tied = np.flatnonzero(array == threshold)[:ties]
        mask.reshape(-1)[tied] = True
        ties -= tied.size
    return masks


def _refuse_empty(masks: Masks, scores: Scores, sparsity: float) -> None:
    empty = [path for path, mask in masks.items() if not mask.any()]
    if not empty:
        return
    # Each array's best weight is kept from its rank among all on; the last of those ranks decides.
    flat = np.concatenate([scores[path].ravel() for path in masks])
    starts = np.cumsum([0, *(masks[path].size for path in masks)])
    rank = 0
    for start, path in zip(starts, masks, strict=False):
        best = start + int(np.argmax(scores[path]))
        better = np.count_nonzero(flat > flat[best]) + np.count_nonzero(flat[:best] == flat[best])
        rank = max(rank, better + 1)
    largest = math.floor(1e6 * (1 - rank / flat.size)) / 1e6
    msg = (
        f"sparsity {sparsity:g} would prune all of {', '.join(empty)}; the largest that leaves no "
        f"layer empty is {largest:g} (or pass allow_empty=True, or scope='layer')"
    )
    raise ValueError(msg)
