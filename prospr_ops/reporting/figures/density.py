"""The density of each layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from prospr_ops.reporting.figures.style import (
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
from prospr_ops.utils.tables import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from prospr_ops.pruning.result import PruneResult

_ROW = 0.23  # inches


def density_figure(results: Mapping[str, PruneResult]) -> Figure:
    """Draws the fraction of each weight array that is kept, on a logarithmic axis.

    Args:
        results: Results for one model, by label.

    Returns:
        A figure with one row per array, in the model's order. For whole channels it shows kernels
        only, since the biases, gammas and betas of a channel are pruned with it.

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
    # At least a decade between round numbers, so that the axis has two labels or more.
    left = 10.0 ** math.floor(math.log10(min([0.5, *positive]) * 0.999))
    axes.set_yticks(range(len(paths)), short_labels(paths), size=8)
    axes.set_ylim(len(paths) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    plain(axes)
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
            label=wrapped(f"{label}, {percent(overall)} of all", 36),
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
