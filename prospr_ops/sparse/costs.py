"""How long a masked layer takes dense and sparse: what was measured on one kind of machine.

The rates were measured on two cores of an AMD EPYC (Zen 5, AVX-512), forward and both gradients at
batch 128; `python -m benchmarks sparse` measures such layers. They are of one machine, but as ratios they decide alike where both sides scale with the
cores. A layer whose gain is near 1 stays dense.
"""

from __future__ import annotations

from dataclasses import dataclass

# 10⁹ operations per second of TensorFlow's convolutions and matrix products, and of our kernels on
# images of at least 8 pixels and on smaller ones.
_DENSE_CONVOLUTION, _DENSE_PRODUCT = 420.0, 320.0
_SPARSE_IMAGE, _SPARSE_POINT = 190.0, 110.0
# 10⁹ bytes per second that a layer reads and writes, and that change their layout.
_PASSING, _CONVERTING = 25.0, 18.0
# Seconds of one op.
_CALL = 5e-5
# What a gain must be for a layer to go sparse: the machine at hand may be another.
LEAST_GAIN = 1.2


@dataclass(frozen=True)
class Work:
    """What a layer does for a batch.

    Attributes:
        kept: Multiply-adds with weights that are kept.
        all: Multiply-adds with all weights.
        elements: Elements of input and output.
        positions: Positions of the filters in one sample.
        convolution: Whether the dense layer is a convolution with filters of more than one pixel.
    """

    kept: float
    all: float
    elements: float
    positions: int
    convolution: bool


def gain(work: Work) -> float:
    """The time of the dense layer by that of the sparse one, with both changes of layout."""
    dense = 3 * 2 * work.all / 1e9 / (_DENSE_CONVOLUTION if work.convolution else _DENSE_PRODUCT)
    rate = _SPARSE_IMAGE if work.positions >= 8 else _SPARSE_POINT
    passing = 3 * 4 * work.elements / 1e9 / _PASSING
    converting = 2 * 8 * work.elements / 1e9 / _CONVERTING
    sparse = 3 * (2 * work.kept / 1e9 / rate + _CALL) + passing + converting
    return (dense + 3 * _CALL) / sparse
