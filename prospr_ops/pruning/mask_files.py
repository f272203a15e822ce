"""Masks in memory at 1 bit per weight, and in a file with scores and a record of the run."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prospr_ops.utils.archives import open_archive, packed, unpacked, write_archive
from prospr_ops.utils.files import replacing

_FORMAT = "prospr_ops masks"
_VERSION = 1


# Number of ones in each byte.
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1).sum(
    axis=1, dtype=np.uint8
)


class PackedMasks(Mapping[str, np.ndarray]):
    """Masks by variable path, held at 1 bit per element; each lookup unpacks one."""

    def __init__(self, masks: Mapping[str, np.ndarray]) -> None:
        self._packed = {path: (packed(mask), mask.shape) for path, mask in masks.items()}

    @property
    def size(self) -> int:
        """Number of elements of all masks."""
        return sum(math.prod(shape) for _, shape in self._packed.values())

    @property
    def kept(self) -> int:
        """Number of True elements of all masks."""
        # Padding bits in the last byte are zero.
        return sum(int(_ONES[bits].sum(dtype=np.int64)) for bits, _ in self._packed.values())

    def __getitem__(self, path: str) -> np.ndarray:
        """Returns a new boolean array."""
        return unpacked(*self._packed[path])

    def __iter__(self) -> Iterator[str]:
        """Iterates over the paths."""
        return iter(self._packed)

    def __len__(self) -> int:
        """Number of masks."""
        return len(self._packed)


def write_masks(
    path: str | os.PathLike[str],
    masks: Mapping[str, np.ndarray],
    scores: Mapping[str, np.ndarray],
    record: Mapping[str, Any],
) -> None:
    """Writes a file for `read_masks`; it is written whole or not at all.

    Args:
        path: File to write; an existing one is replaced.
        masks: Boolean arrays by variable path.
        scores: Arrays of numbers by variable path.
        record: Record of the run, as values that JSON can hold.

    Raises:
        OSError: The file cannot be written; an existing one is unchanged.
    """
    shapes = {name: np.shape(mask) for name, mask in masks.items()}
    header = {"format": _FORMAT, "version": _VERSION, "shapes": shapes, "record": record}
    arrays: dict[str, np.ndarray] = {f"masks/{name}": packed(mask) for name, mask in masks.items()}
    arrays |= {f"scores/{name}": values for name, values in scores.items()}
    with replacing(Path(path)) as unfinished:
        write_archive(unfinished, header, arrays.items())


def read_masks(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Any]]:
    """Reads masks, scores and record from a file that `write_masks` wrote.

    Nothing in the file is executed.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is truncated or damaged, holds something else, or was written by a
            newer version.
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
