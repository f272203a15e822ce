"""Files that fuzzing has left, once more; those for the kernels go through tools/sanitize.py."""

from __future__ import annotations

from pathlib import Path

import masks
import pytest

SEEDS = Path(__file__).parent / "seeds"


@pytest.mark.parametrize("target", ["mask_file", "mask_config"])
def test_seeds_are_read_or_refused(target):
    files = sorted((SEEDS / target).iterdir())
    assert files
    for file in files:
        getattr(masks, f"fuzz_{target}")(file.read_bytes())
