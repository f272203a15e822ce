"""Arrays in .npz files that are checked on reading, and masks packed to 1 bit per element."""

from __future__ import annotations

import itertools
import json
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np


def packed(mask: np.ndarray) -> np.ndarray:
    """Packs eight elements per byte: uint8 `[⌈size / 8⌉]`, the first element in the highest bit."""
    return np.packbits(mask)


def unpacked(bits: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The boolean mask of `shape` that `packed` turned into `bits`.

    Raises:
        ValueError: The number of bytes does not fit the shape.
    """
    size = math.prod(shape)
    if bits.dtype != np.uint8 or bits.shape != (-(-size // 8),):
        msg = f"a mask of shape {tuple(shape)} cannot be {bits.dtype} of shape {bits.shape}"
        raise ValueError(msg)
    return np.unpackbits(bits, count=size).astype(bool).reshape(shape)


def write_archive(
    path: Path | IO[bytes], header: Mapping[str, Any], arrays: Iterable[tuple[str, Any]]
) -> None:
    """Writes an .npz file that `open_archive` opens.

    Args:
        path: Path of the file, or a stream to write it to.
        header: Anything that JSON can hold.
        arrays: Names and arrays; each is requested once the one before is written.

    Raises:
        OSError: The file cannot be written completely.
    """
    members = itertools.chain([("header", np.array(json.dumps(header)))], arrays)
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in members:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(values), allow_pickle=False)


@contextmanager
def open_archive(
    stream: IO[bytes], otherwise: str, kind: str, version: int
) -> Iterator[tuple[dict[str, Any], Mapping[str, np.ndarray]]]:
    """Opens a file that `write_archive` wrote; nothing in it is executed.

    Args:
        stream: The open file.
        otherwise: Beginning of the message if the file is refused.
        kind: Required value of "format" in the header.
        version: Latest version of the format that can be read.

    Yields:
        The header, and the arrays by name, each read on lookup.

    Raises:
        ValueError: The file is truncated or damaged, holds something else, or was written by a
            newer version; also if this is found only when an array is looked up.
    """
    try:
        with np.load(stream, allow_pickle=False) as archive:
            header = json.loads(str(archive["header"]))
            if header["format"] != kind:
                msg = f"it holds {header['format']!r}"
                raise ValueError(msg)
            if header["version"] > version:
                msg = f"it is of version {header['version']}, and this prospr_ops reads {version}"
                raise ValueError(msg)
            yield header, archive
    except Exception as error:  # damaged files raise many types of errors
        msg = f"{otherwise}, or a damaged or newer one: {error}"
        raise ValueError(msg) from error
