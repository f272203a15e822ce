from __future__ import annotations

import math
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from results import result

from prospr_ops.pruning.mask_files import PackedMasks
from prospr_ops.reporting import figures
from prospr_ops.reporting.figures.style import short_labels


def figure(**changes):
    arguments = {
        "accuracies": {
            "ProsPr-diagonal": {0.98: 0.96, 0.9: 0.98},
            "Magnitude": {0.9: 0.97, 0.98: 0.1135},
        },
        "pixel_maps": {"ProsPr-diagonal": np.eye(28), "Magnitude": np.full((28, 28), 7)},
        "dense": 0.985,
        "map_sparsity": 0.9,
        "title": "A title",
    }
    return figures.accuracy_figure(**{**arguments, **changes})


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


def test_density_of_every_layer():
    one, two = result(), result(seed=3)
    axes = figures.density_figure({"one": one, "two": two}).axes[0]
    drawn = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    for label, shown in (("one", one), ("two", two)):
        densities = [mask.mean() for mask in shown.masks.values()]
        overall = f"{100 * shown.kept / shown.weights:.4g} %"
        np.testing.assert_allclose(drawn[f"{label}, {overall} of all"], np.c_[densities, [0, 1]])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["first/kernel", "second/kernel"]


def test_an_empty_layer_has_no_density():
    one = result()
    masks = {**one.masks, "net/first/kernel": np.zeros((40, 30), bool)}
    one = replace(one, masks=PackedMasks(masks))
    drawing = figures.density_figure({"one": one})
    shown = texts(drawing)
    assert "none" in shown
    assert "0 %" in shown


def test_channels_are_drawn_by_their_kernels():
    shapes = {"net/first/kernel": (9, 8), "net/first/bias": (8,)}
    settings = {"method": "snip", "structure": "channel"}
    drawing = figures.density_figure({"one": result(shapes=shapes, settings=settings)})
    assert [tick.get_text() for tick in drawing.axes[0].get_yticklabels()] == ["kernel"]


def _histograms(drawing):
    """Heights of the histograms from the bottom line of their row, in the order drawn."""
    axes = drawing.axes[0]
    return [patch.get_data() for patch in axes.patches if hasattr(patch, "get_data")]


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_histograms_hold_every_score(scope):
    one = result(settings={"method": "snip", "scope": scope})
    drawing = figures.scores_figure(one, one.masks, "a title")
    axes = drawing.axes[0]
    rows = [tick.get_text() for tick in axes.get_yticklabels()]
    assert rows == ["all"] * (scope == "global") + ["first/kernel", "second/kernel"]
    arrays = [values.ravel() / math.log(10) for values in one.scores.values()]
    kept = [mask.ravel() for mask in one.masks.values()]
    if scope == "global":
        arrays.insert(0, np.concatenate(arrays))
        kept.insert(0, np.concatenate(kept))
    drawn = _histograms(drawing)
    assert len(drawn) == 2 * len(rows)
    for row, (values, keep) in enumerate(zip(arrays, kept, strict=True)):
        total, part = drawn[2 * row : 2 * row + 2]
        counts, _ = np.histogram(values, total.edges)
        scale = 0.85 / counts.max()
        np.testing.assert_allclose(row - np.asarray(total.values), scale * counts, atol=1e-12)
        # Only the least hundredth may lie left of the axis.
        assert counts.sum() >= 0.98 * values.size
        counts, _ = np.histogram(values[keep], total.edges)
        np.testing.assert_allclose(row - np.asarray(part.values), scale * counts, atol=1e-12)
        assert counts.sum() == keep.sum(), "no kept score is left out"
    lines = [line.get_xdata()[0] for line in axes.get_lines() if len(line.get_xdata()) == 2]
    thresholds = {
        float(values[~keep].max()) for values, keep in zip(arrays[-2:], kept[-2:], strict=True)
    }
    expected = [max(thresholds)] if scope == "global" else sorted(thresholds)
    shown = sorted(x for x in lines if x not in (0, 1))
    np.testing.assert_allclose(shown, expected, rtol=1e-6)


def test_signed_scores_have_an_axis_of_both_signs():
    one = result()
    signed = {path: np.sinh(values + 9).astype("f") for path, values in one.scores.items()}
    one = result(scores=signed)
    axes = figures.scores_figure(one, one.masks, "signed", signed=True).axes[0]
    median = np.median(np.abs(np.concatenate([values.ravel() for values in signed.values()])))
    ticks = {
        tick.get_text(): position
        for tick, position in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)
    }
    assert {"-100", "-10", "0", "10", "100"} <= ticks.keys()
    for text_, position in ticks.items():
        assert position == pytest.approx(np.arcsinh(float(text_) / median))
    threshold = max(values[~one.masks[path]].max() for path, values in signed.items())
    drawn = [line.get_xdata()[0] for line in axes.get_lines() if line.get_linewidth() == 1.4]
    assert drawn == [pytest.approx(np.arcsinh(threshold / median), rel=1e-6)]


