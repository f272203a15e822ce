"""Makes a folder with which a bare machine builds, tests and times the kernels on its GPU.

    python tools/gpu_bundle.py --out DIR [--backpack] [--tensorflow PYTHON]

There `DIR/run.sh` needs nvcc, g++, Python and NumPy, and no network: it builds for the card that it
finds, compares every kernel with the CPU's, times them, and compares them with PyTorch and CuPy
where these are installed. `DIR/run.sh --emulate` does the same without a GPU, on tiny sizes.
tools/gpu/driver.py has the rest.

`--backpack` downloads BackPACK and takes it along, for the comparison of whole networks. `--tensorflow
python3.12` adds DIR/parts: TensorFlow and this package for a GPU of compute capability 9.0, in files
that are small enough to travel one at a time, and `DIR/run_tensorflow.sh`, which runs them there
(tools/gpu_tensorflow.py).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ["csrc/core", "csrc/kernels", "csrc/cpu", "csrc/cuda", "tests/cuda", "tools/gpu"]
# What runs in TensorFlow.
WITH_TENSORFLOW = ["benchmarks", "tests"]
# Pure Python; what else it needs is wherever PyTorch is.
BACKPACK = ["backpack-for-pytorch>=1.7", "unfoldNd"]
MOST_BYTES = 60 << 20


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    """Copies what run.sh needs, and says how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--backpack", action="store_true", help="download it, and take it along")
    parser.add_argument(
        "--tensorflow", metavar="PYTHON", help="that of the other machine's version"
    )
    options = parser.parse_args()
    out = options.out
    if out.exists():
        sys.exit(f"{out} exists already; name a folder that does not")
    ignored = shutil.ignore_patterns("__pycache__", "results")
    for folder in [*FOLDERS, *(WITH_TENSORFLOW if options.tensorflow else [])]:
        shutil.copytree(ROOT / folder, out / folder, ignore=ignored, dirs_exist_ok=True)
    # Says which sources fuse no multiply-adds.
    shutil.copy(ROOT / "CMakeLists.txt", out)
    shutil.copy(ROOT / "tools/gpu/run.sh", out)
    if options.tensorflow:
        shutil.copy(ROOT / "tools/gpu/run_tensorflow.sh", out)
        shutil.copy(ROOT / "pyproject.toml", out)  # pytest's options
    if options.backpack:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--target", out / "site", *BACKPACK], check=True)
    changed = (
        " with changes" if _git("status", "--porcelain", "csrc", "tests/cuda", "tools") else ""
    )
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    (out / "COMMIT").write_text(f"{commit}{changed}\n")
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{out}: {size / 2**20:.1f} MiB")
    if size > MOST_BYTES:
        sys.exit(f"more than {MOST_BYTES >> 20} MiB, which is as much as may travel")
    if options.tensorflow:
        tool = [ROOT / "tools/gpu_tensorflow.py", "--python", options.tensorflow]
        subprocess.run([sys.executable, *tool, "--out", out / "parts"], check=True)


if __name__ == "__main__":
    main()
