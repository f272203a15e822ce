"""Puts a record of `python -m benchmarks sparse` into docs/benchmarks, and its gains into the README.

python tools/sparse_table.py benchmarks/results/sparse.json
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # the benchmarks are no part of what is installed
RECORD = ROOT / "docs" / "benchmarks" / "sparse.json"
BLOCK = re.compile(r"(?s)(?<=<!-- sparse -->).*?(?=<!-- end of sparse -->)")


def block(record: dict[str, Any]) -> str:
    """What the README has of a record."""
    from benchmarks import sparse  # noqa: PLC0415 - loads TensorFlow

    return sparse.headline(record)


def main() -> None:
    """Copies the record that is named, and writes the README."""
    RECORD.write_text(Path(sys.argv[1]).read_text())
    readme = ROOT / "README.md"
    text, count = BLOCK.subn(lambda _: block(json.loads(RECORD.read_text())), readme.read_text())
    if count != 1:
        sys.exit("README.md has no block for it, from <!-- sparse --> to <!-- end of sparse -->")
    readme.write_text(text)


if __name__ == "__main__":
    main()
