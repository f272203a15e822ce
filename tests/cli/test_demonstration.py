from __future__ import annotations

import io
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from rich.console import Console

import prospr_ops as po
from prospr_ops.cli import demonstration as demo
from prospr_ops.cli.comparison import Contender
from prospr_ops.data import datasets as data

OPTIONS = {"methods": ["diagonal@2", "magnitude"], "sparsities": [0.9, 0.98], "quick": True}


@pytest.fixture(autouse=True)
def _embedded_sample(monkeypatch):
    monkeypatch.setenv("PROSPR_DATA", str(data._MNIST_SAMPLE))


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=80)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The runs, the folder and the text of one demonstration."""
    out = tmp_path_factory.mktemp("demo") / "results"
    console = Console(file=io.StringIO(), width=80)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROSPR_DATA", str(data._MNIST_SAMPLE))
        runs = demo.run_demo(**OPTIONS, out=out, console=console)
    return runs, out, console.file.getvalue()


def test_results_are_not_overwritten_unasked(finished):
    _, out, _ = finished
    before = (out / "demo.json").read_bytes()
    with pytest.raises(FileExistsError, match=r"demo\.json exists; add --force"):
        demo.run_demo(**OPTIONS, out=out)
    assert (out / "demo.json").read_bytes() == before


def test_runs(finished):
    runs, _, _ = finished
    assert [(run.method, run.sparsity) for run in runs] == [
        ("dense", 0.0),
        ("diagonal:3@2", 0.9),
        ("magnitude", 0.9),
        ("diagonal:3@2", 0.98),
        ("magnitude", 0.98),
    ]
    assert [sum(run.kept.values()) for run in runs] == [266_200, 26_620, 26_620, 5324, 5324]
    assert runs[0].accuracy > 0.5
    assert runs[1].accuracy > 0.5
    assert 0 in runs[-1].kept.values(), "magnitude empties the first layer here"
    assert runs[-1].accuracy < 0.2


def test_table(finished):
    runs, _, text = finished
    assert "…" not in text, "the table must fit 80 columns"
    rows = [" ".join(line.split()) for line in text.splitlines()]
    for run in runs[1:]:
        label = {"diagonal:3@2": "ProsPr-diagonal, 2 rounds", "magnitude": "Magnitude"}[run.method]
        kept = " ".join(f"{count:,}" for count in run.kept.values())
        beginning = f"{label} {100 * run.sparsity:g} % {100 * run.accuracy:.2f} % {kept} "
        assert any(row.startswith(beginning) for row in rows), beginning
    assert "Prospect steps: 3." in text
    assert str(data._MNIST_SAMPLE.name) in text, "the source of the data must be shown"


def test_methods_are_told_apart_by_their_steps():
    def run(method: str) -> demo.Run:
        return demo.Run(method, 0.9, 0.5, {"net/first/kernel": 10}, 0.1, 0.1)

    console = Console(file=io.StringIO(), width=80)
    console.print(demo.runs_table([run("exact:3"), run("exact:10@5"), run("snip")]))
    shown = console.file.getvalue()
    for label in ("ProsPr-exact, M = 3 ", "ProsPr-exact, M = 10, 5 rounds ", "SNIP "):
        assert f"\n{label}" in shown
    assert "Prospect steps" not in shown


def test_a_demonstration_does_not_warn(tmp_path):
    options = "--quick --methods magnitude random snip --sparsities 0.5 0.6 0.7 --out"
    done = subprocess.run(
        [sys.executable, "-m", "prospr_ops", "demo", *options.split(), str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""


def test_a_method_is_shown_once(tmp_path, console):
    twice = {
        "methods": ["random", "random@1", "exact", "exact:3"],
        "sparsities": np.array([0.5, 0.5], np.float32),
    }
    runs = demo.run_demo(
        **twice, quick=True, epochs=np.int64(1), out=str(tmp_path), console=console
    )
    assert [(run.method, run.sparsity) for run in runs[1:]] == [("random", 0.5), ("exact:3", 0.5)]


def test_files(finished):
    runs, out, _ = finished
    record = json.loads((out / "demo.json").read_text())
    assert [demo.Run(**run) for run in record["runs"]] == runs
    assert record["data"] == f"files in {data._MNIST_SAMPLE}"
    assert record["training"]["epochs"] == 1
    assert record["images"] == {"train": 2000, "test": 2000}
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_masks_are_those_of_prune():
    digits = demo._first(data.mnist(), 512)
    network = demo._pruned(Contender.parse("snip@3+revive"), 0.9, digits, seed=3)
    keras.utils.set_random_seed(3)
    result = po.prune(
        po.models.lenet_300_100(), (digits.x_train, digits.y_train), sparsity=0.9, method="snip",
        rounds=3, revive=True, batch_size=512, loss=demo._loss(), seed=3, verbose=0,
    )  # fmt: skip
    for path, mask in result.masks.items():
        np.testing.assert_array_equal(network.masks[path], mask)


def test_networks_start_alike():
    digits = demo._first(data.mnist(), 512)
    dense = demo._pruned(Contender("dense"), 0.0, digits, seed=3)
    initial = {weight.path: weight.numpy() for weight in dense.model.weights}
    for text in ("diagonal:1", "random"):
        network = demo._pruned(Contender.parse(text), 0.9, digits, seed=3)
        for weight in network.model.weights:
            mask = network.masks.get(weight.path, True)
            np.testing.assert_array_equal(weight, np.where(mask, initial[weight.path], 0))


def test_training_repeats_and_keeps_masks():
    digits = demo._first(data.mnist(), 512)
    epochs = []
    networks = [demo._pruned(Contender("snip"), 0.9, digits, seed=3) for _ in range(2)]
    accuracies = [
        demo._train(network.model, digits, 2, 3, lambda: epochs.append(1))[0]
        for network in networks
    ]
    assert len(epochs) == 4
    assert accuracies[0] == accuracies[1]
    kernels = {weight.path: weight.numpy() for weight in networks[0].model.weights}
    for path, mask in networks[0].masks.items():
        assert not kernels[path][~mask].any()


def test_pixel_map():
    mask = np.zeros((784, 5), bool)
    mask[29, :3] = True
    expected = np.zeros((28, 28))
    expected[1, 1] = 3
    np.testing.assert_array_equal(demo._pixel_map({"first": mask, "second": mask[:1]}), expected)


def test_without_matplotlib_there_is_still_a_record(monkeypatch, tmp_path, console):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    (tmp_path / "demo.png").write_bytes(b"of an earlier run")
    options = {"methods": ["random"], "sparsities": [0.5], "quick": True, "force": True}
    demo.run_demo(**options, out=tmp_path, console=console)
    assert (tmp_path / "demo.json").exists()
    assert not (tmp_path / "demo.png").exists()
    assert "pip install 'prospr_ops[plots]'" in console.file.getvalue()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["diagonal", "guess"]}, "guess"),
        ({"methods": ["dense"]}, "dense"),
        ({"methods": ["shuffled:snip"]}, "prospr compare"),
        ({"methods": ["gradual"]}, "prospr compare"),
        ({"methods": ["snip@0"]}, "exact:3@5"),
        ({"methods": ["exact:"]}, "exact:3@5"),
        ({"sparsities": [0.9, 1.5]}, "1.5"),
        ({"epochs": 0}, "epochs"),
        ({"methods": []}, "methods"),
        ({"sparsities": []}, "sparsities"),
        ({"sparsities": [0.9, float("nan")]}, "nan"),
    ],
)
def test_wrong_options_show_before_training(changes, message, monkeypatch, tmp_path, console):
    monkeypatch.setattr(demo, "_train", lambda *_, **__: pytest.fail("training had begun"))
    out = tmp_path / "results"
    with pytest.raises(ValueError, match=message):
        demo.run_demo(**{**OPTIONS, **changes}, out=out, console=console)
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": "exact"}, "not str"),
        ({"methods": [None]}, "NoneType"),
        ({"sparsities": [False]}, "bool"),
        ({"epochs": 1.5}, "epochs"),
        ({"seed": "0"}, "seed"),
    ],
)
def test_options_of_wrong_types_show_at_once(changes, message, tmp_path, console):
    out = tmp_path / "results"
    with pytest.raises(TypeError, match=message):
        demo.run_demo(**{**OPTIONS, **changes}, out=out, console=console)
    assert not out.exists()
