"""Tables for the terminal and for HTML, and numbers formatted for people."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Literal, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.table import Table

UNKNOWN = "–"


def percent(fraction: float) -> str:
    """Formats a fraction as a percentage with up to four significant digits: 0.995 is "99.5 %".

    One just below 1 gets as many as tell it from 1: 0.99999 is "99.999 %".
    """
    digits = 4
    while fraction < 1 and f"{100 * fraction:.{digits}g}" == "100" and digits < 17:
        digits += 1
    return f"{100 * fraction:.{digits}g} %"


def magnitude(number: float) -> str:
    """Formats a count with three significant digits and a unit: 1234 is "1.23 k"."""
    for unit in ("", " k", " M", " G"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} T"


class Rows(NamedTuple):
    """A table.

    Attributes:
        title: Title above the table.
        headers: Headers of the columns.
        body: Rows with one cell per column; the first cell is text, the others are numbers or
            short.
        footer: Row of totals; empty for none.
        notes: Lines below the table, which its cells refer to.
    """

    title: str
    headers: Sequence[str]
    body: Sequence[Sequence[str]]
    footer: Sequence[str] = ()
    notes: Sequence[str] = ()


def rich_table(rows: Rows, width: int = 80) -> Table:
    """Makes the table for a terminal; no name is broken.

    Where the lines would be longer than `width`, each name gets a line of its own.
    """
    lines = [row for row in (rows.headers, *rows.body, rows.footer) if row]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    table = Table(
        title=rows.title,
        caption="\n".join(rows.notes),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        show_footer=bool(rows.footer),
        padding=(0, 0, 0, 1),
    )
    footer = rows.footer or [""] * len(rows.headers)
    if sum(widths) + len(widths) > width:

        def below(row: Sequence[str]) -> str:
            cells = [f"{cell:>{wide}}" for cell, wide in zip(row[1:], widths[1:], strict=True)]
            return f"{row[0]}\n    {'  '.join(cells)}"

        table.add_column(below(rows.headers), footer=below(footer), no_wrap=True)
        for row in rows.body:
            table.add_row(below(row))
        return table
    for number, (header, total) in enumerate(zip(rows.headers, footer, strict=True)):
        justify: Literal["left", "right"] = "right" if number else "left"
        table.add_column(header, footer=total, justify=justify, no_wrap=True)
    for row in rows.body:
        table.add_row(*row)
    return table


def html_table(rows: Rows) -> str:
    """Makes the table as HTML, without a style sheet; every cell is escaped."""

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
    notes = [f"<p>{html.escape(note)}</p>" for note in rows.notes]
    return "\n".join([*parts, "</table>", *notes])
