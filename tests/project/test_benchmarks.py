"""The benchmarks run, on next to nothing: their numbers are worth nothing here."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest

import prospr_ops as po
from prospr_ops.data import datasets as data

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmarks(monkeypatch):
    """The package, each of its modules on tiny cases, in this process and without waiting."""
    monkeypatch.setenv("PROSPR_DATA", str(data._MNIST_SAMPLE))
    monkeypatch.syspath_prepend(ROOT)
    # Where an installed copy is tested, it stays the one that is imported.
    monkeypatch.setattr(sys, "path", [*sys.path[1:], sys.path[0]])

    def module(name):
        return importlib.import_module(f"benchmarks.{name}")

    class Here:
        def apply(self, function, arguments):
            return function(*arguments)

    @contextmanager
    def here():
        yield Here()

    harness = module("harness")

    def once(sides, **_):
        return harness_seconds(sides, seconds=0, warmup=0, rounds=1)

    def tiny():
        return keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(5, activation="relu"), keras.layers.Dense(3)]
        )

    harness_seconds = harness.interleaved_seconds
    for name in module("__main__").NAMES:
        for attribute, replacement in (("interleaved_seconds", once), ("fresh_processes", here)):
            if hasattr(module(name), attribute):
                monkeypatch.setattr(module(name), attribute, replacement)
    for name, attribute, value in (
        ("gamma", "SIZES", {"one": 1000, "two": 2000}),
        ("gamma", "_triad_gigabytes_per_second", lambda _: 1.0),
        ("select", "NETWORKS", {"one": (300, 50), "two": (80, 70)}),
        ("select", "LARGEST", {"top_k": 200}),
        ("shrink", "NETWORKS", {"tiny": (tiny, 4)}),
        ("shrink", "SHORT", ("tiny",)),
        ("sparse_networks", "NETWORKS", {"tiny": (tiny, 4)}),
        ("sparse_networks", "BATCHES", (1,)),
        ("sparse", "SHORT_NETWORKS", ("tiny",)),
        ("sparse_layers", "LAYERS", ((8, 6, 4), (8, 8, 0))),
        ("sparse_layers", "interleaved_seconds", once),
        ("sparse_layers", "BOUNDED", 64),
        ("curvature", "MATRIX", 8),
        ("curvature", "NETWORKS", {"tiny": module("curvature").Network(tiny, 4, 2, in_torch=False)}),
        ("first_call", "NETWORKS", {"tiny": module("first_call").Network(tiny, 4)}),
        ("first_call", "SHORT", (("tiny",), module("first_call").SIDES)),
        ("meta_gradient", "NETWORKS", {"tiny": module("meta_gradient").Network(tiny, 4, (3, 4), (3,))}),
        ("agreement", "SHORT", ((0.1,), (1,), (0,))),
    ):  # fmt: skip
        monkeypatch.setattr(module(name), attribute, value)
    return module


def test_all_of_them_and_what_changed_since(benchmarks, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there is no reference
    main, names = benchmarks("__main__").main, benchmarks("__main__").NAMES
    assert main(["--out", "first"]) == 0
    (first,) = Path("first").glob("20*.json")
    record = json.loads(first.read_text())
    rows = record["rows"]
    assert list(record["minutes"]) == list(dict.fromkeys(row["benchmark"] for row in rows))
    assert list(record["minutes"]) == list(names)
    assert all(row["ratio"] > 0 for row in rows)
    cases = {(row["case"], row["alternative"]) for row in rows}
    assert ("tiny, batch 4, one Hu", "forward over reverse") in cases
    assert ("150 scores", "tf.math.top_k") in cases
    assert ("350 scores", "tf.math.top_k") not in cases
    assert first.with_suffix(".png").exists()

    rows[0]["theirs"] *= 1000
    record["environment"]["threads"] = 64
    first.write_text(json.dumps(record))
    capsys.readouterr()
    assert main(["gamma", "--out", "second", "--reference", str(first)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "threads: 64 →" in printed
    assert f"gamma, 1,000 weights, {rows[0]['alternative']}:" in printed
    assert "not in this run" not in printed


def test_sides_that_disagree_are_told_and_stop_nothing_else(benchmarks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmarks("gamma"), "_difference", lambda *_: 0.5)
    assert benchmarks("__main__").main(["gamma", "shrink", "--out", "results"]) == 1
    (file,) = Path("results").glob("20*.json")
    rows = json.loads(file.read_text())["rows"]
    assert [(row["benchmark"], row["agrees"] == "NO") for row in rows] == [
        ("gamma", True),
        ("shrink", False),
    ]
    assert "disagree by 0.5" in rows[0]["case"]


def test_rows_are_chosen_by_words(benchmarks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert benchmarks("__main__").main(["first_call", "--only", "TINY", "first", "--out", "."]) == 0
    rows = json.loads(Path("first_call.json").read_text())["rows"]
    assert [row["side"] for row in rows] == ["TensorFlow's first gradient", "first_order"]


def test_finished_rows_are_kept_and_tabled(benchmarks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main, module = benchmarks("__main__").main, benchmarks("first_call")
    assert main(["first_call", "--only", "snip", "--out", "."]) == 0
    file = Path("first_call.json")
    record = json.loads(file.read_text())
    record["rows"][0]["seconds"] = 1234.5
    file.write_text(json.dumps(record))
    assert main(["first_call", "--only", "tiny", "first", "--out", ".", "--resume"]) == 0
    record = json.loads(file.read_text())
    sides = [row["side"] for row in record["rows"]]
    assert sides == ["TensorFlow's first gradient", "first_order", "snip"]
    unit = record["rows"][0]
    assert 0 < unit["tracing"] < unit["seconds"]
    assert unit["later"] > 0
    assert "| `snip` | 1234.50 |" in module.headline(record)
    assert any(row.startswith("| tiny, 4 | snip | 1234.50 |") for row in module.markdown(record))
    # Of another machine nothing is kept.
    record["environment"]["threads"] = 64
    file.write_text(json.dumps(record))
    assert main(["first_call", "--only", "first_order", "--out", ".", "--resume"]) == 0
    assert [row["side"] for row in json.loads(file.read_text())["rows"]] == ["first_order"]


@pytest.mark.skipif(find_spec("torchvision") is None, reason="needs PyTorch and torchvision")
def test_networks_in_pytorch_have_as_many_parameters(benchmarks):
    count = (
        "from benchmarks.pytorch_networks import *\n"
        "for name in NETWORKS: print(name, sum(w.numel() for w in network(name).parameters()))"
    )
    command = [sys.executable, "-c", count]  # without TensorFlow, beside which it may crash
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    found = {name: int(number) for name, number in map(str.split, text.splitlines())}
    networks = benchmarks("first_call")
    builds = {"transformer": networks._transformer}
    builds |= {name: getattr(po.models, name) for name in ("lenet5", "resnet20", "vgg16")}
    assert found == {
        name: sum(np.prod(weight.shape) for weight in build().trainable_variables)
        for name, build in builds.items()
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["speed"], "no benchmark speed; there are gamma"),
        (["--reference", "other.json"], "other.json is no record of"),
        (["--reference", "absent.json"], "absent.json"),
        (["--only", "tiny"], "--only chooses among the rows of first_call"),
        (["gamma", "--resume"], "--resume keeps the rows of first_call"),
    ],
)
def test_wrong_arguments(options, message, benchmarks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text('{"rows": [{}]}')
    with pytest.raises(SystemExit):
        benchmarks("__main__").main(options)
    assert message in capsys.readouterr().err