def test_a_threshold_among_the_least_scores_is_left_of_the_axis():
    one = result()
    kept = {path: values > values.min() for path, values in one.scores.items()}
    axes = figures.scores_figure(one, kept, "nearly all kept").axes[0]
    assert not [line for line in axes.get_lines() if line.get_linewidth() == 1.4]
    total = _histograms(axes.figure)[0]
    assert total.edges[0] == axes.get_xlim()[0]


@pytest.mark.parametrize("low", [-np.inf, 0.0])
def test_scores_without_a_spread(low, tmp_path):
    one = result()
    for values in one.scores.values():
        values[:] = low
    drawing = figures.scores_figure(one, one.masks, "equal")
    drawing.savefig(tmp_path / "figure.png")
    assert ("100 % are zero" in texts(drawing)) == np.isneginf(low)


def test_nothing_pruned_has_no_threshold(tmp_path):
    one = result()
    kept = {path: np.ones_like(mask) for path, mask in one.masks.items()}
    drawing = figures.scores_figure(one, kept, "all kept")
    drawing.savefig(tmp_path / "figure.png")
    lines = [line for line in drawing.axes[0].get_lines() if line.get_color() == "#D55E00"]
    assert [len(line.get_xdata()) for line in lines] == [0], "only the legend's"


@pytest.mark.parametrize(
    ("kernel", "input_shape", "image"),
    [
        ((784, 3), (28, 28, 1), (28, 28)),
        ((784, 3), (28, 28), (28, 28)),
        ((784, 3), (784,), (28, 28)),
        ((784, 3), None, (28, 28)),
        ((192, 3), (8, 8, 3), (8, 8)),
        ((60, 3), (6, 10), (6, 10)),
        ((25, 3), (25,), None),  # as well no image
        ((784, 3), (7, 784), None),
        ((3, 3, 2, 5), (9, 9, 2), (9, 13)),
        ((1, 1, 2, 5), (9, 9, 2), None),
        ((3, 2, 5), (9, 2), None),
    ],
)
def test_first_layers_that_make_an_image(kernel, input_shape, image):
    one = result(shapes={"first/kernel": kernel}, input_shape=input_shape)
    found = figures.first_layer_maps(one)
    assert (found and found[1].shape) == image
    if image:
        mask = one.masks["first/kernel"]
        assert found[1][found[1] >= 0].sum() == mask.sum()
        if mask.ndim == 2:
            pixel = mask.reshape(*image, -1, kernel[-1])[2, 1]
            assert found[1][2, 1] == pixel.sum()
        else:
            np.testing.assert_array_equal(found[1][5:8, 1:4], mask[..., 3].sum(axis=2))


def test_losses_of_every_step():
    losses = {"one": [2.0, 1.5, 1.0], "two": [1.0] * 50}
    axes = figures.losses_figure(losses).axes[0]
    drawn = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    for label, values in losses.items():
        np.testing.assert_array_equal(drawn[label], values)


def test_names_are_taken_literally_and_fit(tmp_path):
    name = "$a_{" + 5 * " longer and longer"
    one = result(shapes={name: (784, 3), "$": (9, 3)})
    maps = {name: figures.first_layer_maps(one)[1], "other": np.eye(28)}
    for number, drawing in enumerate(
        [
            figures.density_figure({name: one, "other": one}),
            figures.scores_figure(one, one.masks, name),
            figures.first_layer_figure(maps, "kept", name),
            figures.losses_figure({name: one.losses}),
        ]
    ):
        drawing.savefig(tmp_path / f"{number}.png")


def test_agreement_is_written_into_its_cells(tmp_path):
    overlaps = np.array([[1, 0.25], [0.75, 1]])
    ranks = np.array([[1, np.nan], [-0.5, 1]])
    drawing = figures.agreement_figure(["one", "two"], overlaps, ranks)
    drawing.savefig(tmp_path / "figure.png")
    for axes, values in zip(drawing.axes, (overlaps, ranks), strict=True):
        np.testing.assert_array_equal(axes.get_images()[0].get_array().filled(np.nan), values)
    assert {"0.25", "0.75", "-0.50"} <= {*texts(drawing)}
    assert "nan" not in texts(drawing)


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["net/a/kernel", "net/b/kernel"], ["a/kernel", "b/kernel"]),
        (["net/a/kernel", "net/a/bias"], ["kernel", "bias"]),
        (["net/a/kernel"], ["kernel"]),
        (["ab/kernel", "ac/kernel"], ["ab/kernel", "ac/kernel"]),
        (["x", "x" * 50], ["x", "x" * 16 + "…" + "x" * 17]),
        (["$x", "y"], [r"\$x", "y"]),
    ],
)
def test_labels_are_short(paths, labels):
    assert short_labels(paths) == labels


@pytest.mark.parametrize("layers", [1, 53])
def test_labels_of_many_layers_do_not_overlap(layers):
    one = result(shapes={f"net/layer_{number}/kernel": (7, 5) for number in range(layers)})
    for drawing in (
        figures.density_figure({"one": one}),
        figures.scores_figure(one, one.masks, "many"),
    ):
        drawing.canvas.draw()
        boxes = [tick.get_window_extent() for tick in drawing.axes[0].get_yticklabels()]
        tops = sorted((box.y0, box.y1) for box in boxes)
        assert all(low[1] <= high[0] for low, high in pairwise(tops))
