from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from rich.console import Console

from prospr_ops import report
from prospr_ops.pruning import PruneResult


def result(**changes) -> PruneResult:
    masks = {
        "net/first/kernel": np.arange(1200).reshape(40, 30) < 30,
        "net/second/kernel": np.arange(100).reshape(2, 5, 10) < 35,
    }
    fields = {
        "masks": masks,
        "scores": {},
        "sparsity": 0.95,
        "settings": {"method": "diagonal"},
        "losses": (),
        "estimators": {"net/first/kernel": "ggn", "net/second/kernel": "hutchinson"},
        "seconds": 1.0,
    }
    return PruneResult(**{**fields, **changes})


def text(table) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    return console.file.getvalue()


def rows(table) -> list[str]:
    return [" ".join(line.split()) for line in text(table).splitlines()]


def test_pruning_table():
    lines = rows(report.pruning_table(result()))
    assert "ProsPr-diagonal, 95 % sparsity" in lines
    assert "net/first/kernel 40 × 30 1,200 30 2.5 % ggn" in lines
    assert "net/second/kernel 2 × 5 × 10 100 35 35 % hutchinson" in lines
    assert "total 1,300 65 5 %" in lines


def test_pruning_table_without_curvature():
    assert "curvature" in text(report.pruning_table(result()))
    assert "curvature" not in text(report.pruning_table(result(estimators={})))


def test_summary_prints_the_table():
    console = Console(file=io.StringIO(), width=80)
    result().summary(console)
    assert console.file.getvalue() == text(report.pruning_table(result()))


def test_percent():
    assert [report.percent(x) for x in (0, 0.9, 0.995, 1 / 3, 1)] == [
        "0 %",
        "90 %",
        "99.5 %",
        "33.33 %",
        "100 %",
    ]


def figure(**changes):
    arguments = {
        "accuracies": {
            "diagonal": {0.98: 0.96, 0.9: 0.98},
            "magnitude": {0.9: 0.97, 0.98: 0.1135},
        },
        "pixel_maps": {"diagonal": np.eye(28), "magnitude": np.full((28, 28), 7)},
        "dense": 0.985,
        "map_sparsity": 0.9,
        "title": "A title",
    }
    return report.accuracy_figure(**{**arguments, **changes})


def texts(drawing) -> list[str]:
    return [artist.get_text() for artist in drawing.findobj(lambda a: hasattr(a, "get_text"))]


def test_figure_shows_the_numbers(tmp_path):
    drawing = figure()
    axes = drawing.axes[0]
    lines = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    np.testing.assert_allclose(lines["ProsPr-diagonal"], [[0.1, 0.98], [0.02, 0.96]])
    left, right = axes.get_xlim()
    assert left > 0.1 > right, "sparser networks must be to the right"
    bottom, top = axes.get_ylim()
    assert bottom < 0.96
    assert top > 0.985
    images = [image.get_array() for other in drawing.axes for image in other.get_images()]
    np.testing.assert_array_equal(images[0], np.eye(28))
    np.testing.assert_array_equal(images[1], np.full((28, 28), 7))
    shown = texts(drawing)
    assert "A title" in shown
    assert "dense network 98.50 %" in shown
    assert "↓ 11.35 %" in shown, "a collapsed network lies below the axis and must be written"

    drawing.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_figure_of_extreme_accuracies(accuracy, tmp_path):
    figure(accuracies={"snip": {0.0: accuracy, 0.5: accuracy}}, dense=accuracy).savefig(
        tmp_path / "figure.png"
    )


def test_figure_of_many_methods(tmp_path):
    methods = [f"method {number}" for number in range(11)]
    drawing = figure(
        accuracies={method: {0.9: 0.9, 0.95: 0.8} for method in methods},
        pixel_maps={method: np.eye(28) for method in methods},
    )
    drawing.savefig(tmp_path / "figure.png")
    assert sum(len(axes.get_images()) for axes in drawing.axes) == len(methods)


def test_figure_needs_no_pyplot(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    figure()


def test_missing_matplotlib_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'prospr_ops\[plots\]'"):
        figure()
