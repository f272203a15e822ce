"""How long a layer takes dense and sparse, as `tools/measure_costs.py` has measured it.

Seconds of one core for forward and both gradients. Both sides scale with the cores, so that what is
compared is their ratio. `python tools/measure_costs.py --write` fits the numbers below on the machine at hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from prospr_ops.ops.sparse_convolution import BLOCK

# Nanoseconds per 1,000 multiply-adds, per 1,000 elements of input and output, per 1,000 weights, and
# microseconds of a call. Measured on an AMD EPYC (Zen 5, AVX-512), one core.
_DENSE_CONVOLUTION = (21.6, 557.0, 8340.0, 0.0)
_DENSE_PRODUCT = (26.9, 0.0, 0.21, 151.0)
_SPARSE = (42.5, 270.0, 5140.0, 158.0)
_SPARSE_NARROW = (44.1, 919.0, 0.0, 0.0)
# Nanoseconds per 1,000 elements of a change of layout, there and back, and of a batch normalisation by
# Keras and by our op.
_BORDER = 867.0
_NORMALISATION = 3510.0
_NORMALISATION_OF_BLOCKS = 702.0
# By how much the sparse side must be faster than it is expected to be: the machine may be another.
MARGIN = 1.1


@dataclass(frozen=True)
class Work:
    """What a layer does for a batch.

    Attributes:
        samples: Number of samples.
        weights: Number of all weights.
        kept: Number of weights that are kept.
        elements: Elements of input and output, per sample.
        positions: Positions of the filters in one sample.
        columns: Positions side by side, of filters of more than one pixel; else 0.
    """

    samples: int
    weights: int
    kept: int
    elements: int
    positions: int
    columns: int


def _seconds(numbers: tuple[float, ...], work: Work, samples: int, weights: int) -> float:
    uses = samples * work.positions * weights
    by_work, by_elements, by_weights, call = numbers
    return (
        by_work * uses + by_elements * samples * work.elements + by_weights * weights
    ) / 1e12 + call / 1e6


def dense_seconds(work: Work) -> float:
    """Seconds of the dense layer."""
    numbers = _DENSE_PRODUCT if work.positions == 1 else _DENSE_CONVOLUTION
    return _seconds(numbers, work, work.samples, work.weights)


def sparse_seconds(work: Work) -> float:
    """Seconds of the sparse layer, which works on whole blocks of samples."""
    narrow = 0 < work.columns < 8  # what kernels have side by side
    numbers = _SPARSE_NARROW if narrow else _SPARSE
    return _seconds(numbers, work, in_blocks(work.samples), work.kept)


def in_blocks(samples: int) -> int:
    """As many samples as the blocks of some samples have."""
    return math.ceil(samples / BLOCK) * BLOCK


def border_seconds(elements: int) -> float:
    """Seconds of a change of layout in both directions."""
    return _BORDER * elements / 1e12


def normalisation_seconds(elements: int, *, blocks: bool) -> float:
    """Seconds of a batch normalisation with the ReLU behind it."""
    return (_NORMALISATION_OF_BLOCKS if blocks else _NORMALISATION) * elements / 1e12
