"""Builds the kernels and _native under sanitizers, and tests that build.

    python tools/sanitize.py [address] [thread]

address is AddressSanitizer and UndefinedBehaviorSanitizer together. Each build goes through the
NumPy-level tests, tests/native, and address through all that fuzzing has left in tests/fuzz/seeds
(tools/fuzz.py). A mistake that is planted must be found, or the rest would prove nothing. Needs GCC,
CMake, Ninja and pybind11; nothing here imports TensorFlow, other than to ask it for its flags.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
SEEDS = ROOT / "tests" / "fuzz" / "seeds"
# GCC's, which must be loaded before Python is.
RUNTIMES = {"address": ["libasan.so", "libubsan.so"], "thread": ["libtsan.so"]}
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",  # Python itself leaks
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}
# What the kernels themselves do with arrays that lie about their size, and that overlap.
MISTAKES = {
    "address": (
        "heap-buffer-overflow",
        "a = np.zeros(4000, np.float32); b = as_strided(a, [4100]); _native.triad(b, b, b, 1.0)",
    ),
    "thread": (
        "data race",
        "a = np.zeros(4001, np.float32); _native.triad(a[1:], a[:-1], a[:-1], 1.0, threads=2)",
    ),
}
REPLAY = """
import ctypes, pathlib, sys
library = ctypes.CDLL(sys.argv[1])
count = 0
for file in sorted(pathlib.Path(sys.argv[2]).glob("*/*")):
    target = f"fuzz_{file.parent.name}"
    if hasattr(library, target):
        data = file.read_bytes()
        print(file, file=sys.stderr)
        getattr(library, target)(data, ctypes.c_size_t(len(data)))
        count += 1
print(count, "seeds of fuzzing")
"""


def build(sanitizer: str, target: str = "all") -> None:
    """Builds `target` with PROSPR_SANITIZE=`sanitizer` in build/`sanitizer`."""
    pybind11 = subprocess.check_output([sys.executable, "-m", "pybind11", "--cmakedir"], text=True)
    configure = {
        "PROSPR_SANITIZE": sanitizer,
        "PROSPR_CUDA": "OFF",
        "CMAKE_BUILD_TYPE": "RelWithDebInfo",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.strip(),
        "SKBUILD_PROJECT_VERSION": "0",
        "SKBUILD_PROJECT_VERSION_FULL": "0",
    }
    command = ["cmake", "-S", ROOT, "-B", BUILD / sanitizer, "-G", "Ninja"]
    definitions = [f"-D{name}={value}" for name, value in configure.items()]
    subprocess.run([*command, *definitions], check=True)
    subprocess.run(["cmake", "--build", BUILD / sanitizer, "--target", target], check=True)


def install(sanitizer: str) -> None:
    """Puts the package together, with the sanitized _native and without the ops."""
    package = BUILD / sanitizer / "package"
    shutil.rmtree(package, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "digits", "*.so")
    shutil.copytree(ROOT / "prospr_ops", package / "prospr_ops", ignore=ignored)
    command = ["cmake", "--install", BUILD / sanitizer, "--prefix", package]
    subprocess.run(command, check=True)


def environment(sanitizer: str) -> dict[str, str]:
    """Of a process that loads what was built under the sanitizer."""
    runtimes = [
        subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip()
        for name in RUNTIMES[sanitizer]
    ]
    return {**os.environ, **OPTIONS, "LD_PRELOAD": " ".join(runtimes)}


def python(sanitizer: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs Python on the installed package; its standard error is kept."""
    path = [str(BUILD / sanitizer / "package"), *sys.path]
    # -S: an editable installation would be found first.
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=BUILD,
        env={**environment(sanitizer), "PYTHONPATH": os.pathsep.join(path)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def check(sanitizer: str) -> bool:
    """Tests the build, and the sanitizer."""
    tests = ROOT / "tests" / "native"
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=ci"]
    # The tests' own conftest.py imports TensorFlow.
    tested = python(sanitizer, *pytest, f"--confcutdir={tests}", f"--rootdir={ROOT}", tests)
    if tested.returncode:
        print(tested.stderr)
        return False
    report, mistake = MISTAKES[sanitizer]
    imports = (
        "import numpy as np; from numpy.lib.stride_tricks import as_strided; "
        "from prospr_ops import _native; "
    )
    planted = python(sanitizer, "-c", imports + mistake)
    if planted.returncode == 0 or report not in planted.stderr:
        print(f"the planted {report} was not found: {planted.stderr}")
        return False
    print(f"the planted {report} was found")
    if sanitizer == "address":
        replayed = python(
            sanitizer, "-c", REPLAY, BUILD / sanitizer / "libfuzzed_kernels.so", SEEDS
        )
        if replayed.returncode:
            print(replayed.stderr)
            return False
    return True


def main() -> int:
    """Builds and tests; fails at the first mistake."""
    for sanitizer in sys.argv[1:] or MISTAKES:
        print(f"+ {sanitizer}", flush=True)
        build(sanitizer)
        install(sanitizer)
        if not check(sanitizer):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
