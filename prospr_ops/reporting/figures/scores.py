"""The distribution of the scores of each layer, with the threshold."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prospr_ops.pruning.arrays import Masks
from prospr_ops.reporting.figures.style import (
    COLOURS,
    FAINT,
    INK,
    new_figure,
    plain,
    set_title,
    short_labels,
)
from prospr_ops.utils.tables import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from prospr_ops.pruning.result import PruneResult

# Height of a histogram in inches; its height if there are more than `_MANY` histograms.
_HEIGHT, _LOW, _MANY = 0.4, 0.28, 24
_BINS = 120
_TAIL = 0.01  # fraction of each layer's scores that may lie left of the axis
_PRUNED, _KEPT, _THRESHOLD = "#B6BEC7", COLOURS[0], COLOURS[1]

Array = npt.NDArray[Any]


class _Row(NamedTuple):
    label: str
    values: Array
    keep: Array

    @property
    def threshold(self) -> float | None:
        """The largest score that was pruned; None if nothing was pruned or the score is zero."""
        pruned = self.values[~self.keep]
        return float(pruned.max()) if pruned.size and np.isfinite(pruned.max()) else None


def scores_figure(result: PruneResult, kept: Masks, title: str, *, signed: bool = False) -> Figure:
    """Draws a histogram of the scores of each array, with the threshold.

    Args:
        result: A result with scores.
        kept: Boolean array by path, in the shape of the scores, True for a score that was kept.
        title: Title of the figure.
        signed: Whether the scores are signed numbers instead of logarithms.

    Returns:
        A figure with one row per array, and a first row for all arrays if they were ranked
        together. The threshold is the largest score that was pruned; with min_keep, smaller ones
        can be kept. Every histogram has its own height scale.

    Raises:
        ImportError: matplotlib is not installed.
    """
    settings = result.settings
    # Ranked by the scores themselves, and not per use or by the group.
    shared = settings.get("scope", "global") == "global" and not (
        settings.get("flops") or settings.get("pattern")
    )
    transform = _symmetric_log(result) if signed else None
    rows = _rows(result, kept, shared, transform or (lambda values: values / math.log(10)))

    figure = new_figure(figsize=(6.4, 1.3 + len(rows) * (_HEIGHT if len(rows) <= _MANY else _LOW)))
    set_title(figure, title)
    axes: Any = figure.subplots()
    left, right = _range(rows)
    edges = np.linspace(left, right, _BINS + 1)
    for number, row in enumerate(rows):
        threshold = row.threshold if number == 0 or not shared else None
        if threshold is not None and left < threshold < right:
            if shared:
                edges += threshold - edges[np.abs(edges - threshold).argmin()]  # a bin begins here
            bottom = len(rows) - 1 if shared else number
            axes.plot([threshold] * 2, [number - 0.95, bottom], color=_THRESHOLD, linewidth=1.4)
        total, _ = np.histogram(row.values, edges)
        part, _ = np.histogram(row.values[row.keep], edges)
        scale = 0.85 / max(1, total.max())
        for counts, colour in ((total, _PRUNED), (part, _KEPT)):
            axes.stairs(number - scale * counts, edges, baseline=number, fill=True, color=colour)
        axes.axhline(number, color=FAINT, linewidth=0.6, zorder=1)
        _annotate_zeros(axes, number, row)
    axes.set_yticks(range(len(rows)), [row.label for row in rows], size=8, va="bottom")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.9, -1)
    axes.set_xlim(left, right)
    axes.set_xlabel("log₁₀ of the score", color=INK)
    if transform is not None:
        decades = [sign * 10.0**power for sign in (-1, 1) for power in range(-40, 40)]
        within = [
            x for x in (0.0, *decades) if left < transform(x) < right and _apart(x, transform)
        ]
        axes.set_xticks([transform(x) for x in within], [f"{x:g}" for x in within], size=8)
        axes.set_xlabel("score, logarithmic on both sides of 0", color=INK)
    plain(axes)
    axes.spines["left"].set_visible(False)
    handles = [
        axes.fill_between([], [], color=_PRUNED, label="pruned"),
        axes.fill_between([], [], color=_KEPT, label="kept"),
        axes.plot([], [], color=_THRESHOLD, label="threshold")[0],
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    return figure


def _rows(
    result: PruneResult, kept: Masks, shared: bool, transform: Callable[[Array], Array]
) -> list[_Row]:
    labels = short_labels(list(result.scores))
    rows = [
        _Row(label, transform(values.ravel()), kept[path].ravel())
        for label, (path, values) in zip(labels, result.scores.items(), strict=True)
    ]
    if shared and len(rows) > 1:
        values = np.concatenate([row.values for row in rows])
        rows.insert(0, _Row("all", values, np.concatenate([row.keep for row in rows])))
    return rows


def _symmetric_log(result: PruneResult) -> Callable[[Any], Any]:
    """A scale: linear up to about the median magnitude of all scores, logarithmic beyond."""
    median = float(np.median(np.abs(np.concatenate([v.ravel() for v in result.scores.values()]))))
    return lambda values: np.arcsinh(values / (median or 1.0))


def _apart(x: float, transform: Callable[[Any], Any]) -> bool:
    """Whether the tick at a power of ten is far enough from 0 to be legible."""
    return x == 0 or abs(transform(x)) > 1


def _range(rows: list[_Row]) -> tuple[float, float]:
    """From the smallest of the rows' low quantiles to the largest score."""
    finite = [row.values[np.isfinite(row.values)] for row in rows]
    finite = [values for values in finite if values.size]
    if not finite:
        return -1.0, 1.0
    low = min(float(np.quantile(values, _TAIL)) for values in finite)
    high = max(float(values.max()) for values in finite)
    margin = 0.02 * (high - low) or 1.0
    return low - margin, high + margin


def _annotate_zeros(axes: Any, number: int, row: _Row) -> None:
    share = np.count_nonzero(np.isneginf(row.values)) / row.values.size
    if share:
        axes.annotate(
            f"{percent(float(f'{share:.2g}'))} are zero",
            (0, number),
            xycoords=("axes fraction", "data"),
            xytext=(3, 6),
            textcoords="offset points",
            size=7.5,
            color=INK,
        )
