"""What is tried and timed, and what docs/cuda.md expects of it on an H100."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# TFLOP/s in float32 outside of the tensor cores and TB/s, by the data sheets; the first that fits.
CARDS = {"H200": (66.9, 4.8), "H100 PCIe": (51.2, 2.0), "H100": (66.9, 3.35)}
EXPECTED_CARD = "H100 SXM"
# What memory's rate is expected to give, of the data sheet's.
SHARE_OF_MEMORY = 0.85
GAMMA_BYTES = {"GammaUpdate": 12, "GammaStep": 24, "GammaMomentumStep": 48}
# Three passes that count, one that marks, and a mask.
SELECT_BYTES = 17


def rates(card: str) -> tuple[float, float] | None:
    """TFLOP/s and TB/s of a card by its name, if they are known here."""
    for name, values in CARDS.items():
        if all(word in card for word in name.split()):
            return values
    return None


class Layer(NamedTuple):
    """A contraction, or the gradient at a convolution's input.

    Attributes:
        name: As in docs/cuda.md.
        size: Output pixels along each of two axes.
        kernel: Taps along each of two axes.
        channels: Inputs.
        outputs: Outputs.
        samples: N.
        same: Whether zeros keep the input's size; else it is larger by the kernel's reach.
        gflop: What is computed.
        megabytes: What is read and written.
        expected_us: Microseconds that an H100 is expected to take.
        pooled: Whether a pooling of 2 × 2 is behind it.
        gradient: Whether it is the gradient at the input.
        depthwise: Whether every channel is a group of its own.
    """

    name: str
    size: int
    kernel: int
    channels: int
    outputs: int
    samples: int
    same: bool
    gflop: float
    megabytes: float
    expected_us: float
    pooled: bool = False
    gradient: bool = False
    depthwise: bool = False

    @property
    def input_size(self) -> int:
        """Input pixels along each axis."""
        return self.size if self.same else self.size + self.kernel - 1

    @property
    def groups(self) -> int:
        """Of channels."""
        return self.channels if self.depthwise else 1

    def shape(self, columns: int) -> np.ndarray:
        """ConvShape of csrc/kernels/curvature.h as it lies in memory."""
        before = (self.kernel - 1) // 2 if self.same else 0
        return np.array([
            self.samples, columns, self.groups, self.channels, self.outputs,
            1, self.input_size, self.input_size, 1, self.size, self.size,
            1, self.kernel, self.kernel, 1, 1, 1, 1, 1, 1, 0, before, before,
        ], np.int64)  # fmt: skip

    def tiny(self) -> Layer:
        """One of its kind for the emulation."""
        channels = min(self.channels, 5)
        return self._replace(
            size=min(self.size, 4), kernel=min(self.kernel, 3), channels=channels,
            outputs=channels if self.depthwise else min(self.outputs, 6),
            samples=min(self.samples, 3),
        )  # fmt: skip


COLUMNS = 9
LAYERS = [
    Layer("Dense 784 → 300, N 512", 1, 1, 784, 300, 512, False, 0.24, 25, 10),
    Layer("Conv 5×5, 1 → 6, 28×28 pixels, N 512", 28, 5, 1, 6, 512, True, 1.1, 90, 570),
    Layer("Conv 5×5, 6 → 16, 10×10 pixels, N 512", 10, 5, 6, 16, 512, False, 2.2, 38, 220),
    Layer("Conv 3×3, 64 → 64, 32×32 pixels, N 8", 32, 3, 64, 64, 8, True, 5.4, 43, 180),
    Layer("Conv 3×3, 512 → 512, 4×4 pixels, N 8", 4, 3, 512, 512, 8, True, 5.4, 21, 180),
    Layer("Conv 3×3, 512 → 512, 2×2 pixels, N 8", 2, 3, 512, 512, 8, True, 0.45, 20, 18),
    Layer("pooled, 5×5, 1 → 6, 28×28, N 512", 28, 5, 1, 6, 512, True, 1.1, 32, 680, True),
    Layer("pooled, 5×5, 6 → 16, 10×10, N 512", 10, 5, 6, 16, 512, False, 2.2, 10, 260, True),
    Layer("pooled, 3×3, 64 → 64, 32×32, N 8", 32, 3, 64, 64, 8, True, 5.4, 7, 200, True),
    Layer(
        "gradient, 5×5, 6 → 16, 10×10, N 512", 10, 5, 6, 16, 512, False, 2.2, 10, 630, True, True
    ),
    Layer("gradient, 3×3, 64 → 64, 32×32, N 8", 32, 3, 64, 64, 8, True, 5.4, 7, 200, True, True),
    Layer(
        "Depthwise 3×3, 256, 16×16 pixels, N 32",
        16,
        3,
        256,
        256,
        32,
        True,
        0.34,
        84,
        29,
        depthwise=True,
    ),
]


class Words(NamedTuple):
    """An embedding that is timed, of as many positions per sample as words in a short text."""

    samples: int
    positions: int
    vocabulary: int
    outputs: int


class Sizes(NamedTuple):
    """How much is done.

    Attributes:
        weights: Weights of the γ steps that are timed.
        scores: Scores of the selections that are timed.
        compared: Weights, and scores, of the comparisons.
        large: Elements that are more than 32 bits count.
        period: After so many elements large arrays repeat.
        layers: Layers.
        words: An embedding.
        images: Shapes of what is normalised and pooled.
        milliseconds: How long a round of a timing should take.
        rounds: Rounds of a timing.
    """

    weights: tuple[int, ...]
    scores: tuple[int, ...]
    compared: tuple[int, ...]
    large: int
    period: int
    layers: list[Layer]
    words: Words
    images: tuple[tuple[int, int, int, int], ...]
    milliseconds: float
    rounds: int


REAL_SIZES = Sizes(
    weights=(266_200, 14_715_584, 1 << 28),
    scores=(1_000_000, 14_715_584, 100_000_000),
    compared=(1_000_000, 10_000_000, 100_000_000),
    large=(1 << 31) + 12_345,
    period=1_000_003,
    layers=LAYERS,
    words=Words(512, 80, 20_000, 128),
    # Of LeNet-5, ResNet-20 and VGG-16, and one that fills the card.
    images=((512, 28, 28, 6), (128, 32, 32, 16), (128, 32, 32, 64), (128, 64, 64, 64)),
    milliseconds=5,
    rounds=9,
)
TINY_SIZES = Sizes(
    weights=(1000,),
    scores=(1000,),
    compared=(1000,),
    large=1203,
    period=97,
    layers=[layer.tiny() for layer in LAYERS],
    words=Words(3, 4, 10, 5),
    images=((2, 5, 4, 3),),
    milliseconds=0,
    rounds=1,
)
