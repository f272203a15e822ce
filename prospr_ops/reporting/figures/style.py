"""What all figures look like."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by every kind of colour vision; ProsPr's own come first.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#8C959F", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = "osD^vPX*"
INK = "#22272E"
FAINT = "#D8DEE4"

_LONGEST = 34  # letters of a label at an axis


def new_figure(*, figsize: tuple[float, float]) -> Figure:
    """An empty figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        msg = "figures need matplotlib: pip install 'prospr_ops[plots]'"
        raise ImportError(msg) from error
    # The object API instead of pyplot: it draws by Agg, without a display and global state.
    return Figure(figsize=figsize, layout="constrained", facecolor="white")


def set_title(figure: Any, title: str) -> None:
    """Writes the title of a figure, over its left edge."""
    figure.suptitle(wrapped(title, 56), x=0.012, ha="left", size=12, weight="bold", color=INK)


def plain(axes: Any) -> None:
    """Takes the frame off, but for what carries ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def wrapped(label: str, width: int = 26) -> str:
    """A label in lines of so many letters, taken literally: a $ would begin a formula."""
    return "\n".join(textwrap.wrap(label, width)).replace("$", r"\$")


def short_labels(paths: Sequence[str]) -> list[str]:
    """Variable paths without what all of them begin with, the middle of long ones left out."""
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
