"""A file of JSON lines, one a finished cell; it is all that a comparison keeps."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Adds a line, in one write, so that several processes can do so at once."""
    line = json.dumps(record) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the records, the oldest first; none if there is no file.

    The beginning of a line, which a killed process may leave at the end, is not a record.

    Raises:
        OSError: The file cannot be read.
        ValueError: A line is not one of a comparison's; the message says which.
    """
    if not path.exists():
        return []
    *lines, _ = path.read_text().split("\n")
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if not isinstance(record, dict) or not {"model", "method", "sparsity"} <= record.keys():
            msg = f"{path}, line {number}, is not a finished cell of a comparison: {line[:80]!r}"
            raise ValueError(msg)
        records.append(record)
    return records


def mend(path: Path) -> None:
    """Cuts off the beginning of a line that a killed process left at the end."""
    if path.exists():
        text = path.read_bytes()
        os.truncate(path, text.rfind(b"\n") + 1)
