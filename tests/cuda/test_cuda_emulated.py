"""The CUDA kernels on a machine without a GPU: the same sources, compiled for the host.

tests/cuda/emulation/cuda_runtime.h stands in for the CUDA runtime; the kernels are compared with the
CPU's once under ThreadSanitizer and once under AddressSanitizer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = os.environ.get("CXX") or "g++"
SANITIZERS = ("thread", "address")
# One thread of the host for each of a block's: aliasing through packs of 16 bytes is CUDA's custom.
FLAGS = [
    "-std=c++17",
    "-O1",
    "-g1",
    "-pthread",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-Wno-psabi",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-DPROSPR_ISA=baseline",
]
INCLUDES = [f"-I{ROOT / folder}" for folder in ("csrc", "tests/cuda", "tests/cuda/emulation")]


def _compile(arguments: list[str | Path]) -> None:
    command = [COMPILER, *FLAGS, *INCLUDES, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="session")
def programs(tmp_path_factory) -> dict[str, Path]:
    """The emulated tests, by sanitizer."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no C++ compiler {COMPILER} to compile the CUDA kernels for the host with")
    folder = tmp_path_factory.mktemp("emulated")
    (folder / "main.cc").write_text("int main() {}\n")
    for sanitizer in SANITIZERS:
        probe = [COMPILER, f"-fsanitize={sanitizer}", folder / "main.cc", "-o", folder / "probe"]
        if (
            subprocess.run(probe, capture_output=True, check=False).returncode
            or subprocess.run([folder / "probe"], capture_output=True, check=False).returncode
        ):
            pytest.skip(f"{COMPILER} has no working -fsanitize={sanitizer}")

    # The CPU's kernels are what is compared with; they need no sanitizer.
    checked = [*(ROOT / "csrc/kernels").glob("*.cc"), *(ROOT / "csrc/cpu").glob("*.cc")]
    sources = {"none": sorted(checked)}
    kernels = [*(ROOT / "csrc/cuda").glob("*.cu"), *(ROOT / "tests/cuda").glob("*.cc")]
    objects: dict[str, list[Path]] = {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        compiled = []
        for sanitizer, files in (sources | dict.fromkeys(SANITIZERS, kernels)).items():
            (folder / sanitizer).mkdir()
            sanitize = [] if sanitizer == "none" else [f"-fsanitize={sanitizer}"]
            # A family has the same file name in several folders.
            objects[sanitizer] = [
                folder / sanitizer / f"{file.parent.name}-{file.name}.o" for file in files
            ]
            for file, target in zip(files, objects[sanitizer], strict=True):
                arguments = [*sanitize, "-x", "c++", "-c", file, "-o", target]
                compiled.append(pool.submit(_compile, arguments))
        for future in compiled:
            future.result()
    programs = {sanitizer: folder / f"{sanitizer}-tests" for sanitizer in SANITIZERS}
    for sanitizer, program in programs.items():
        linked = [*objects[sanitizer], *objects["none"]]
        _compile([f"-fsanitize={sanitizer}", *linked, "-o", program])
    return programs


def _run(program: Path, test: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, test], capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize(
    "test", ["gamma", "curvature", "input_gradient", "normalisation", "pooling", "select", "launch"]
)
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_kernels_agree_with_the_cpu(programs, sanitizer, test):
    result = _run(programs[sanitizer], test)
    assert result.returncode == 0, result.stderr
    assert not result.stderr


@pytest.mark.parametrize(
    ("sanitizer", "mistake", "report"),
    [("thread", "race", "data race"), ("address", "overrun", "heap-buffer-overflow")],
)
def test_a_planted_mistake_is_found(programs, sanitizer, mistake, report):
    result = _run(programs[sanitizer], mistake)
    assert result.returncode != 0
    assert report in result.stderr
