"""Selection: which weights are kept."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from prospr_ops import _native
from prospr_ops.utils.checks import check_integer, check_real, choose
from prospr_ops.utils.settings import CHOICES

Masks = dict[str, npt.NDArray[np.bool_]]
Scores = dict[str, npt.NDArray[np.floating]]

# Scores per thread from which another thread pays.
_SCORES_PER_THREAD = 1_000_000


def select(
    scores: Mapping[str, Any],
    sparsity: float,
    scope: str = "global",
    *,
    min_keep: int = 0,
) -> Masks:
    """Selects the weights with the largest scores.

    Args:
        scores: Floating-point array or tensor of any shape by variable path, as `prospr_ops.score`
            returns them; larger is more important, −inf is least. Weights are numbered array after
            array, each in C order.
        sparsity: Fraction of the weights to prune, in [0, 1). Of n weights exactly
            ⌈n (1 − sparsity)⌉ are kept; the sparsity is the decimal number that it prints as.
        scope: "global" ranks all weights together; "layer" prunes each array by itself.
        min_keep: Minimum number of weights kept in each array, whatever their rank; an array that
            has fewer keeps all. With scope "global" fewer weights of the other arrays are kept in
            return; with scope "layer" an array that would keep fewer keeps `min_keep`.

    Returns:
        Boolean array by variable path, True for a weight that is kept. Ties go to the lower index,
        so the masks are the same on every machine.

    Raises:
        TypeError: `scores`, `sparsity` or `min_keep` has the wrong type.
        ValueError: `sparsity` or `scope` is out of range; `min_keep` is negative or needs more
            weights than the sparsity leaves; or `scores` is empty or holds NaN.

    Examples:
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> scores = {"a": np.array([3.0, 1.0]), "b": np.array([2.0, 0.0])}
        >>> {path: mask.tolist() for path, mask in po.select(scores, 0.5).items()}
        {'a': [True, False], 'b': [True, False]}
    """
    check_real("sparsity", sparsity, below=1.0)
    check_integer("min_keep", min_keep, at_least=0)
    choose("scope", scope, CHOICES["scope"])
    arrays = _checked(scores)
    if scope == "global":
        size = sum(array.size for array in arrays.values())
        keep = kept_count(size, sparsity)
        least = sum(min(min_keep, array.size) for array in arrays.values())
        if least > keep:
            msg = (
                f"min_keep={min_keep} keeps {least:,} of the {size:,} weights, but sparsity "
                f"{sparsity:g} leaves only {keep:,}"
            )
            raise ValueError(msg)
        masks = _keep_largest(arrays, keep, min_keep)
    else:
        masks = {}
        for path, array in arrays.items():
            keep = max(kept_count(array.size, sparsity), min(min_keep, array.size))
            masks |= _keep_largest({path: array}, keep)
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
        if not np.issubdtype(array.dtype, np.floating) or array.dtype.itemsize > 8:
            msg = f"scores of {path} must be floats, not {array.dtype} (at most 64 bits are taken)"
            raise TypeError(msg)
        if not array.size:
            msg = f"scores of {path} is empty: its shape is {array.shape}"
            raise ValueError(msg)
    # One dtype that holds all scores exactly, in the layout that the kernel reads.
    dtype = np.result_type(np.float32, *(array.dtype for array in arrays.values()))
    return {path: np.require(array, dtype, ["C", "A"]) for path, array in arrays.items()}


def kept_count(size: int, sparsity: float) -> int:
    """⌈size (1 − sparsity)⌉, exact for the decimal number that `sparsity` prints as."""
    return math.ceil(size * (1 - Decimal(repr(float(sparsity)))))


def _keep_largest(arrays: Scores, keep: int, min_keep: int = 0) -> Masks:
    size = sum(array.size for array in arrays.values())
    threads = min(len(os.sched_getaffinity(0)), 1 + size // _SCORES_PER_THREAD)
    try:
        masks = _native.select(list(arrays.values()), keep, min_keep, threads=threads)
    except ValueError as error:
        # The kernel numbers the arrays; here they have names.
        for path, array in arrays.items():
            if np.isnan(array).any():
                msg = f"scores of {path} hold NaN"
                raise ValueError(msg) from error
        raise
    return dict(zip(arrays, masks, strict=True))
