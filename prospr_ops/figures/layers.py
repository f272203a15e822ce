"""Layer by layer: how much is kept, and how the scores are distributed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prospr_ops.figures.style import (
    COLOURS,
    FAINT,
    INK,
    MARKERS,
    new_figure,
    plain,
    set_title,
    short_labels,
    wrapped,
)
from prospr_ops.selection import Masks
from prospr_ops.tables import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from prospr_ops.result import PruneResult

_ROW = 0.23  # inches
_RIDGE, _LOW_RIDGE, _MANY = 0.4, 0.28, 24  # inches of a histogram, of one of many, and how many
_BINS = 120
_TAIL = 0.01  # of each layer's scores, the share that may lie left of the axis
_PRUNED, _KEPT, _THRESHOLD = "#B6BEC7", COLOURS[0], COLOURS[1]


def density_figure(results: Mapping[str, PruneResult]) -> Figure:
    """Draws the share of each weight array that is kept, on a logarithmic axis.

    Args:
        results: By label; all of one model.

    Returns:
        A figure with a row for each array, in the model's order; of whole channels only for kernels,
        since the biases, gammas and betas of a channel go with it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    first = next(iter(results.values()))
    chosen = [
        (number, path)
        for number, (path, mask) in enumerate(first.masks.items())
        if mask.ndim > 1 or first.settings.get("structure") != "channel"
    ]
    paths = [path for _, path in chosen]
    figure = new_figure(figsize=(9, 1.4 + _ROW * len(paths) + 0.1 * len(results)))
    set_title(figure, "Density by layer")
    axes: Any = figure.subplots()
    densities = {}
    for label, result in results.items():
        masks = list(result.masks.values())
        densities[label] = np.array([masks[number].mean() for number, _ in chosen])
    positive = [value for values in densities.values() for value in values if value > 0]
    # A decade and round numbers, so that the axis has two labels at least.
    left = 10.0 ** math.floor(math.log10(min([0.5, *positive]) * 0.999))
    _rows(axes, paths)
    axes.set_xscale("log")
    axes.set_xlim(left * 0.9, 1.1)
    ticks = 10.0 ** np.arange(round(math.log10(left)), 1)
    axes.set_xticks(ticks, [percent(tick) for tick in ticks])
    axes.set_xlabel("weights kept (logarithmic)", color=INK)
    axes.grid(axis="x", which="both", color=FAINT, linewidth=0.6)
    rows = np.arange(len(paths))
    for number, (label, result) in enumerate(results.items()):
        colour = COLOURS[number % len(COLOURS)]
        values = densities[label]
        overall = result.kept / result.weights
        axes.axvline(overall, color=INK, linestyle=(0, (4, 3)), linewidth=0.9)
        axes.plot(
            np.where(values > 0, values, np.nan),
            rows,
            MARKERS[number % len(MARKERS)],
            color=colour,
            markersize=6,
            alpha=0.85,
            label=wrapped(f"{label}, {percent(overall)} of all"),
        )
        for row in rows[values == 0]:
            axes.annotate(
                "none",
                (left * 0.9, row),
                xytext=(3 + 30 * number, 0),
                textcoords="offset points",
                va="center",
                color=colour,
                size=8,
            )
    if len(results) == 1:
        for row, value in zip(rows, values, strict=True):
            axes.annotate(
                percent(value),
                (1, row),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                size=8,
                color=INK,
            )
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    return figure


def scores_figure(result: PruneResult, kept: Masks, title: str) -> Figure:
    """Draws a histogram of the scores of each array, with the threshold.

    Args:
        result: A result with scores.
        kept: By path, which of the scores were kept, in their shapes.
        title: Over the figure.

    Returns:
        A figure with a row for each array, and a first one for all together if they were ranked
        together. The threshold is the largest score that was pruned: min_keep can keep smaller
        ones. Every histogram is scaled to its own height.

    Raises:
        ImportError: matplotlib is not installed.
    """
    scores = {path: values.ravel() / math.log(10) for path, values in result.scores.items()}
    chosen = {path: kept[path].ravel() for path in scores}
    shared = result.settings.get("scope", "global") == "global"
    names = short_labels(list(scores))
    drawn = [(name, scores[path], chosen[path]) for name, path in zip(names, scores, strict=True)]
    if shared and len(drawn) > 1:
        together = (np.concatenate([*scores.values()]), np.concatenate([*chosen.values()]))
        drawn.insert(0, ("all", *together))

    height = _RIDGE if len(drawn) <= _MANY else _LOW_RIDGE
    figure = new_figure(figsize=(6.4, 1.3 + height * len(drawn)))
    set_title(figure, title)
    axes: Any = figure.subplots()
    edges = np.linspace(*_range([values for _, values, _ in drawn]), _BINS + 1)
    for row, (_, values, keep) in enumerate(drawn):
        threshold = _threshold(values, keep)
        if threshold is not None and (row == 0 or not shared):
            edges = (
                edges + threshold - edges[np.abs(edges - threshold).argmin()]
            )  # a bin begins here
        total, _ = np.histogram(values, edges)
        part, _ = np.histogram(values[keep], edges)
        scale = 0.85 / max(1, total.max())
        for counts, colour in ((total, _PRUNED), (part, _KEPT)):
            axes.stairs(row - scale * counts, edges, baseline=row, fill=True, color=colour)
        axes.axhline(row, color=FAINT, linewidth=0.6, zorder=1)
        if threshold is not None and (row == 0 or not shared):
            # A global one goes through all rows.
            bottom = len(drawn) - 1 if shared else row
            axes.plot([threshold] * 2, [row - 0.95, bottom], color=_THRESHOLD, linewidth=1.4)
        zeros = np.count_nonzero(np.isneginf(values))
        if zeros:
            axes.annotate(
                f"{percent(float(f'{zeros / values.size:.2g}'))} are zero",
                (0, row),
                xycoords=("axes fraction", "data"),
                xytext=(3, 6),
                textcoords="offset points",
                size=7.5,
                color=INK,
            )
    axes.set_yticks(range(len(drawn)), [name for name, _, _ in drawn], size=8, va="bottom")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(drawn) - 0.9, -1)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("log₁₀ of the score", color=INK)
    plain(axes)
    axes.spines["left"].set_visible(False)
    handles = [
        axes.fill_between([], [], color=_PRUNED, label="pruned"),
        axes.fill_between([], [], color=_KEPT, label="kept"),
        axes.plot([], [], color=_THRESHOLD, label="threshold")[0],
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    return figure


def _rows(axes: Any, paths: list[str]) -> None:
    axes.set_yticks(range(len(paths)), short_labels(paths), size=8)
    axes.set_ylim(len(paths) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    plain(axes)


def _range(arrays: list[npt.NDArray[Any]]) -> tuple[float, float]:
    """From the least of the arrays' low quantiles to the largest score."""
    finite = [values[np.isfinite(values)] for values in arrays]
    finite = [values for values in finite if values.size]
    if not finite:
        return -1.0, 1.0
    low = min(float(np.quantile(values, _TAIL)) for values in finite)
    high = max(float(values.max()) for values in finite)
    margin = 0.02 * (high - low) or 1.0
    return low - margin, high + margin


def _threshold(values: npt.NDArray[Any], keep: npt.NDArray[np.bool_]) -> float | None:
    """The largest score that was pruned; None if that is none, or zero."""
    pruned = values[~keep]
    return float(pruned.max()) if pruned.size and np.isfinite(pruned.max()) else None
