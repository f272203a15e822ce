"""The table of what is kept of each layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prospr_ops.utils.tables import UNKNOWN, Rows, magnitude, percent


def layer_rows(
    title: str,
    masks: Mapping[str, np.ndarray],
    uses: Mapping[str, int],
    estimators: Mapping[str, str],
) -> Rows:
    """Tabulates what is kept of every weight array.

    Args:
        title: Title of the table.
        masks: Boolean array by variable path, True for a weight that is kept.
        uses: Multiply-adds per sample that each weight takes part in, by path; unknown ones
            missing.
        estimators: Curvature estimator by path; without any, the table has no such column.

    Returns:
        One row per mask (shape, kept, density, FLOPs per sample before → after, and the estimator),
        and the totals of what is known.
    """
    body = []
    size = kept = before = after = 0
    for path, mask in masks.items():
        count = int(np.count_nonzero(mask))
        size, kept = size + mask.size, kept + count
        flops = UNKNOWN
        if path in uses:
            each = 2 * uses[path]
            before, after = before + each * mask.size, after + each * count
            flops = _change(each * mask.size, each * count)
        shape = " × ".join(map(str, mask.shape))
        body.append([path, shape, f"{count:,}", percent(count / max(1, mask.size)), flops])
        if estimators:
            body[-1].append(estimators.get(path, ""))
    total = _change(before, after) if uses else UNKNOWN
    return Rows(
        title,
        ["weight", "shape", "kept", "density", "FLOPs", *(["curvature"] * bool(estimators))],
        body,
        ["total", "", f"{kept:,}", percent(kept / max(1, size)), total, *([""] * bool(estimators))],
    )


def _change(before: float, after: float) -> str:
    return f"{magnitude(before)} → {magnitude(after)}"
