"""What tools/gpu_bundle.py takes to a machine with a GPU, in the emulation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
REAL = {"float32", "float64"}
ALL = REAL | {"float16", "bfloat16"}
SOURCES = [f"csrc/cuda/{file.name}" for file in sorted((ROOT / "csrc/cuda").glob("*.cu"))]


def _python(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Runs code beside the driver, whose modules have names of others."""
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=folder / "tools/gpu", capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    if shutil.which(os.environ.get("CXX") or "g++") is None:
        pytest.skip("no C++ compiler to compile the CUDA kernels for the host with")
    folder = tmp_path_factory.mktemp("gpu") / "bundle"
    command = [sys.executable, ROOT / "tools/gpu_bundle.py", "--out", folder]
    subprocess.run(command, check=True)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "exists already" in again.stderr
    return folder


def _run(bundle: Path, out: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], dict]:
    command = [bundle / "run.sh", "--emulate", "--out", out, *options]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip
    return result, json.loads((out / "results.json").read_text())


def test_every_step_in_the_emulation(bundle, tmp_path):
    assert all((bundle / source).exists() for source in SOURCES)
    size = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    assert size < 60 << 20

    result, found = _run(bundle, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    statuses = {step["name"]: step["status"] for step in found["steps"]}
    assert statuses.pop("compute-sanitizer") == "skipped"
    assert set(statuses.values()) == {"passed"}
    assert {"test gamma", "test select", "test curvature", "test launch"} <= statuses.keys()

    checked: dict[str, set[str]] = {}
    for check in found["checks"]:
        assert check["status"] == "passed", check
        checked.setdefault(check["kernel"].split(",")[0], set()).add(check["dtype"])
    assert checked == {
        **dict.fromkeys(("GammaUpdate", "GammaStep", "GammaMomentumStep"), REAL),
        "PooledConvInputGradient": REAL,
        **dict.fromkeys(("BatchMoments", "BatchNorm", "BatchNormGradient"), REAL),
        **dict.fromkeys(("BatchNormSecondGradient", "MaxPool", "MaxUnpool", "GatherPooled"), REAL),
        **dict.fromkeys(("DenseCurvature", "ConvCurvature", "PooledConvCurvature"), ALL),
        **dict.fromkeys(("EmbeddingCurvature", "Select"), ALL),
    }
    assert checked.keys() <= {timing["kernel"] for timing in found["timings"]}
    assert {c["work"].split(",")[0] for c in found["comparisons"]} >= {"GammaStep", "Select"} or {
        c["note"] for c in found["comparisons"]
    } == {"PyTorch is not installed"}
    shown = (tmp_path / "results.md").read_text()
    assert "times mean nothing" in shown
    assert "| GammaStep | float32 |" in shown

    # One byte of the second period, which begins within an array.
    code = f"""
from pathlib import Path
import numpy as np
from kernels import Kernels
kernels = Kernels(Path({str(tmp_path / "build/libkernels.so")!r}))
values = np.arange(1000, dtype=np.int16)
pattern = values[:300].view(np.uint8)
array = kernels.array(np.zeros(1000, np.int16))
array.write(values[:300], repeat=True)
same = array.differences(pattern)
wrong = array.read(np.int16)
wrong[301] ^= 1
array.write(wrong)
print(same, array.differences(pattern), array.differences(pattern, 600), wrong[999])
"""
    assert _python(bundle, code).stdout.split() == ["0", "1", "1", "99"]


def test_what_there_is_no_time_for_is_named(bundle, tmp_path):
    result, found = _run(bundle, tmp_path, "--deadline", "0")
    assert result.returncode == 0
    assert {step["status"] for step in found["steps"]} == {"left"}
    assert "left to do: build, " in result.stdout
    assert "measure large" in result.stdout


def test_steps_go_on_after_a_failure(tmp_path):
    code = f"""
import sys
from pathlib import Path
from driver import Session
session = Session(Path({str(tmp_path)!r}), 60, {{
    "card": "NVIDIA H100", "date": "", "commit": "", "compiler": "", "emulated": False}})
python = [sys.executable, "-c"]
check = '{{"result": "check", "kernel": "K", "dtype": "float32", "case": "c", "status": "%s", "note": "n"}}'
timing = ('{{"result": "timing", "kernel": "K", "dtype": "float32", "case": "c", "milliseconds": 2.0, '
          '"bytes": 3.35e9, "flop": 0}}')
session.step("crashes", [*python, "print('FAILED: this'); raise SystemExit(3)"], limit=30)
session.step("hangs", ["sleep", "60"], limit=0.2)
session.step("is wrong", ["echo", check % "failed"], limit=30)
session.step("finds", ["false"], limit=30, wanted=1)
session.step("finds nothing", ["true"], limit=30, wanted=1)
session.step("is right", ["echo", check % "passed" + "\\n" + timing], limit=30)
session.skip("cannot", "no such tool")
print(session.of("failed", "timed out"))
"""
    result = _python(ROOT, code)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert {step["name"]: step["status"] for step in found["steps"]} == {
        "crashes": "failed",
        "hangs": "timed out",
        "is wrong": "failed",
        "finds": "passed",
        "finds nothing": "failed",
        "is right": "passed",
        "cannot": "skipped",
    }
    assert found["steps"][0]["note"] == "exit 3; FAILED: this"
    (timing,) = found["timings"]
    assert timing["bound_ms"] == pytest.approx(1)  # 3.35 GB at 3.35 TB/s
    shown = (tmp_path / "results.md").read_text()
    assert "| K | float32 | c | 2 ms | 1,675 GB/s | 1 ms | 50% |" in shown
    assert "* K, float32, c: failed, n" in shown


def test_the_page_shows_what_a_card_gave_or_that_none_did(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT)
    from tools import docs_hooks

    page = SimpleNamespace(file=SimpleNamespace(src_uri="cuda.md"))
    monkeypatch.setattr(docs_hooks, "ROOT", tmp_path)
    shown = docs_hooks.on_page_markdown(docs_hooks.MARKER, page=page)
    assert shown == "Not measured: no kernel has run on a card yet."

    record = {
        "environment": {"card": "A card", "date": "a day", "commit": "abc", "compiler": "nvcc",
                        "emulated": False},
        "steps": [], "checks": [], "timings": [],
        "comparisons": [{"work": "Select", "case": "10", "ours_ms": 2.0, "other": "sort",
                         "other_ms": 3.0, "bound_ms": 1.5, "note": ""}],
    }  # fmt: skip
    (tmp_path / "docs/benchmarks").mkdir(parents=True)
    (tmp_path / "docs/benchmarks/cuda.json").write_text(json.dumps(record))
    shown = docs_hooks.on_page_markdown(docs_hooks.MARKER, page=page)
    assert shown.startswith("A card, a day, commit abc, nvcc.")
    assert "| Select | 10 | 2 ms | 75% | sort | 3 ms | 1.50 |" in shown
