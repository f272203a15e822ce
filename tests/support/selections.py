"""Scores to select from, for the tests of the kernel and of the op."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst


@st.composite
def selections(draw, dtype):
    """Arrays of any values but NaN, how many to keep, and of each at least."""
    width = 8 * np.dtype(dtype).itemsize
    tiny = float(np.finfo(dtype).smallest_subnormal)
    values = st.one_of(
        st.sampled_from([-np.inf, np.inf, 0.0, -0.0, tiny, -tiny, 1.0]),
        st.floats(width=width, allow_nan=False),
    )
    shapes = npst.array_shapes(min_dims=0, max_dims=3, max_side=9)
    arrays = draw(st.lists(npst.arrays(dtype, shapes, elements=values), min_size=1, max_size=5))
    keep = draw(st.integers(0, sum(array.size for array in arrays)))
    min_keep = draw(st.integers(0, 12))
    while sum(min(min_keep, array.size) for array in arrays) > keep:
        min_keep -= 1
    return arrays, keep, min_keep


def large_arrays() -> dict[str, np.ndarray]:
    """Of several chunks and a sample worth its name, in odd sizes; some mislead the sample."""
    size = 100_003
    rng = np.random.default_rng(3)
    normal = rng.standard_normal(size).astype(np.float32)
    # The sample reads one score in 32, all of them large.
    misleading = np.where(np.arange(size) % 32 == 16, np.float32(100), normal)
    return {
        "normal": normal,
        "log of a product": np.log(np.abs(normal * rng.standard_normal(size))),
        "few values": np.round(normal, 1),
        "all equal": np.full(size, -7.5, np.float32),
        "all -inf": np.full(size, -np.inf, np.float32),
        "rising": np.sort(normal),
        "falling": -np.sort(normal),
        "misleading above": misleading,
        "misleading below": -misleading,
        "subnormal": normal * np.finfo(np.float32).smallest_subnormal * 1000,
    }
