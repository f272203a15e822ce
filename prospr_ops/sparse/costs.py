"""How long a layer takes dense and sparse, as `tools/measure_costs.py` has measured it.

Seconds of one core, of a step of training (forward and both gradients) and of inference. Both sides scale
with the cores, so that what is compared is their ratio. `python tools/measure_costs.py --write` fits the
numbers below on the machine at hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from prospr_ops.ops.sparse_convolution import BLOCK

# By how much the sparse side must be faster than it is expected to be: the machine may be another.
MARGIN = 1.1

Numbers = tuple[float, ...]


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
        depthwise: Whether each filter reads one channel.
    """

    samples: int
    weights: int
    kept: int
    elements: int
    positions: int
    columns: int
    depthwise: bool = False


def in_blocks(samples: int) -> int:
    """As many samples as the blocks of some samples have."""
    return math.ceil(samples / BLOCK) * BLOCK


@dataclass(frozen=True)
class Costs:
    """What a step costs, of one kind.

    Layers have four numbers: nanoseconds per 1,000 multiply-adds, per 1,000 elements of input and
    output, per 1,000 weights, and microseconds of a call. The rest has nanoseconds per 1,000 elements.

    Attributes:
        convolution: A dense convolution.
        pointwise: A dense convolution by filters of one pixel.
        product: A dense layer.
        depthwise: A depthwise convolution.
        sparse: A sparse layer.
        narrow: A sparse convolution on few columns.
        sparse_depthwise: A sparse depthwise convolution.
        border: One change of layout, and its gradient in training.
        normalisation: Batch normalisation with the ReLU behind it, by Keras.
        normalisation_of_blocks: The same by our op.
    """

    convolution: Numbers
    pointwise: Numbers
    product: Numbers
    depthwise: Numbers
    sparse: Numbers
    narrow: Numbers
    sparse_depthwise: Numbers
    border: float
    normalisation: float
    normalisation_of_blocks: float

    def dense_seconds(self, work: Work) -> float:
        """Seconds of the dense layer."""
        numbers = self.convolution if work.columns else self.pointwise
        if work.positions == 1:
            numbers = self.product
        if work.depthwise:
            numbers = self.depthwise
        return _seconds(numbers, work, work.samples, work.weights)

    def sparse_seconds(self, work: Work) -> float:
        """Seconds of the sparse layer, which works on whole blocks of samples."""
        narrow = 0 < work.columns < 8  # what kernels have side by side
        numbers = self.narrow if narrow else self.sparse
        if work.depthwise:
            numbers = self.sparse_depthwise
        return _seconds(numbers, work, in_blocks(work.samples), work.kept)

    def border_seconds(self, elements: int) -> float:
        """Seconds of a change of layout."""
        return self.border * elements / 1e12

    def normalisation_seconds(self, elements: int, *, blocks: bool) -> float:
        """Seconds of a batch normalisation with the ReLU behind it."""
        return (self.normalisation_of_blocks if blocks else self.normalisation) * elements / 1e12


def _seconds(numbers: Numbers, work: Work, samples: int, weights: int) -> float:
    uses = samples * work.positions * weights
    by_work, by_elements, by_weights, call = numbers
    return (
        by_work * uses + by_elements * samples * work.elements + by_weights * weights
    ) / 1e12 + call / 1e6


# Measured on an AMD EPYC (Zen 5, AVX-512), one core.
TRAINING = Costs(
    convolution=(19.3, 1810.0, 13500.0, 0.0),
    pointwise=(21.1, 864.0, 25000.0, 541.0),
    product=(28.8, 0.0, 0.225, 116.0),
    depthwise=(89.5, 517.0, 0.0, 0.0),
    sparse=(46.2, 381.0, 6160.0, 111.0),
    narrow=(47.7, 917.0, 0.0, 0.0),
    sparse_depthwise=(0.0, 773.0, 66400.0, 86.9),
    border=399.0,
    normalisation=4240.0,
    normalisation_of_blocks=897.0,
)
INFERENCE = Costs(
    convolution=(7.49, 280.0, 2930.0, 0.0),
    pointwise=(7.34, 162.0, 4140.0, 0.0),
    product=(9.02, 0.0, 0.0705, 100.0),
    depthwise=(6.3, 174.0, 0.0, 0.0),
    sparse=(14.3, 90.3, 1580.0, 110.0),
    narrow=(12.9, 414.0, 0.0, 48.1),
    sparse_depthwise=(0.0, 240.0, 1230.0, 0.0),
    border=202.0,
    normalisation=562.0,
    normalisation_of_blocks=232.0,
)
