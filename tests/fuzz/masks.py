"""What a fuzzer calls with a file of masks, and with the configuration of a mask in a .keras file.

Whatever the bytes are, either they are read or a ValueError says that they are damaged.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zipfile
from pathlib import Path
from unittest import mock

from prospr_ops.pruning import mask_files
from prospr_ops.pruning.masks import MaskConstraint


def fuzz_mask_file(data: bytes) -> None:
    """Reads `data` as a file of masks; what can be read can be written.

    Checksums count for nothing here: a fuzzer would never get past them, and a forger would.
    """
    handle, name = tempfile.mkstemp()
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        unchecked = mock.patch.object(zipfile.ZipExtFile, "_update_crc")
        with unchecked, contextlib.suppress(ValueError):
            masks, scores, record = mask_files.read_masks(path)
            mask_files.write_masks(path, masks, scores, record)
    finally:
        path.unlink()


def fuzz_mask_config(data: bytes) -> None:
    """Makes a constraint of the JSON in `data`, over no other; its configuration makes the same."""
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(config, dict):
        return
    with contextlib.suppress(ValueError):
        constraint = MaskConstraint.from_config({**config, "inner": None})
        again = MaskConstraint.from_config(constraint.get_config())
        assert (again.mask.numpy() == constraint.mask.numpy()).all()
