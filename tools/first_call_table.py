"""Puts a record of `python -m benchmarks first_call` into docs/benchmarks, and its table into the README.

python tools/first_call_table.py benchmarks/results/first_call.json
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
RECORD = ROOT / "docs" / "benchmarks" / "first_call.json"
_HEADING = """## How long the first call takes

`python -m benchmarks first_call`: a fresh process per number, M = 3 ([all rows, memory](docs/benchmarks.md#the-first-call)).

"""
BLOCK = re.compile(r"(?s)(?<=<!-- first_call -->\n).*?(?=<!-- end -->\n)")


def block(record: dict[str, Any] | None) -> str:
    """What the README has of a record; nothing where there is none."""
    from benchmarks import first_call  # noqa: PLC0415 - loads TensorFlow

    return "" if record is None else _HEADING + "\n".join(first_call.headline(record)) + "\n"


def main() -> None:
    """Copies the record that is named, and writes the README."""
    RECORD.write_text(Path(sys.argv[1]).read_text())
    readme = ROOT / "README.md"
    text, count = BLOCK.subn(lambda _: block(json.loads(RECORD.read_text())), readme.read_text())
    if count != 1:
        sys.exit("README.md has no block for the table, from <!-- first_call --> to <!-- end -->")
    readme.write_text(text)


if __name__ == "__main__":
    main()
