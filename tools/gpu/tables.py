"""results.json of driver.py as tables in Markdown, for results.md and for docs/cuda.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any


def markdown(results: dict[str, Any]) -> Iterator[str]:
    """Where and when; what passed; times; comparisons."""
    where = results["environment"]
    yield f"{where['card']}, {where['date']}, commit {where['commit']}, {where['compiler']}.\n"
    if where["emulated"]:
        yield "**In the emulation: times mean nothing.**\n"
    yield from _table(
        ["step", "result", "seconds", "note"],
        ([s["name"], s["status"], f"{s['seconds']:.0f}", s["note"]] for s in results["steps"]),
    )
    yield from _checks(results["checks"])
    yield from _table(
        ["kernel", "dtype", "of", "time", "rate", "bound", "share of it", "expected", "time / expected"],
        map(_timing, results["timings"]),
    )  # fmt: skip
    yield from _table(
        ["work", "of", "ours", "share of bound", "other side", "its time", "its time / ours", "note"],
        map(_comparison, results["comparisons"]),
    )  # fmt: skip


def _table(headings: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    rows = list(rows)
    if not rows:
        return
    yield f"| {' | '.join(headings)} |\n|{' --- |' * len(headings)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
    yield ""


def _checks(checks: list[dict[str, Any]]) -> Iterator[str]:
    """How many passed of each kernel and dtype, and each that did not."""
    found = {(c["kernel"], c["dtype"]): Counter[str]() for c in checks}
    for check in checks:
        found[check["kernel"], check["dtype"]][check["status"]] += 1
    yield from _table(
        ["kernel", "dtype", "as the CPU's", "not", "skipped"],
        (
            [*key, *(str(count[status]) for status in ("passed", "failed", "skipped"))]
            for key, count in found.items()
        ),
    )
    for c in checks:
        if c["status"] != "passed":
            yield f"* {c['kernel']}, {c['dtype']}, {c['case']}: {c['status']}, {c['note']}"
    yield ""


def _timing(row: dict[str, Any]) -> list[str]:
    ms, bound, expected = row["milliseconds"], row["bound_ms"], row["expected_ms"]
    rate = "–"
    if row["flop"]:
        rate = f"{row['flop'] / ms / 1e9:.2f} TFLOP/s"
    elif row["bytes"]:
        rate = f"{row['bytes'] / ms / 1e6:,.0f} GB/s"
    return [
        row["kernel"], row["dtype"], row["case"], _time(ms), rate, _time(bound),
        f"{bound / ms:.0%}" if bound else "–", _time(expected),
        f"{ms / expected:.2f}" if expected else "–",
    ]  # fmt: skip


def _comparison(row: dict[str, Any]) -> list[str]:
    ours, theirs = row["ours_ms"], row["other_ms"]
    ratio = f"{theirs / ours:.2f}" if ours and theirs else "–"
    bound = row["bound_ms"]
    share = f"{bound / ours:.0%}" if ours and bound else "–"
    return [
        row["work"], row["case"], _time(ours), share, row["other"], _time(theirs), ratio, row["note"],
    ]  # fmt: skip


def _time(ms: float | None) -> str:
    if ms is None:
        return "–"
    return f"{1e3 * ms:.3g} µs" if ms < 1 else f"{ms:.3g} ms"
