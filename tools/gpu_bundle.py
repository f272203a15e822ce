"""Makes a folder with which a bare machine builds, tests and times the kernels on its GPU.

    python tools/gpu_bundle.py --out DIR

There `DIR/run.sh` needs nvcc, g++, Python and NumPy, and no network: it builds for the card that it
finds, compares every kernel with the CPU's, times them, and compares them with PyTorch and CuPy
where these are installed. `DIR/run.sh --emulate` does the same without a GPU, on tiny sizes.
tools/gpu/driver.py has the rest.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ["csrc/core", "csrc/kernels", "csrc/cpu", "csrc/cuda", "tests/cuda", "tools/gpu"]
MOST_BYTES = 60 << 20


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    """Copies what run.sh needs, and says how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    out = parser.parse_args().out
    if out.exists():
        sys.exit(f"{out} exists already; name a folder that does not")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, out / folder, ignore=shutil.ignore_patterns("__pycache__"))
    # Says which sources fuse no multiply-adds.
    shutil.copy(ROOT / "CMakeLists.txt", out)
    shutil.copy(ROOT / "tools/gpu/run.sh", out)
    changed = (
        " with changes" if _git("status", "--porcelain", "csrc", "tests/cuda", "tools") else ""
    )
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    (out / "COMMIT").write_text(f"{commit}{changed}\n")
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{out}: {size / 2**20:.1f} MiB")
    if size > MOST_BYTES:
        sys.exit(f"more than {MOST_BYTES >> 20} MiB, which is as much as may travel")


if __name__ == "__main__":
    main()
