from __future__ import annotations

import json
import runpy
import sys

import keras
import numpy as np
import pytest

import prospr_ops as po
from prospr_ops import cli, data

PRUNE = ["prune", "--model", "lenet_300_100", "--sparsity", "0.9", "--steps", "1", "--seed", "3"]


@pytest.fixture(autouse=True)
def _embedded_sample(monkeypatch):
    monkeypatch.setenv("PROSPR_DATA", str(data._MNIST_SAMPLE))


def failure(capfd, *arguments) -> str:
    """The one line on stderr of a command that has to fail."""
    assert cli.main([*map(str, arguments)]) == 2
    captured = capfd.readouterr()
    assert captured.err.startswith("prospr: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_info(capfd):
    assert cli.main(["info"]) == 0
    shown = capfd.readouterr().out
    assert po.build_info()["compiler"] in shown
    assert po.build_info()["running"]["keras"] in shown


def test_prune_saves_masks_and_a_record(tmp_path, capfd):
    out = tmp_path / "masks.npz"
    assert cli.main([*PRUNE, "--method", "snip", "--batch-size", "64", "--out", str(out)]) == 0
    masks = po.PruneResult.load(out).masks
    model = po.models.lenet_300_100()
    shapes = {v.path: v.shape for v in model.trainable_variables if v.path.endswith("kernel")}
    assert {path: mask.shape for path, mask in masks.items()} == shapes
    assert all(mask.dtype == np.bool_ for mask in masks.values())
    assert sum(mask.sum() for mask in masks.values()) == 26_620
    po.apply_masks(model, masks)

    record = json.loads(out.with_suffix(".json").read_text())
    assert record["kept"] == {path: mask.sum() for path, mask in masks.items()}
    assert record["settings"]["method"] == "snip"
    assert record["settings"]["batch_size"] == 64
    assert record["settings"]["seed"] == 3
    assert record["weights"] == 266_200
    assert len(record["losses"]) == 1
    assert str(data._MNIST_SAMPLE) in record["data"]
    shown = capfd.readouterr().out
    assert "26,620" in shown
    assert "masks.json" in shown


def test_prune_repeats(tmp_path):
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for file in files:
        assert cli.main([*PRUNE, "--out", str(file)]) == 0
    first, second = (po.PruneResult.load(file).masks for file in files)
    assert all(np.array_equal(first[path], second[path]) for path in first)


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_prune_overwrites_only_by_force(suffix, tmp_path, capfd):
    out = tmp_path / "masks.npz"
    arguments = [*PRUNE, "--method", "magnitude", "--out", str(out)]
    out.with_suffix(suffix).write_text("precious")
    assert "--force" in failure(capfd, *arguments)
    assert out.with_suffix(suffix).read_text() == "precious"
    assert cli.main([*arguments, "--force"]) == 0
    assert po.PruneResult.load(out).masks["lenet_300_100/logits/kernel"].shape == (100, 10)
    assert json.loads(out.with_suffix(".json").read_text())["settings"]["method"] == "magnitude"


def test_prune_keeps_some_of_every_layer(tmp_path):
    out = tmp_path / "masks.npz"
    arguments = [*PRUNE, "--method", "magnitude", "--sparsity", "0.98", "--min-keep", "7"]
    assert cli.main([*arguments, "--out", str(out)]) == 0
    assert po.PruneResult.load(out).masks["lenet_300_100/hidden_1/kernel"].sum() == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sparsity", "1"], "sparsity"),
        (["--sparsity", "nan"], "sparsity"),
        (["--method", "guess"], "'guess'"),
        (["--curvature", "guess"], "'guess'"),
        (["--scope", "guess"], "'guess'"),
        (["--min-keep", "-1"], "min_keep"),
        (["--steps", "-1"], "steps"),
        (["--learning-rate", "nan"], "learning_rate"),
        (["--batch-size", "0"], "batch_size"),
        (["--learning-rate", "1e30", "--steps", "9"], "step"),
        (["--method", "magnitude", "--sparsity", "0.98"], "hidden_1"),
    ],
)
def test_bad_option_of_prune_is_one_line(arguments, message, tmp_path, capfd):
    out = tmp_path / "masks.npz"
    assert message in failure(capfd, *PRUNE, *arguments, "--out", out)
    assert not out.exists()


def test_bad_output_of_prune_is_one_line(tmp_path, capfd):
    assert ".npz" in failure(capfd, *PRUNE, "--out", tmp_path / "masks.txt")
    assert "no folder" in failure(capfd, *PRUNE, "--out", tmp_path / "absent" / "masks.npz")


