"""What a user asked to be written: over nothing else unasked, and whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def check_output(path: Path, *, force: bool) -> None:
    """Refuses a place to write to before the work for it begins.

    Args:
        path: Of the file or folder to write.
        force: Whether one that exists may be replaced.

    Raises:
        FileExistsError: It exists, and may not be replaced.
        FileNotFoundError: The folder to write it to does not exist.
        PermissionError: Nothing may be written to that folder.
    """
    if path.exists() and not force:
        msg = f"{path} exists; add --force to overwrite it"
        raise FileExistsError(msg)
    if not path.absolute().parent.is_dir():
        msg = f"there is no folder {path.parent} to write {path.name} to"
        raise FileNotFoundError(msg)
    folder = path if path.is_dir() else path.absolute().parent
    if not os.access(folder, os.W_OK, effective_ids=True):
        msg = f"there is no permission to write to {folder}"
        raise PermissionError(msg)


@contextlib.contextmanager
def replacing(path: Path, unfinished: Path | None = None) -> Iterator[Path]:
    """Has a file or folder written under another name, which becomes `path` once it is complete.

    Whatever happens before, be it a full disk or the end of the process, `path` is as it was. A file
    is replaced in one step; no system call replaces a folder, so for a moment there is none.

    Args:
        path: Of the file or folder; one that exists is replaced.
        unfinished: The other name, beside `path`; by default one of this process's own.

    Yields:
        What to write to: a new name beside `path`, by default with the same ending.
    """
    unfinished = unfinished or path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield unfinished
        if unfinished.is_dir():
            _replace_folder(unfinished, path)
        else:
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.unlink(missing_ok=True)
        raise


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a record as `replacing` does."""
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(record, indent=2) + "\n")


def _replace_folder(new: Path, path: Path) -> None:
    if not path.exists():
        new.rename(path)
        return
    old = new.with_name(f"{new.name}.old")
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink()
