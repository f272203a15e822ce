"""Runs the benchmarks that are named, or all of them."""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Of a GPU's memory each process takes what it needs: some benchmarks run several.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

# In the order in which they run.
NAMES = ("gamma", "select", "shrink", "curvature", "meta_gradient", "agreement")


def main() -> None:
    """Parses the command line and runs the benchmarks, each in its own module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)}")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks/results"),
        help="folder for JSON and plots (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "gpu"),
        default="cpu",
        help="where to run (default: %(default)s)",
    )
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    harness = importlib.import_module("benchmarks.harness")
    try:
        device = harness.use_device(arguments.device)
    except RuntimeError as error:
        parser.error(str(error))
    with device:
        for name in arguments.names or NAMES:
            importlib.import_module(f"benchmarks.{name}").run(arguments.out)


if __name__ == "__main__":
    main()
