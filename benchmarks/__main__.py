"""Runs the benchmarks that are named, in full, or all of them, shortened; and sums up."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Of a GPU's memory each process takes what it needs: some benchmarks run several.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

# In the order in which they run: from one operation to whole methods.
NAMES = (
    *("gamma", "select", "shrink", "sparse", "curvature", "meta_gradient", "agreement"),
    "first_call",
)
# Whose `run` takes `only` and `resume`.
SELECTABLE = ("first_call",)
# Take hours, or gigabytes, and compare no speed: run where named, and have no rows in the summary.
STUDIES = ("accuracy", "worth", "tuning", "during_training", "pretrained", "large_model")
REFERENCE = Path("docs/benchmarks/reference.json")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs benchmarks, each in its own module, and prints and writes what they found.

    Args:
        argv: The command line; None for the process's.

    Returns:
        The exit status: 1 if the sides of some benchmark disagree.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"of {', '.join((*NAMES, *STUDIES))}"
    )
    parser.add_argument("--full", action="store_true", help="all in full, not shortened")
    parser.add_argument("--quick", action="store_true", help="all shortened, those named too")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks/results"),
        help="folder for JSON and plots (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="WORD",
        help=f"rows with all of these in their names, of {', '.join(SELECTABLE)}",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help=f"keep the finished rows in the folder, of {', '.join(SELECTABLE)}",
    )
    parser.add_argument(
        "--reference",
        type=Path,
        default=REFERENCE if REFERENCE.exists() else None,
        metavar="FILE",
        help=f"an earlier record, to say what changed (default: {REFERENCE})",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "gpu"),
        default="cpu",
        help="where to run (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    unknown = set(arguments.names) - {*NAMES, *STUDIES}
    if unknown:
        known = ", ".join((*NAMES, *STUDIES))
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {known}")
    selectable = arguments.names and set(arguments.names) <= {*SELECTABLE}
    if (arguments.only or arguments.resume) and not selectable:
        option, does = ("--only", "chooses among") if arguments.only else ("--resume", "keeps")
        parser.error(f"{option} {does} the rows of {', '.join(SELECTABLE)}; name it")
    options = {"only": arguments.only, "resume": arguments.resume} if selectable else {}
    arguments.out.mkdir(parents=True, exist_ok=True)
    harness = importlib.import_module("benchmarks.harness")
    summary = importlib.import_module("benchmarks.summary")
    try:
        reference = arguments.reference and summary.Reference.read(arguments.reference)
        device = harness.use_device(arguments.device)
    except (OSError, RuntimeError, ValueError) as error:
        parser.error(str(error))
    full = not arguments.quick and (arguments.full or bool(arguments.names))

    rows, minutes = [], {}
    with device:
        for name in arguments.names or NAMES:
            start = time.perf_counter()
            try:
                module = importlib.import_module(f"benchmarks.{name}")
                rows += module.run(arguments.out, full=full, **options)
            except AssertionError as error:  # its sides disagree; that of the others stays true
                rows.append(summary.failed(name, error))
            minutes[name] = (time.perf_counter() - start) / 60

    if not rows:
        return 0
    console = Console()
    environment = harness.environment()
    console.print(summary.table(rows, environment, reference))
    path = arguments.out / f"{summary.file_stem(environment)}.json"
    harness.write_json(path, summary.record(rows, minutes, full=full))
    summary.plot(rows).savefig(path.with_suffix(".png"), dpi=150)
    console.print(
        f"[dim]{path}, {path.with_suffix('.png')}; {sum(minutes.values()):.1f} minutes[/dim]"
    )
    return 1 if any(row.agrees == "NO" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
