"""Tables of what a run has to show, for the terminal and for HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from prospr_ops.exporting import Exported
    from prospr_ops.result import PruneResult

__all__ = [
    "Rows",
    "export_table",
    "html_table",
    "layer_rows",
    "method_label",
    "percent",
    "result_labels",
    "rich_table",
    "settings_rows",
]

UNKNOWN = "–"

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


def method_label(method: str) -> str:
    """Returns the name of a method as papers write it; an unknown one as it is."""
    return _LABELS.get(method, method)


def percent(fraction: float) -> str:
    """Returns a fraction as a percentage with as many digits as it needs: 0.995 is "99.5 %"."""
    return f"{100 * fraction:.4g} %"


def magnitude(number: float) -> str:
    """Returns a count with three digits and a unit: 1234 is "1.23 k"."""
    for unit in ("", " k", " M", " G"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} T"


def result_labels(results: Sequence[PruneResult]) -> list[str]:
    """Names each result by its method, and by the settings that differ where methods do not."""
    settings = [result.settings for result in results]
    labels = []
    for number, one in enumerate(settings):
        label = method_label(one["method"])
        alike = [other for other in settings if other["method"] == one["method"]]
        differing = [
            f"{name} {value}"
            for name, value in one.items()
            if any(other.get(name) != value for other in alike)
        ]
        if differing:
            label += f", {', '.join(differing)}"
        elif len(alike) > 1:
            label += f" #{1 + sum(other == one for other in settings[:number])}"
        labels.append(label)
    return labels


class Rows(NamedTuple):
    """A table.

    Attributes:
        title: Above it.
        headers: Of the columns.
        body: Rows of as many cells; the first is text, the others are numbers, or short.
        footer: A row of totals, or none.
    """

    title: str
    headers: Sequence[str]
    body: Sequence[Sequence[str]]
    footer: Sequence[str] = ()


def layer_rows(result: PruneResult) -> Rows:
    """Tabulates what pruning left of every weight array.

    Args:
        result: What `prospr_ops.prune` returned.

    Returns:
        A row for each mask (shape, kept, density, FLOPs a sample before → after and, where the
        method used curvature, its estimator) and the totals of what is known.
    """
    body = []
    before = after = 0
    for path, mask in result.masks.items():
        kept = int(np.count_nonzero(mask))
        flops = UNKNOWN
        if path in result.uses:
            uses = 2 * result.uses[path]
            before, after = before + uses * mask.size, after + uses * kept
            flops = _change(uses * mask.size, uses * kept)
        shape = " × ".join(map(str, mask.shape))
        body.append([path, shape, f"{kept:,}", percent(kept / max(1, mask.size)), flops])
        if result.estimators:
            body[-1].append(result.estimators.get(path, ""))
    density = percent(result.kept / max(1, result.weights))
    total = _change(before, after) if result.uses else UNKNOWN
    return Rows(
        f"{method_label(result.settings['method'])}, {percent(result.sparsity)} sparsity: "
        f"{result.kept:,} of {result.weights:,} weights kept",
        ["weight", "shape", "kept", "density", "FLOPs", *(["curvature"] * bool(result.estimators))],
        body,
        ["total", "", f"{result.kept:,}", density, total, *([""] * bool(result.estimators))],
    )


def settings_rows(results: Sequence[PruneResult], labels: Sequence[str]) -> Rows:
    """Tabulates the settings of results, a column each."""
    names = list(dict.fromkeys(name for result in results for name in result.settings))
    body = [
        [name, *(_setting(result.settings.get(name, UNKNOWN)) for result in results)]
        for name in names
    ]
    body.append(["weights kept", *(f"{r.kept:,} of {r.weights:,}" for r in results)])
    body.append(["loss after the steps", *(_last_loss(result) for result in results)])
    body.append(["seconds", *(f"{result.seconds:.2f}" for result in results)])
    return Rows("Settings", ["", *labels], body)


def rich_table(rows: Rows) -> Table:
    """The table for a terminal."""
    table = Table(
        title=rows.title,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        show_footer=bool(rows.footer),
        padding=(0, 0, 0, 1),
    )
    footer = rows.footer or [""] * len(rows.headers)
    for number, (header, total) in enumerate(zip(rows.headers, footer, strict=True)):
        numbers = number > 0 and header != "curvature"
        table.add_column(
            header, footer=total, justify="right" if numbers else "left", overflow="fold"
        )
    for row in rows.body:
        table.add_row(*row)
    return table


def html_table(rows: Rows) -> str:
    """The table as HTML, without a style sheet; every cell is escaped."""

    def line(kind: str, cells: Sequence[str]) -> str:
        first, *others = (html.escape(cell) for cell in cells)
        scope = "row" if kind == "td" else "col"
        return (
            f'<tr><th scope="{scope}" style="text-align:left">{first}</th>'
            + "".join(f'<{kind} style="text-align:right">{cell}</{kind}>' for cell in others)
            + "</tr>"
        )

    parts = [
        f'<table><caption style="text-align:left">{html.escape(rows.title)}</caption>',
        f"<thead>{line('th', rows.headers)}</thead>",
        "<tbody>",
        *(line("td", row) for row in rows.body),
        "</tbody>",
    ]
    if rows.footer:
        parts.append(f"<tfoot>{line('td', rows.footer)}</tfoot>")
    return "\n".join([*parts, "</table>"])


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


def _change(before: float, after: float) -> str:
    return f"{magnitude(before)} → {magnitude(after)}"


def _setting(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _last_loss(result: PruneResult) -> str:
    return f"{result.losses[-1]:.4g}" if result.losses else UNKNOWN
