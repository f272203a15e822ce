"""Masks and scores in a file: one .npz, with the masks packed to bits."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    arrays: dict[str, Any] = {"header": np.array(json.dumps(header))}
    arrays |= {f"masks/{name}": packed(mask) for name, mask in masks.items()}
    arrays |= {f"scores/{name}": values for name, values in scores.items()}
    with replacing(Path(path)) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)


def read(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Any]]:
    """Reads masks, scores and record from a file that `write` has written.

    Nothing in the file is executed.

    Raises:
        OSError: It cannot be read.
        ValueError: The file is truncated or damaged, holds something else, or is of a newer version.
    """
    data = Path(path).read_bytes()
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            contents = {name: archive[name] for name in archive.files}
        header = json.loads(str(contents["header"]))
        if header["format"] != _FORMAT:
            msg = f"it holds {header['format']!r}"
            raise ValueError(msg)
        if header["version"] > _VERSION:
            msg = f"it is of version {header['version']}, and this prospr_ops reads {_VERSION}"
            raise ValueError(msg)
        masks = {
            name: unpacked(contents[f"masks/{name}"], shape)
            for name, shape in header["shapes"].items()
        }
        record = dict(header["record"])
    except Exception as error:  # NumPy, zipfile and json raise nearly anything about damaged files
        msg = f"{path} is no file of masks, or a damaged or newer one: {error}"
        raise ValueError(msg) from error
    scores = {
        name.removeprefix("scores/"): values
        for name, values in contents.items()
        if name.startswith("scores/")
    }
    return masks, scores, record
