from __future__ import annotations

import base64
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from results import result

import prospr_ops as po
from prospr_ops.reporting import figures
from prospr_ops.reporting.agreement import overlap, spearman
from prospr_ops.reporting.figures import scores_figure
from prospr_ops.reporting.html_report import report

_VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects what they hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.lines: list[list[str]] = []
        self.headings: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "tr":
            self.lines.append([])
        if tag in ("td", "th"):
            self.lines[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.lines[-1][-1] += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

    def pictures(self) -> dict[str, bytes]:
        prefix = "data:image/png;base64,"
        images = [attrs for tag, attrs in self.seen if tag == "img"]
        assert all(image["src"].startswith(prefix) for image in images)
        return {
            image["alt"]: base64.b64decode(image["src"].removeprefix(prefix), validate=True)
            for image in images
        }


def written(results, tmp_path, **options) -> Page:
    file = tmp_path / "report.html"
    assert report(results, file, **options)[0] == file
    text = file.read_text()
    assert text.startswith("<!DOCTYPE html>")
    return Page(text)


def several():
    return [
        result(),
        result(seed=1, settings={"method": "snip", "scope": "global"}, losses=(2.3,)),
        result(seed=2, settings={"method": "random", "scope": "global"}, losses=()),
    ]


def test_everything_is_in_the_file(tmp_path):
    text = (tmp_path / "report.html", written(several(), tmp_path))[0].read_text()
    page = Page(text)
    assert not any(tag in ("script", "link", "iframe", "object") for tag, _ in page.seen)
    for _, attributes in page.seen:
        assert not {"src", "href"} & attributes.keys() or attributes["src"].startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    without_pictures = re.sub(r"base64,[^\"]*", "", text)
    assert not re.search(r"https?:|//|url\(|@import", without_pictures)
    assert "prefers-color-scheme: dark" in text
    assert all(png.startswith(b"\x89PNG") for png in page.pictures().values())


def test_one_result(tmp_path):
    page = written(result(), tmp_path)
    assert page.headings == ["Settings", "Layers", "Scores", "Prospect"]
    one = result()
    for path, mask in one.masks.items():
        kept = int(np.count_nonzero(mask))
        line = next(line for line in page.lines if line[0] == path)
        assert line[2:4] == [f"{kept:,}", f"{100 * kept / mask.size:.4g} %"]
    assert ["method", "diagonal"] in page.lines
    assert ["loss after the steps", "2.05"] in page.lines


def test_several_results_are_compared(tmp_path):
    results = several()
    page = written(results, tmp_path)
    assert page.headings[-1] == "Agreement"
    header = ["", "ProsPr-diagonal", "SNIP", "Random"]
    starts = [number for number, line in enumerate(page.lines) if line == header]
    assert len(starts) == 3, "settings, overlaps and correlations"
    for start, expected in (
        (starts[1], overlap([one.masks for one in results])),
        (starts[2], spearman([one.scores for one in results])),
    ):
        shown = page.lines[start + 1 : start + 4]
        assert [line[0] for line in shown] == header[1:]
        np.testing.assert_allclose(
            [[float(cell) for cell in line[1:]] for line in shown], expected, atol=5e-5
        )


def test_the_first_layer_is_shown_where_it_is_an_image(tmp_path):
    images = {"net/first/kernel": (64, 30), "net/second/kernel": (30, 10)}
    page = written(result(shapes=images, input_shape=(8, 8, 1)), tmp_path)
    assert "First layer" in page.headings
    assert "net/first/kernel: weights kept at each pixel" in page.pictures()
    assert "First layer" not in written(result(input_shape=(40,)), tmp_path).headings


def test_figures_are_written_as_files_too(tmp_path):
    folder = tmp_path / "new" / "figures"
    file = tmp_path / "report.html"
    files = report(several(), file, png_folder=folder)
    assert [path.name for path in files] == [
        "report.html",
        "density.png",
        "scores_prospr_diagonal.png",
        "scores_snip.png",
        "scores_random.png",
        "losses.png",
        "agreement.png",
    ]
    assert sorted(folder.iterdir()) == sorted(files[1:])
    shown = Page(file.read_text()).pictures().values()
    assert list(shown) == [path.read_bytes() for path in files[1:]]


def test_the_same_results_make_the_same_file(tmp_path):
    for name in "ab":
        report(result(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_whole_channels(tmp_path):
    model = po.models.lenet5()
    options = {"structure": "channel", "method": "magnitude", "verbose": 0, "seed": 0}
    one = po.prune(model, None, sparsity=0.5, min_keep=2, **options)
    page = written(one, tmp_path)
    assert "First layer" in page.headings
    assert ["structure", "channel"] in page.lines
    assert any(line[0] == "lenet5/conv_1/bias" and line[4] == "–" for line in page.lines)


def test_scores_with_signs(tmp_path):
    model = po.models.lenet_300_100((8, 8, 1))
    random = np.random.default_rng(0)
    data = random.normal(size=(32, 8, 8, 1)).astype("f"), random.integers(0, 10, 32)
    options = {"method": "grasp", "loss": "sparse_categorical_crossentropy", "verbose": 0}
    one = po.prune(model, data, sparsity=0.5, **options)
    drawn = []

    def recording(*arguments, **options):
        drawn.append(options)
        return scores_figure(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "scores_figure", recording)
        written([one, result(shapes={p: s.shape for p, s in one.scores.items()})], tmp_path)
    assert drawn == [{"signed": True}, {"signed": False}]


def test_names_of_layers_may_differ(tmp_path):
    other = {"net_1/third/kernel": (40, 30), "net_1/fourth/kernel": (2, 5, 10)}
    written([result(), result(shapes=other, uses={})], tmp_path)


def test_what_results_say_is_escaped(tmp_path):
    hostile = "<script src='http://evil'>{0}</script>"
    one = result(
        shapes={hostile: (64, 9)},
        settings={"method": hostile, hostile: hostile},
        estimators={hostile: hostile},
        input_shape=(8, 8),
    )
    page = written([one, one], tmp_path, png_folder=tmp_path / "png")
    assert not any(tag == "script" for tag, _ in page.seen)
    assert all(path.parent == tmp_path / "png" for path in (tmp_path / "png").rglob("*.png"))


@pytest.mark.parametrize(
    ("results", "error", "message"),
    [
        ([], ValueError, "at least one"),
        (["result.npz"], TypeError, "number 1 is str"),
        ("result.npz", TypeError, "number 1 is str"),
        (result(scores={}), ValueError, "result 1 .* has no scores"),
        (result(masks={}), ValueError, "result 1 .* has no masks"),
        (result(scores={"a": np.zeros(3)}), ValueError, "scores and masks .* differ in shape"),
        (result(scores={"a": np.array(["x"])}), ValueError, "scores of a .* are not all numbers"),
        (
            result(scores={"a": np.array([np.nan])}),
            ValueError,
            "scores of a .* are not all numbers",
        ),
        (
            [result(), result(shapes={"net/first/kernel": (40, 31)})],
            ValueError,
            r"different models: number 2 has masks of the shapes \[\(40, 31\)\], the first has",
        ),
    ],
)
def test_bad_results(results, error, message, tmp_path):
    with pytest.raises(error, match=message):
        report(results, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        report(result(), tmp_path / "absent" / "report.html")
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError, match="file"):
        report(result(), tmp_path / "report.html", png_folder=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


def test_missing_matplotlib_is_explained(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'prospr_ops\[plots\]'"):
        report(result(), tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_the_package_has_the_function():
    assert po.report is report
