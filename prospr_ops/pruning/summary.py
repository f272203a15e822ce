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
    shrunk: Mapping[str, int],
    left_out: Mapping[str, str],
    probes: int = 1,
) -> Rows:
    """Tabulates what is kept of every weight array.

    Args:
        title: Title of the table.
        masks: Boolean array by variable path, True for a weight that is kept.
        uses: Multiply-adds per sample that each weight takes part in, by path; unknown ones
            missing.
        estimators: Curvature estimator by path, with the reason for it in parentheses; without any,
            the table has no such column.
        left_out: Large matrices that are not pruned, in words, by path; the first three are named.
        shrunk: Number of weights by path once whole channels are removed; empty where none are.
        probes: Random vectors per step behind a curvature by "hutchinson".

    Returns:
        One row per mask (shape, kept, density, FLOPs per sample before → after, and the estimator,
        whose reason is a note), and the totals of what is known.
    """
    body: list[list[str]] = []
    notes: list[str] = []
    size = kept = before = after = 0
    for path, mask in masks.items():
        count = int(np.count_nonzero(mask))
        size, kept = size + mask.size, kept + count
        flops = UNKNOWN
        if path in uses:
            each = 2 * uses[path]
            left = each * shrunk.get(path, count)
            before, after = before + each * mask.size, after + left
            flops = _change(each * mask.size, left)
        shape = "×".join(map(str, mask.shape))
        body.append([path, shape, f"{count:,}", percent(count / max(1, mask.size)), flops])
        if estimators:
            body[-1].append(_tag(estimators.get(path, ""), notes))
    random = sum(m.size for p, m in masks.items() if estimators.get(p, "").startswith("hutchinson"))
    further = []
    if random:
        share, plural = percent(random / size), "" if probes == 1 else "s"
        further.append(f"{share} of the weights rest on {probes} random probe{plural} per step")
    total = _change(before, after) if uses else UNKNOWN
    return Rows(
        title,
        ["weight", "shape", "kept", "density", "FLOPs", *(["curvature"] * bool(estimators))],
        body,
        ["total", "", f"{kept:,}", percent(kept / max(1, size)), total, *([""] * bool(estimators))],
        [f"{number}: {note}" for number, note in enumerate(notes, start=1)]
        + further
        + _left(left_out),
    )


def _left(left_out: Mapping[str, str]) -> list[str]:
    """What is not pruned, as notes below the table."""
    named = [f"left out: {path} {words}" for path, words in list(left_out.items())[:3]]
    others = len(left_out) - len(named)
    return named + ([f"left out: {others} more, in result.left_out"] if others else [])


def _tag(estimator: str, notes: list[str]) -> str:
    """The estimator, with its reason as a number that stands for one of the notes."""
    name, _, reason = estimator.partition(" (")
    reason = reason.removesuffix(")")
    if reason in ("", "exact"):
        return f"{name} {reason}".strip()
    if reason not in notes:
        notes.append(reason)
    return f"{name} [{notes.index(reason) + 1}]"


def _change(before: float, after: float) -> str:
    return f"{magnitude(before)} → {magnitude(after)}"
