"""Arrays for property tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst


def arrays(dtype: type, bound: float) -> st.SearchStrategy[np.ndarray]:
    """Of up to three axes and 40 a side, with elements in [−bound, bound]."""
    width = 8 * np.dtype(dtype).itemsize
    limit = float(np.float32(bound))
    return npst.arrays(
        dtype,
        npst.array_shapes(max_dims=3, max_side=40),
        elements=st.floats(-limit, limit, width=width, allow_subnormal=True),
    )
