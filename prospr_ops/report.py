"""What a run has to show: tables for the terminal, figures for a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from prospr_ops.exporting import Exported
    from prospr_ops.pruning import PruneResult

__all__ = ["accuracy_figure", "export_table", "method_label", "percent", "pruning_table"]

_LABELS = {
    "dense": "Dense",
    "diagonal": "ProsPr-diagonal",
    "exact": "ProsPr-exact",
    "first_order": "ProsPr-first-order",
    "snip": "SNIP",
    "grasp": "GraSP",
    "synflow": "SynFlow",
    "magnitude": "Magnitude",
    "random": "Random",
}

# Okabe and Ito's colours, told apart by every kind of colour vision; ProsPr's own come first.
_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#8C959F", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
_MARKERS = "osD^vPX*"
_ACCURACY_TICKS = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995]
_LOWEST = 0.5  # where the axis of accuracies ends at the latest; what collapsed leaves the picture
_HIGHEST = 0.9999  # 0 and 1 have no place on a logit axis
_INK = "#22272E"
_FAINT = "#D8DEE4"


def method_label(method: str) -> str:
    """Returns the name of a method as papers write it; an unknown one as it is."""
    return _LABELS.get(method, method)


def percent(fraction: float) -> str:
    """Returns a fraction as a percentage with as many digits as it needs: 0.995 is "99.5 %"."""
    return f"{100 * fraction:.4g} %"


def pruning_table(result: PruneResult) -> Table:
    """Tabulates what pruning left of every weight array.

    Args:
        result: What `prospr_ops.prune` returned.

    Returns:
        A table with a row for each mask (shape, weights, kept, density and, where the method used
        curvature, its estimator) and a footer with the totals.
    """
    method = method_label(result.settings["method"])
    table = Table(
        title=f"{method}, {percent(result.sparsity)} sparsity",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        show_footer=True,
        padding=(0, 0, 0, 1),
    )
    table.add_column("variable", footer="total", overflow="fold")
    table.add_column("shape", justify="right")
    table.add_column("weights", justify="right", footer=f"{result.weights:,}")
    table.add_column("kept", justify="right", footer=f"{result.kept:,}")
    table.add_column("density", justify="right", footer=percent(result.kept / result.weights))
    if result.estimators:
        table.add_column("curvature")
    for path, mask in result.masks.items():
        kept = int(mask.sum())
        table.add_row(
            path,
            " × ".join(map(str, mask.shape)),
            f"{mask.size:,}",
            f"{kept:,}",
            percent(kept / mask.size),
            *([result.estimators.get(path, "")] if result.estimators else []),
        )
    return table


def export_table(exported: Exported) -> Table:
    """Tabulates how large an exported model is, plainly and compressed."""
    table = Table(title=str(exported.path), box=box.SIMPLE_HEAD, show_header=False, show_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("size", f"{exported.size:,} bytes")
    table.add_row("compressed", f"{exported.compressed:,} bytes")
    table.add_row("weights", f"{exported.weights:,}")
    share = percent(exported.nonzero / exported.weights)
    table.add_row("not zero", f"{exported.nonzero:,} ({share})")
    return table


def accuracy_figure(
    accuracies: Mapping[str, Mapping[float, float]],
    pixel_maps: Mapping[str, np.ndarray],
    *,
    dense: float,
    map_sparsity: float,
    title: str,
) -> Figure:
    """Draws accuracy against sparsity and, beside it, where each method looks.

    Args:
        accuracies: By method, test accuracy in [0, 1] by sparsity.
        pixel_maps: By method, `[height, width]`: how many weights of the first layer were kept at
            each pixel. All share one colour scale.
        dense: Test accuracy of the unpruned network.
        map_sparsity: The sparsity that the maps were made at.
        title: Title of the whole figure.

    Returns:
        A figure, to be saved with `savefig`. No window is opened and no global state is touched.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = _new_figure(figsize=(11, 4.8))
    figure.suptitle(title, x=0.012, ha="left", size=14, weight="bold", color=_INK)
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.25, 1])
    _draw_accuracies(halves[0].subplots(), accuracies, dense)
    _draw_maps(halves[1], pixel_maps, map_sparsity)
    return figure


def _new_figure(*, figsize: tuple[float, float]) -> Figure:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        msg = "figures need matplotlib: pip install 'prospr_ops[plots]'"
        raise ImportError(msg) from error
    # The object API instead of pyplot: it draws by Agg, without a display and global state.
    return Figure(figsize=figsize, layout="constrained", facecolor="white")


def _draw_accuracies(
    axes: Any, accuracies: Mapping[str, Mapping[float, float]], dense: float
) -> None:
    drawn = [dense, *(a for points in accuracies.values() for a in points.values())]
    worst, best = np.clip([min(drawn), max(drawn)], _LOWEST, _HIGHEST)
    bottom, top = worst - 0.01, 1 - 0.6 * (1 - best)
    accuracy_ticks = [tick for tick in _ACCURACY_TICKS if bottom <= tick <= top]
    sparsity_ticks = sorted({sparsity for points in accuracies.values() for sparsity in points})
    # Both axes by what is left, on log scales: of weights to the right, of errors to the top.
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
    axes.axhline(dense_level, color=_INK, linestyle=(0, (5, 3)), linewidth=1.3)
    axes.annotate(
        f"dense network {100 * dense:.2f} %",
        (1, dense_level),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 4),
        textcoords="offset points",
        ha="right",
        color=_INK,
    )
    below: Counter[float] = Counter()
    for number, (method, points) in enumerate(accuracies.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        sparsities = sorted(points)
        axes.plot(
            [1 - sparsity for sparsity in sparsities],
            np.clip([points[sparsity] for sparsity in sparsities], 1 - _HIGHEST, _HIGHEST),
            color=colour,
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=7,
            linewidth=2.2,
            label=method_label(method),
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
    axes.set_xlabel("weights pruned", color=_INK)
    axes.set_ylabel("test accuracy", color=_INK)
    axes.grid(axis="y", color=_FAINT)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _draw_maps(figure: Any, pixel_maps: Mapping[str, np.ndarray], sparsity: float) -> None:
    columns = int(np.ceil(np.sqrt(len(pixel_maps))))
    rows = int(np.ceil(len(pixel_maps) / columns))
    grid = figure.subplots(rows, columns, squeeze=False)
    brightest = max(counts.max() for counts in pixel_maps.values())
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (method, counts) in zip(grid.flat, pixel_maps.items(), strict=False):
        image = axes.imshow(counts, cmap="magma", vmin=0, vmax=brightest)
        axes.set_title(method_label(method), size=11, color=_INK)
    bar = figure.colorbar(image, ax=grid, shrink=0.85, aspect=30)
    bar.outline.set_visible(False)
    bar.set_label("weights kept at each pixel", color=_INK)
    figure.suptitle(
        f"Where the first layer keeps its weights, {percent(sparsity)} pruned", size=11, color=_INK
    )
