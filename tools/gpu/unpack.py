"""Joins the parts that tools/gpu_tensorflow.py made, and unpacks what is in them.

    python unpack.py PARTS FOLDER

Needs nothing but Python; `cat part-* | xz -dc | tar x` does the same.
"""

from __future__ import annotations

import io
import lzma
import re
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def parts_in(folder: Path) -> list[Path]:
    """All parts, in order.

    Raises:
        FileNotFoundError: One of them is missing.
    """
    named = [re.fullmatch(r"part-(\d+)-of-(\d+)\.xz", path.name) for path in folder.iterdir()]
    numbers = {int(match[1]): int(match[2]) for match in named if match}
    count = max(numbers.values(), default=1)
    if missing := sorted(set(range(1, count + 1)) - numbers.keys()):
        msg = f"of {count} parts, {', '.join(map(str, missing))} are not in {folder}"
        raise FileNotFoundError(msg)
    return [folder / f"part-{number}-of-{count}.xz" for number in range(1, count + 1)]


def main() -> None:
    """Unpacks, each part in a thread of its own."""
    folder, into = map(Path, sys.argv[1:])
    parts = parts_in(folder)
    with ThreadPoolExecutor(len(parts)) as pool:
        pieces = list(pool.map(lambda part: lzma.decompress(part.read_bytes()), parts))
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        archive.extractall(into, filter="data")
        count = len(archive.getmembers())
    print(f"{count} files of {len(parts)} parts in {into}")


if __name__ == "__main__":
    main()
