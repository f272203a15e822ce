"""Arrays in a file, written whole or not at all; masks and scores in one, the masks packed to bits."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from prospr_ops.outputs import replacing

_FORMAT = "prospr_ops masks"
_VERSION = 1


def packed(mask: np.ndarray) -> np.ndarray:
    """Eight elements a byte, as uint8 `[⌈size / 8⌉]`, the first in the highest bit."""
    return np.packbits(mask)


def unpacked(bits: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The boolean mask of `shape` that `packed` made the bits of.

    Raises:
        ValueError: There are not as many bytes as the shape needs.
    """
    size = math.prod(shape)
    if bits.dtype != np.uint8 or bits.shape != (-(-size // 8),):
        msg = f"a mask of shape {tuple(shape)} cannot be {bits.dtype} of shape {bits.shape}"
        raise ValueError(msg)
    return np.unpackbits(bits, count=size).astype(bool).reshape(shape)


# Number of ones in each byte.
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1).sum(
    axis=1, dtype=np.uint8
)


class PackedMasks(Mapping[str, np.ndarray]):
    """Masks by variable path, held at a bit an element; each is unpacked when it is looked up."""

    def __init__(self, masks: Mapping[str, np.ndarray]) -> None:
        self._packed = {path: (packed(mask), mask.shape) for path, mask in masks.items()}

    @property
    def size(self) -> int:
        """Number of elements of all masks."""
        return sum(math.prod(shape) for _, shape in self._packed.values())

    @property
    def kept(self) -> int:
        """Number of elements of all masks that are True."""
        # The last byte's bits beyond the mask are zero.
        return sum(int(_ONES[bits].sum(dtype=np.int64)) for bits, _ in self._packed.values())

    def __getitem__(self, path: str) -> np.ndarray:
        """A boolean array of its own."""
        return unpacked(*self._packed[path])

    def __iter__(self) -> Iterator[str]:
        """The paths."""
        return iter(self._packed)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._packed)


def write_archive(path: Path, header: Mapping[str, Any], arrays: Iterable[tuple[str, Any]]) -> None:
    """Writes an .npz file that `open_archive` opens.

    Args:
        path: Of the file.
        header: Anything that JSON can hold.
        arrays: Names and arrays; each is asked for when the one before is written.

    Raises:
        OSError: It cannot be written, or not to its end.
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
    """Opens what `write_archive` has written; nothing in it is executed.

    Args:
        stream: The file.
        otherwise: What the message says of any other file.
        kind: The "format" that its header must have.
        version: The latest version of it that is known.

    Yields:
        The header, and the arrays by name, each read when it is looked up.

    Raises:
        ValueError: The file is truncated or damaged, holds something else, or is of a newer
            version; also for what is found only when an array is looked up.
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
    except Exception as error:  # NumPy, zipfile and json raise nearly anything about damaged files
        msg = f"{otherwise}, or a damaged or newer one: {error}"
        raise ValueError(msg) from error


def write(
    path: str | os.PathLike[str],
    masks: Mapping[str, np.ndarray],
    scores: Mapping[str, np.ndarray],
    record: Mapping[str, Any],
) -> None:
    """Writes a file that `read` reads, whole or not at all.

    Args:
        path: Of the file; one that exists is replaced.
        masks: Boolean arrays by variable path.
        scores: Arrays of numbers by variable path.
        record: Anything that JSON can hold.

    Raises:
        OSError: It cannot be written. What was there before is as it was.
    """
    shapes = {name: np.shape(mask) for name, mask in masks.items()}
    header = {"format": _FORMAT, "version": _VERSION, "shapes": shapes, "record": record}
    arrays: dict[str, np.ndarray] = {f"masks/{name}": packed(mask) for name, mask in masks.items()}
    arrays |= {f"scores/{name}": values for name, values in scores.items()}
    with replacing(Path(path)) as unfinished:
        write_archive(unfinished, header, arrays.items())


def read(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Any]]:
    """Reads masks, scores and record from a file that `write` has written.

    Nothing in the file is executed.

    Raises:
        OSError: It cannot be read.
        ValueError: The file is truncated or damaged, holds something else, or is of a newer version.
    """
    stream = io.BytesIO(Path(path).read_bytes())
    with open_archive(stream, f"{path} is no file of masks", _FORMAT, _VERSION) as found:
        header, archive = found
        masks = {
            name: unpacked(archive[f"masks/{name}"], shape)
            for name, shape in header["shapes"].items()
        }
        record = dict(header["record"])
        scores = {
            name.removeprefix("scores/"): archive[name]
            for name in archive
            if name.startswith("scores/")
        }
    return masks, scores, record