def test_export_reports_sizes(tmp_path, capfd):
    model = keras.Sequential([keras.Input((50,)), keras.layers.Dense(40)])
    po.prune(model, None, sparsity=0.9, method="magnitude", verbose=0)
    saved, out = tmp_path / "model.keras", tmp_path / "plain.keras"
    model.save(saved)
    arguments = ["export", "--model", saved, "--format", "keras", "--out", out]
    assert cli.main([*map(str, arguments)]) == 0
    shown = capfd.readouterr().out
    assert f"{out.stat().st_size:,} bytes" in shown
    assert "compressed" in shown
    assert "200 (9.804 %)" in shown
    assert "--force" in failure(capfd, *arguments)
    assert cli.main([*map(str, arguments), "--force"]) == 0
    assert "no folder" in failure(capfd, *arguments[:-1], tmp_path / "absent" / "plain.keras")
    assert "'guess'" in failure(capfd, *arguments[:4], "guess", "--out", tmp_path / "x")
    assert "absent.keras" in failure(
        capfd, "export", "--model", "absent.keras", *arguments[3:-1], "x"
    )


def test_report_of_results(tmp_path, capfd):
    files = []
    for method in ("magnitude", "random"):
        files.append(tmp_path / f"{method}.npz")
        arguments = [*PRUNE, "--method", method, "--out", str(files[-1])]
        assert cli.main(arguments) == 0
    out, png = tmp_path / "report.html", tmp_path / "png"
    arguments = ["report", *files, "--out", out]
    capfd.readouterr()
    assert cli.main([*map(str, arguments)]) == 0
    assert f"Wrote {out}.\n" in capfd.readouterr().out
    before = out.read_bytes()
    assert b"Spearman" in before

    assert "--force" in failure(capfd, *arguments)
    assert cli.main([*map(str, arguments), "--png", str(png), "--force"]) == 0
    assert out.read_bytes() == before
    assert (png / "agreement.png").is_file()
    other = tmp_path / "other.html"
    assert "png exists" in failure(capfd, *arguments[:-1], other, "--png", png)
    assert not other.exists()


def test_bad_arguments_of_report_are_one_line(tmp_path, capfd):
    out = tmp_path / "report.html"
    foreign = tmp_path / "foreign.npz"
    foreign.write_text("precious")
    assert "absent.npz" in failure(capfd, "report", tmp_path / "absent.npz", "--out", out)
    assert "foreign.npz is no file of masks" in failure(capfd, "report", foreign, "--out", out)
    assert "no folder" in failure(capfd, "report", foreign, "--out", tmp_path / "absent" / "x")
    assert [file.name for file in tmp_path.iterdir()] == ["foreign.npz"]


def test_bad_data_folder_is_one_line(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PROSPR_DATA", str(tmp_path / "absent"))
    assert "absent" in failure(capfd, *PRUNE, "--out", tmp_path / "masks.npz")
    assert "absent" in failure(capfd, "demo", "--out", tmp_path)


def test_demo_passes_its_options_on(monkeypatch, tmp_path):
    from prospr_ops import demo

    calls = []
    monkeypatch.setattr(demo, "demo", lambda **options: calls.append(options))
    assert cli.main(["demo"]) == 0
    options = "--methods snip random --sparsities 0.5 0.6 --epochs 2 --steps 4 --seed 1 --quick"
    assert cli.main(["demo", *options.split(), "--out", str(tmp_path)]) == 0
    assert calls == [
        {},
        {
            "methods": ["snip", "random"],
            "sparsities": [0.5, 0.6],
            "epochs": 2,
            "steps": 4,
            "seed": 1,
            "quick": True,
            "out": tmp_path,
        },
    ]


@pytest.mark.parametrize("arguments", [[], ["guess"], ["prune"], ["demo", "--epochs", "many"]])
def test_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: prospr" in capsys.readouterr().err


def test_help_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prospr", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("prospr_ops", run_name="__main__")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "examples:" in shown
    assert all(command in shown for command in ("demo", "prune", "export", "report", "info"))


def test_warnings_are_lines(monkeypatch, capfd):
    import warnings

    monkeypatch.setattr(cli, "_info", lambda: warnings.warn("mind [this]", stacklevel=1))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main(["info"]) == 0
    assert "note: mind [this]\n" in capfd.readouterr().err
