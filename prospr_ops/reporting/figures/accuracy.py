"""Accuracy by sparsity, and which pixels each method keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from prospr_ops.reporting.figures.first_layer import draw_maps
from prospr_ops.reporting.figures.style import COLOURS, FAINT, INK, MARKERS, new_figure
from prospr_ops.utils.tables import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ACCURACY_TICKS = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995]
_LOWEST = 0.5  # lowest accuracy that the axis may begin at; collapsed networks lie outside
_HIGHEST = 0.9999  # a logit axis cannot show 0 and 1


def accuracy_figure(
    accuracies: Mapping[str, Mapping[float, float]],
    pixel_maps: Mapping[str, np.ndarray],
    *,
    dense: float,
    map_sparsity: float,
    title: str,
) -> Figure:
    """Draws accuracy by sparsity and, beside it, which pixels each method keeps.

    Args:
        accuracies: Test accuracy in [0, 1] by sparsity, by the method's label.
        pixel_maps: Number of weights kept in the first layer at each pixel, `[height, width]`, by
            label. All share one colour scale.
        dense: Test accuracy of the unpruned network.
        map_sparsity: Sparsity of the maps.
        title: Title of the figure.

    Returns:
        A figure for `savefig`. No window is opened and no global state is changed.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = new_figure(figsize=(11, 4.8))
    figure.suptitle(title, x=0.012, ha="left", size=14, weight="bold", color=INK)
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.25, 1])
    _draw_accuracies(halves[0].subplots(), accuracies, dense)
    draw_maps(halves[1], pixel_maps)
    halves[1].suptitle(
        f"Where the first layer keeps its weights, {percent(map_sparsity)} pruned",
        size=11,
        color=INK,
    )
    return figure


def _draw_accuracies(
    axes: Any, accuracies: Mapping[str, Mapping[float, float]], dense: float
) -> None:
    drawn = [dense, *(a for points in accuracies.values() for a in points.values())]
    worst, best = np.clip([min(drawn), max(drawn)], _LOWEST, _HIGHEST)
    bottom, top = worst - 0.01, 1 - 0.6 * (1 - best)
    accuracy_ticks = [tick for tick in _ACCURACY_TICKS if bottom <= tick <= top]
    sparsity_ticks = sorted({sparsity for points in accuracies.values() for sparsity in points})
    # Log scales: fewer weights kept to the right, fewer errors to the top.
    axes.set_xscale("log")
    axes.set_xticks(
        [1 - tick for tick in sparsity_ticks], [percent(tick) for tick in sparsity_ticks]
    )
    axes.invert_xaxis()
    axes.set_yscale("logit")
    axes.set_yticks(accuracy_ticks, [percent(tick) for tick in accuracy_ticks])
    axes.set_ylim(bottom, top)
    axes.minorticks_off()

    dense_level = np.clip(dense, bottom, _HIGHEST)
    axes.axhline(dense_level, color=INK, linestyle=(0, (5, 3)), linewidth=1.3)
    axes.annotate(
        f"dense network {100 * dense:.2f} %",
        (1, dense_level),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 4),
        textcoords="offset points",
        ha="right",
        color=INK,
    )
    below: Counter[float] = Counter()
    for number, (method, points) in enumerate(accuracies.items()):
        colour = COLOURS[number % len(COLOURS)]
        sparsities = sorted(points)
        axes.plot(
            [1 - sparsity for sparsity in sparsities],
            np.clip([points[sparsity] for sparsity in sparsities], 1 - _HIGHEST, _HIGHEST),
            color=colour,
            # Where the colours begin again, the markers do not.
            marker=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
            markersize=7,
            linewidth=2.2,
            label=method,
        )
        for sparsity in sparsities:
            if points[sparsity] < bottom:
                below[sparsity] += 1
                axes.annotate(
                    f"↓ {percent(points[sparsity])}",
                    (1 - sparsity, bottom),
                    xytext=(0, 14 * below[sparsity] - 10),
                    textcoords="offset points",
                    ha="center",
                    color=colour,
                )

    axes.margins(x=0.06)
    axes.set_xlabel("weights pruned", color=INK)
    axes.set_ylabel("test accuracy", color=INK)
    axes.grid(axis="y", color=FAINT)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
