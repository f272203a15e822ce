from __future__ import annotations

import io
from html.parser import HTMLParser

import numpy as np
import pytest
from results import result
from rich.console import Console

from prospr_ops.reporting import settings_table
from prospr_ops.utils import tables


def masked(**changes):
    masks = {
        "net/first/kernel": np.arange(1200).reshape(40, 30) < 30,
        "net/second/kernel": np.arange(100).reshape(2, 5, 10) < 35,
    }
    return result(masks=masks, sparsity=0.95, **changes)


def text(table) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    return console.file.getvalue()


def lines(rows) -> list[str]:
    return [" ".join(line.split()) for line in text(tables.rich_table(rows)).splitlines()]


class Cells(HTMLParser):
    """The text of a table's cells, line by line."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.lines: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag, _):
        if tag == "tr":
            self.lines.append([])
        if tag in ("td", "th"):
            self.lines[-1].append("")

    def handle_data(self, data):
        if self.lines and self.lines[-1] and data.strip():
            self.lines[-1][-1] += data


def test_layers_in_a_terminal():
    shown = lines(masked().rows())
    assert "ProsPr-diagonal, 95 % sparsity: 65 of 1,300 weights kept" in shown
    assert "net/first/kernel 40×30 30 2.5 % 2.4 k → 60 ggn" in shown
    assert "net/second/kernel 2×5×10 35 35 % 200 k → 70 k hutchinson" in shown
    assert "total 65 5 % 202 k → 70.1 k" in shown


def test_names_are_whole_and_reasons_are_notes_within_80_columns():
    path = "bert_backbone/transformer_layer_0/self_attention_layer/query/kernel"
    reason = "behind batch normalisation in training, where samples are mixed"
    for name in ("net/kernel", path):
        one = result(shapes={name: (40, 30)}, estimators={name: f"hutchinson ({reason})"})
        shown = text(tables.rich_table(one.rows())).splitlines()
        assert any(name in line for line in shown)
        assert any("hutchinson [1]" in line for line in shown)
        assert f"1: {reason}" in " ".join("".join(f"{line} " for line in shown).split())
        assert max(map(len, shown)) <= 80


def test_layers_in_html():
    rows = masked().rows()
    expected = [list(rows.headers), *map(list, rows.body), list(rows.footer)]
    assert rows.notes == ["7.692 % of the weights rest on 1 random probe per step"]
    expected[-1][-1] += rows.notes[0]  # behind the table
    assert Cells(tables.html_table(rows)).lines == expected


def test_layers_without_curvature():
    assert "curvature" in masked().rows().headers
    assert "curvature" not in masked(estimators={}).rows().headers


def test_unknown_flops_are_not_invented():
    rows = masked(uses={"net/first/kernel": 1}).rows()
    assert rows.body[1][4] == "–"
    assert rows.footer[4] == "2.4 k → 60"
    assert masked(uses={}).rows().footer[4] == "–"


def test_html_is_escaped():
    hostile = "<script>alert('&')</script>"
    page = tables.html_table(
        result(
            shapes={hostile: (4, 30)},
            settings={"method": hostile},
            estimators={hostile: hostile},
        ).rows()
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 3


def test_settings_beside_each_other():
    results = [
        result(),
        result(settings={"method": "snip", "batch_size": 7, "steps": 3}, losses=()),
    ]
    rows = settings_table.settings_rows(results, ["one", "two"])
    assert rows.headers == ["", "one", "two"]
    assert ["method", "diagonal", "snip"] in rows.body
    assert ["scope", "global", "–"] in rows.body
    assert ["batch_size", "–", "7"] in rows.body
    assert "steps" not in [row[0] for row in rows.body], "SNIP makes none"
    assert ["loss after the steps", "2.05", "–"] in rows.body


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ([{"method": "snip"}, {"method": "exact"}], ["SNIP", "ProsPr-exact"]),
        (
            [{"method": "snip", "seed": 1}, {"method": "snip", "seed": 2}],
            ["SNIP, seed 1", "SNIP, seed 2"],
        ),
        ([{"method": "snip"}] * 2, ["SNIP #1", "SNIP #2"]),
    ],
)
def test_labels_tell_results_apart(settings, labels):
    assert settings_table.result_labels([result(settings=one) for one in settings]) == labels


def test_percent_of_nearly_all():
    assert [tables.percent(x) for x in (0.99999, 0.999999, 1.0)] == [
        "99.999 %",
        "99.9999 %",
        "100 %",
    ]


def test_percent():
    assert [tables.percent(x) for x in (0, 0.9, 0.995, 1 / 3, 1)] == [
        "0 %",
        "90 %",
        "99.5 %",
        "33.33 %",
        "100 %",
    ]


def test_magnitude():
    numbers = (0, 7, 999, 999.6, 1234, 999_499, 999_500, 5.3e9, 2e15)
    assert [tables.magnitude(x) for x in numbers] == [
        "0",
        "7",
        "999",
        "1 k",
        "1.23 k",
        "999 k",
        "1 M",
        "5.3 G",
        "2e+03 T",
    ]


def test_large_matrices_that_are_left_out_are_named_within_80_columns():
    left = {
        f"backbone/position_embedding_{i}/embeddings": f"512×{i} (8 weights; My)" for i in "12345"
    }
    shown = text(tables.rich_table(masked(left_out=left).rows()))
    assert "position_embedding_1/embeddings 512×1" in " ".join(shown.split())
    assert "position_embedding_4" not in shown
    assert "left out: 2 more" in shown
    assert max(map(len, shown.splitlines())) <= 80
