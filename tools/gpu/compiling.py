"""Builds the tests of tests/cuda and a library of all kernels, for a card or for the emulation.

    python compiling.py OUT ARCHITECTURE     # sm_90, or "emulation"

OUT/kernel-tests is the program of tests/cuda, OUT/libkernels.so what kernels.py loads. What does not
compile is named, and the rest is linked without it. Needs nvcc (not in the emulation) and g++.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EMULATION = "emulation"
HOST = ["-fPIC", "-pthread", "-ffp-contract=off", "-fno-strict-aliasing"]
DEFINES = ["-DPROSPR_ISA=baseline", f"-I{ROOT / 'csrc'}"]


def compilers(architecture: str) -> tuple[list[str], list[str], list[str]]:
    """Commands that compile for the device, compile for the host, and link."""
    host = [os.environ.get("CXX") or "g++", "-std=c++17", *HOST, *DEFINES]
    tests = f"-I{ROOT / 'tests/cuda'}"
    if architecture == EMULATION:
        host.append("-O1")
        runtime = f"-I{ROOT / 'tests/cuda/emulation'}"
        quiet = ["-Wno-unknown-pragmas", "-Wno-psabi", "-x", "c++"]
        return [*host, tests, runtime, *quiet], host, [host[0], "-pthread"]
    nvcc = ["nvcc", f"-arch={architecture}"]
    device = [
        *nvcc, "-std=c++17", "-O3", "-lineinfo", "--expt-relaxed-constexpr", *DEFINES, tests,
        f"-I{ROOT / 'tests/cuda/device'}", f"-Xcompiler={','.join(HOST)}", "-x", "cu",
    ]  # fmt: skip
    return device, [*host, "-O3", "-fno-math-errno", "-fno-trapping-math"], [*nvcc, "-lpthread"]


def unfused() -> set[str]:
    """The CUDA sources that the project compiles without fused multiply-adds."""
    text = (ROOT / "CMakeLists.txt").read_text()
    return {
        name
        for call in re.findall(r"set_source_files_properties\(([^)]*)\)", text)
        if "--fmad=false" in call
        for name in re.findall(r"csrc/cuda/(\w+\.cu)", call)
    }


def run(command: list[str]) -> str:
    """Runs it; what it said if it failed, else nothing."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr if result.returncode else ""


def timed(command: list[str]) -> tuple[str, float]:
    """The same, and how many seconds it took."""
    started = time.monotonic()
    return run(command), time.monotonic() - started


def main() -> int:
    """Compiles in parallel, and links."""
    out, architecture = Path(sys.argv[1]), sys.argv[2]
    out.mkdir(parents=True, exist_ok=True)
    device, host, link = compilers(architecture)
    groups = {
        "kernels": sorted((ROOT / "csrc/cuda").glob("*.cu")),
        "tests": sorted((ROOT / "tests/cuda").glob("*.cc")),
        "library": [ROOT / "tools/gpu/kernels.cc"],
        "host": sorted([*(ROOT / "csrc/cpu").glob("*.cc"), *(ROOT / "csrc/kernels").glob("*.cc")]),
    }
    no_fma = [] if architecture == EMULATION else ["--fmad=false"]
    commands, objects = {}, {}
    for group, sources in groups.items():
        # A family has the same file name in several folders.
        objects[group] = [out / f"{file.parent.name}-{file.name}.o" for file in sources]
        for file, target in zip(sources, objects[group], strict=True):
            compiler = host if group == "host" else device
            extra = no_fma if file.name in unfused() else []
            commands[target] = [*compiler, *extra, "-c", str(file), "-o", str(target)]
    started = time.monotonic()
    failed = False
    # The longest first.
    order = sorted(commands, key=lambda o: commands[o][-3].endswith("conv.cu"), reverse=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = list(pool.map(timed, (commands[o] for o in order)))
        for target, (wrong, _) in zip(order, results, strict=True):
            if wrong:
                failed = True
                print(f"FAILED: {target.stem}\n{wrong}", file=sys.stderr)
    for target, parts, options in (
        ("kernel-tests", ("tests", "kernels", "host"), []),
        ("libkernels.so", ("library", "kernels", "host"), ["-shared"]),
    ):
        found = [str(o) for part in parts for o in objects[part] if o.exists()]
        if wrong := run([*link, *options, *found, "-o", str(out / target)]):
            failed = True
            print(f"FAILED: {target}\n{wrong}", file=sys.stderr)
    seconds, longest = max((taken, o.stem) for o, (_, taken) in zip(order, results, strict=True))
    print(f"{len(commands)} sources in {time.monotonic() - started:.0f} s; the longest, {longest}, "
          f"took {seconds:.0f} s")  # fmt: skip
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
