"""Several runs side by side: the losses of their steps, and how far they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prospr_ops.reporting.figures.style import (
    COLOURS,
    FAINT,
    INK,
    MARKERS,
    new_figure,
    plain,
    set_title,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_MARKERS = 30


def losses_figure(losses: Mapping[str, Sequence[float]]) -> Figure:
    """Draws the loss of each prospect step and of the final batch.

    Args:
        losses: Losses of one result, by its label.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = new_figure(figsize=(9, 4))
    set_title(figure, "Loss over the prospect steps, each on its own batch")
    axes: Any = figure.subplots()
    for number, (label, values) in enumerate(losses.items()):
        axes.plot(
            values,
            color=COLOURS[number % len(COLOURS)],
            # On the same batches, methods with steps share a line; the first stays visible.
            linewidth=max(1.5, 2.0 + 1.2 * (len(losses) - number - 1)),
            marker=MARKERS[number % len(MARKERS)] if len(values) <= _MOST_MARKERS else None,
            label=wrapped(label),
        )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("steps made before", color=INK)
    axes.set_ylabel("loss", color=INK)
    axes.grid(axis="y", color=FAINT)
    plain(axes)
    axes.legend(frameon=False)
    return figure


def agreement_figure(
    labels: Sequence[str], overlaps: npt.NDArray[np.float64], ranks: npt.NDArray[np.float64]
) -> Figure:
    """Draws how far results agree, as two heat maps.

    Args:
        labels: Labels of the n results.
        overlaps: Matrix `[n, n]`, as `prospr_ops.reporting.agreement.overlap` returns it.
        ranks: Matrix `[n, n]`, as `prospr_ops.reporting.agreement.spearman` returns it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    side = 0.6 * len(labels) + 0.6
    figure = new_figure(figsize=(2 * side + 1.8, side + 1.7))
    set_title(figure, "Agreement of methods")
    left, right = figure.subplots(1, 2, sharey=True)
    _heat_map(left, labels, overlaps, "of what the row keeps,\nthe column keeps too", "viridis", 0)
    _heat_map(right, labels, ranks, "Spearman's rank correlation\nof all scores", "RdBu", -1)
    return figure


def _heat_map(
    axes: Any,
    labels: Sequence[str],
    values: npt.NDArray[np.float64],
    title: str,
    colours: str,
    least: float,
) -> None:
    image = axes.imshow(values, cmap=colours, vmin=least, vmax=1)
    names = [wrapped(label) for label in labels]
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, size=10, color=INK)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = image.to_rgba(value)
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            colour = "white" if dark else INK
            axes.text(
                column,
                row,
                f"{value:.2f}".replace("-0.00", "0.00"),
                ha="center",
                va="center",
                color=colour,
                size=9,
            )
