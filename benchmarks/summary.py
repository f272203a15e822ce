"""What all benchmarks found, in one table, one record and one plot, and against another record."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

# Ratios that moved by less than this factor may as well have been measured twice.
NOTABLE = 1.25


class Comparison(NamedTuple):
    """Two sides of one question.

    Attributes:
        benchmark: The module that asked.
        case: What of: a network, a size.
        alternative: The other side.
        ours: What ours took, or got.
        theirs: What the other side did.
        unit: Of both: "s" or "gradients", of which less is better, or "shared", of which more is.
        agrees: How far their results are apart; – where they are no two ways to the same.
    """

    benchmark: str
    case: str
    alternative: str
    ours: float
    theirs: float
    unit: str
    agrees: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What has to be the same in two records for their ratios to be compared."""
        return self.benchmark, self.case, self.alternative

    @property
    def ratio(self) -> float:
        """By how much ours is better; less than 1 where it is worse."""
        better, worse = (
            (self.ours, self.theirs) if self.unit == "shared" else (self.theirs, self.ours)
        )
        return better / worse if worse else math.inf


def failed(benchmark: str, error: AssertionError) -> Comparison:
    """Of a benchmark whose sides disagree, so that its times mean nothing."""
    nan = float("nan")
    return Comparison(benchmark, str(error), "", nan, nan, "s", "NO")


def record(rows: Sequence[Comparison], minutes: dict[str, float], *, full: bool) -> dict[str, Any]:
    """What is written; `read` gets the rows back."""
    return {
        "benchmark": "all",
        "full": full,
        "minutes": minutes,
        "rows": [{**row._asdict(), "ratio": row.ratio} for row in rows],
    }


class Reference(NamedTuple):
    """An earlier record."""

    environment: dict[str, Any]
    ratios: dict[tuple[str, str, str], float]

    @classmethod
    def read(cls, path: Path) -> Reference:
        """Reads what was written of `record`.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is no such record.
        """
        try:
            found = json.loads(path.read_text())
            rows = [
                Comparison(**{name: row[name] for name in Comparison._fields})
                for row in found["rows"]
            ]
            return cls(found["environment"], {row.key: row.ratio for row in rows})
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            msg = f"{path} is no record of `python -m benchmarks`: {error!r}"
            raise ValueError(msg) from error


def file_stem(environment: dict[str, Any]) -> str:
    """Date and machine, as a file's name can have them: 2026-01-31T1200-amd-epyc-2-threads."""
    date = environment["date"][:16].replace(":", "")
    processor = re.sub(r"[^a-z0-9]+", "-", environment["processor"].lower()).strip("-")
    return f"{date}-{processor}-{environment['threads']}-threads"


def _value(value: float, unit: str) -> str:
    if math.isnan(value):
        return "–"
    if unit != "s":
        return f"{value:.3g} {unit}"
    if value >= 600:
        return f"{value / 60:,.0f} min"
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def _ratio(ratio: float) -> str:
    if math.isnan(ratio):
        return "–"
    return f"{ratio:,.2f} ×" if ratio < 100 else f"{ratio:,.0f} ×"


def table(
    rows: Sequence[Comparison], environment: dict[str, Any], reference: Reference | None
) -> Group:
    """The rows, and what changed against the reference."""
    shown = Table(
        title="All benchmarks",
        caption=f"{environment['processor']}, {environment['threads']} threads. Ratio: by how much ours "
        "is better. Agrees: how far the results of the sides are apart; – where they are no two ways "
        "to the same. Each benchmark's own table says what was measured, and how.",
        box=box.SIMPLE_HEAD,
    )
    shown.add_column("case")
    shown.add_column("ours", justify="right", no_wrap=True)
    shown.add_column("alternative")
    for heading in ("theirs", "ratio"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("agrees?", no_wrap=True)
    if reference is not None:
        shown.add_column("reference", justify="right", no_wrap=True)
    last = ("", "")
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        before = None if reference is None else reference.ratios.get(row.key)
        if row.benchmark != last[0]:
            shown.add_row(f"[bold]{row.benchmark}[/bold]")
        here = (row.benchmark, row.case)
        shown.add_row(
            *_cells(row, here != last),
            *([] if reference is None else ["new" if before is None else _ratio(before)]),
            end_section=following is None or following.benchmark != row.benchmark,
        )
        last = here
    if reference is None:
        return Group(shown)
    return Group(shown, *(Text(line) for line in changes(rows, environment, reference)))


def _cells(row: Comparison, case: bool) -> list[str]:
    """A row of a table; with its case, or without where the last row had the same."""
    ours, theirs = _value(row.ours, row.unit), _value(row.theirs, row.unit)
    shown_case = row.case if case else ""
    return [shown_case, ours, row.alternative, theirs, _ratio(row.ratio), row.agrees]


def markdown(record: dict[str, Any]) -> str:
    """A record's rows as tables of Markdown, one for each benchmark."""
    lines = []
    last = ("", "")
    for values in record["rows"]:
        row = Comparison(**{name: values[name] for name in Comparison._fields})
        if row.benchmark != last[0]:
            lines += ["", f"**{row.benchmark}**, {record['minutes'][row.benchmark]:.1f} minutes", "",
                      "| case | ours | alternative | theirs | ratio | agrees? |",
                      "| --- | ---: | --- | ---: | ---: | --- |"]  # fmt: skip
        here = (row.benchmark, row.case)
        lines.append(f"| {' | '.join(_cells(row, here != last))} |")
        last = here
    return "\n".join(lines)


def changes(
    rows: Sequence[Comparison], environment: dict[str, Any], reference: Reference
) -> list[str]:
    """What is different from the reference, a line each."""
    names = ("processor", "threads", "tensorflow", "version")
    lines = [f"Against the reference of {reference.environment['date']}:"]
    lines += [
        f"  {name}: {reference.environment.get(name)} → {environment.get(name)}"
        for name in names
        if reference.environment.get(name) != environment.get(name)
    ]
    moved = []
    for row in rows:
        before = reference.ratios.get(row.key)
        if before is None:
            continue
        change = row.ratio / before
        if not 1 / NOTABLE < change < NOTABLE:
            moved.append(
                f"  {row.benchmark}, {row.case}, {row.alternative}: "
                f"{_ratio(before)} → {_ratio(row.ratio)}"
            )
    lines += moved or [f"  no ratio changed by more than a factor of {NOTABLE}"]
    run = {row.benchmark for row in rows}
    keys = {row.key for row in rows}
    absent = [key for key in reference.ratios if key[0] in run and key not in keys]
    lines += [f"  not in this run: {', '.join(key)}" for key in absent]
    return lines


def plot(rows: Sequence[Comparison]) -> Figure:
    """All ratios on one logarithmic axis."""
    rows = [row for row in rows if 0 < row.ratio < math.inf]  # nor NaN
    figure = Figure(figsize=(9, 1.2 + 0.24 * len(rows)), layout="constrained")
    figure.suptitle("By how much ours is better (to the right of 1)", fontsize=13)
    axes = figure.subplots()
    names = [f"{row.benchmark}: {row.case}, {row.alternative}" for row in rows]
    colours = ["#c8553d" if row.ratio >= 1 else "#9aa5b1" for row in rows]
    # From 1 on, to either side.
    bars = axes.barh(
        range(len(rows)), [row.ratio - 1 for row in rows], left=1.0, color=colours, log=True
    )
    axes.bar_label(bars, [f" {_ratio(row.ratio)}" for row in rows], fontsize=7)
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1, color="#2f3e46", linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.15)
    return figure
