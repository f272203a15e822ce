"""Output files: none is overwritten unasked, and each is written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def check_output(path: Path, *, force: bool) -> None:
    """Checks an output path before the work for it begins.

    Args:
        path: File or folder to write.
        force: Whether an existing file or folder may be replaced.

    Raises:
        FileExistsError: `path` exists and may not be replaced.
        FileNotFoundError: The folder of `path` does not exist.
        PermissionError: The folder of `path` is not writable.
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
    """Yields a temporary path to write to, which becomes `path` once it is complete.

    If anything fails before that, such as a full disk or the end of the process, `path` is
    unchanged. A file is replaced atomically; a folder cannot be, so for a moment there is none.

    Args:
        path: File or folder to write; an existing one is replaced.
        unfinished: Temporary path beside `path`; by default one that is unique to this process.

    Yields:
        The temporary path, beside `path` and by default with the same ending.
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
    """Writes a record to a JSON file, whole or not at all."""
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
