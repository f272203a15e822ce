"""The style that all figures share."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, distinct for every kind of colour vision; ProsPr's come first.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#8C959F", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = "osD^vPX*"
INK = "#22272E"
FAINT = "#D8DEE4"

_LONGEST = 34  # characters of an axis label


def new_figure(*, figsize: tuple[float, float]) -> Figure:
    """Makes an empty figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        msg = "figures need matplotlib: pip install 'prospr_ops[plots]'"
        raise ImportError(msg) from error
    # The object API instead of pyplot: it draws with Agg, without a display or global state.
    return Figure(figsize=figsize, layout="constrained", facecolor="white")


def set_title(figure: Any, title: str) -> None:
    """Writes the title of a figure, aligned with its left edge."""
    figure.suptitle(wrapped(title, 56), x=0.012, ha="left", size=12, weight="bold", color=INK)


def plain(axes: Any) -> None:
    """Removes the frame, except the sides that carry ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def wrapped(label: str, width: int = 26) -> str:
    """Wraps a label after so many characters; a $ is escaped, since it would begin a formula."""
    return "\n".join(textwrap.wrap(label, width)).replace("$", r"\$")


def short_labels(paths: Sequence[str]) -> list[str]:
    """Variable paths without their common beginning; the middle of long ones is left out."""
    parts = [path.split("/") for path in paths]
    shared = len(list(takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False))))
    labels = ["/".join(names[min(shared, len(names) - 1) :]) for names in parts]
    half = _LONGEST // 2
    return [
        wrapped(
            label if len(label) <= _LONGEST else f"{label[: half - 1]}…{label[-half:]}", _LONGEST
        )
        for label in labels
    ]
