"""Puts a benchmark's record into docs/benchmarks, and what the README says of it into the README.

python tools/record_table.py benchmarks/results/first_call.json
python tools/record_table.py benchmarks/results/sparse.json
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # the benchmarks are no part of what is installed
RECORDS = ROOT / "docs" / "benchmarks"
# What the README has of each benchmark.
BLOCKS = {
    "first_call": re.compile(r"(?s)(?<=<!-- first_call -->\n).*?(?=<!-- end -->\n)"),
    "sparse": re.compile(r"(?s)(?<=<!-- sparse -->).*?(?=<!-- end of sparse -->)"),
}


def block(name: str) -> str:
    """What the README is to have of a benchmark's record."""
    record = json.loads((RECORDS / f"{name}.json").read_text())
    return importlib.import_module(f"benchmarks.{name}").headline(record)


def main() -> None:
    """Copies the record that is named, and writes the README."""
    given = Path(sys.argv[1])
    name = given.stem
    if name not in BLOCKS:
        sys.exit(f"the README has a block for {', '.join(BLOCKS)}, and none for {name!r}")
    (RECORDS / given.name).write_text(given.read_text())
    readme = ROOT / "README.md"
    text, count = BLOCKS[name].subn(lambda _: block(name), readme.read_text())
    if count != 1:
        sys.exit(f"README.md has no block for {name}: {BLOCKS[name].pattern}")
    readme.write_text(text)


if __name__ == "__main__":
    main()
