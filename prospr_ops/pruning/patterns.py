"""Patterns: weights that are kept or pruned by the group, along the axes of a kernel.

A kernel is seen as [rest, inputs, outputs] (see `prospr_ops.utils.axes`): for a Dense kernel
rest is 1, for a convolution it runs over the kernel's positions. n:m keeps n of each m weights that
follow each other along the inputs, which belong to one output; a block is a rectangle of inputs and
outputs that is kept or pruned whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from prospr_ops.utils.axes import Axes
from prospr_ops.utils.checks import check_integer


@dataclass(frozen=True)
class NByM:
    """The pattern n:m, as NVIDIA's and LiteRT's tools lay it: n of each m weights are kept.

    The m weights follow each other along the input axis of a kernel and belong to one output. The
    sparsity is (m − n) / m in every layer.

    Args:
        n: Number of weights that are kept of each group; ≥ 1.
        m: Number of weights of a group; more than `n`.

    Raises:
        TypeError: `n` or `m` is no integer.
        ValueError: `n` is less than 1, or `m` no more than `n`.

    Examples:
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> pattern = po.NByM(2, 4)  # or "2:4"
        >>> result = po.prune(model, None, pattern=pattern, method="magnitude", verbose=0)
        >>> result.kept, result.weights
        (16350, 32700)
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        """Checks the numbers."""
        check_integer("n", self.n, at_least=1)
        check_integer("m", self.m, at_least=1)
        if self.n >= self.m:
            msg = f"pattern {str(self)!r} prunes nothing: of n:m, n must be less than m"
            raise ValueError(msg)

    def __str__(self) -> str:
        """As it is written: "2:4"."""
        return f"{self.n}:{self.m}"

    @property
    def sparsity(self) -> float:
        """Fraction of the weights that are pruned."""
        return (self.m - self.n) / self.m


@dataclass(frozen=True)
class Block:
    """Blocks of a kernel, each of which is kept or pruned whole.

    Its score is the sum of the scores in it. A kernel is divided along its input and output axes; a
    convolution at each of its positions.

    Args:
        inputs: Number of inputs that a block spans; ≥ 1.
        outputs: Number of outputs that a block spans; ≥ 1.

    Raises:
        TypeError: `inputs` or `outputs` is no integer.
        ValueError: `inputs` or `outputs` is less than 1.

    Examples:
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=4)
        >>> pattern = po.Block(1, 4)  # or "1x4"
        >>> result = po.prune(
        ...     model, None, sparsity=0.9, pattern=pattern, method="magnitude", verbose=0
        ... )
        >>> result.kept % 4
        0
    """

    inputs: int
    outputs: int

    def __post_init__(self) -> None:
        """Checks the numbers."""
        check_integer("inputs", self.inputs, at_least=1)
        check_integer("outputs", self.outputs, at_least=1)

    def __str__(self) -> str:
        """As it is written: "4x1"."""
        return f"{self.inputs}x{self.outputs}"

    @property
    def size(self) -> int:
        """Number of weights of a block."""
        return self.inputs * self.outputs


Pattern: TypeAlias = NByM | Block


def pattern_of(value: Any) -> Pattern | None:
    """The pattern that a value or its text means: "2:4" is `NByM(2, 4)`, "4x1" `Block(4, 1)`.

    Raises:
        TypeError: The value is neither a pattern nor text.
        ValueError: The text is none of these, or its numbers are not accepted.
    """
    if value is None or isinstance(value, NByM | Block):
        return value
    if not isinstance(value, str):
        msg = f"pattern must be text such as '2:4' or '4x1', or None, not {type(value).__name__}"
        raise TypeError(msg)
    found = re.fullmatch(r"([0-9]{1,9})([:x])([0-9]{1,9})", value.strip())
    if found is None:
        msg = f"pattern must be n:m, such as '2:4', or a block of inputs x outputs, such as '4x1', not {value!r}"
        raise ValueError(msg)
    kind = NByM if found[2] == ":" else Block
    return kind(int(found[1]), int(found[3]))


def check_divides(pattern: Pattern, path: str, shape: Sequence[int], axes: Axes) -> None:
    """Refuses a kernel that a pattern does not divide.

    Raises:
        ValueError: It does not; the message names the kernel and its axis.
    """
    _, inputs, outputs = axes.sizes(shape)
    if isinstance(pattern, NByM):
        wanted = {"input": (pattern.m, inputs)}
    else:
        wanted = {"input": (pattern.inputs, inputs), "output": (pattern.outputs, outputs)}
    for name, (each, size) in wanted.items():
        if size % each:
            msg = (
                f"pattern {str(pattern)!r} does not divide {path}, of shape {tuple(shape)}: its {name} "
                f"axis has {size} elements, no multiple of {each}; leave the layer out by prunable"
            )
            raise ValueError(msg)


def best_of_each(scores: npt.NDArray[Any], n: int, m: int, axes: Axes) -> npt.NDArray[np.bool_]:
    """Keeps the n largest of each m scores along the inputs; ties go to the lower index."""
    rest, inputs, outputs = axes.sizes(scores.shape)
    groups = axes.arranged(scores).reshape(rest, inputs // m, m, outputs)
    members = [groups[:, :, i] for i in range(m)]
    kept = np.empty(groups.shape, bool)
    for i, own in enumerate(members):
        # How many come before it: m is small, so counting is faster than sorting.
        better = np.zeros(own.shape, np.min_scalar_type(m))
        for j, other in enumerate(members):
            if j != i:
                better += other >= own if j < i else other > own
        kept[:, :, i] = better < n
    return axes.restored(kept, scores.shape)


def block_scores(
    scores: npt.NDArray[Any], block: Block, axes: Axes, *, signed: bool = False
) -> npt.NDArray[Any]:
    """The score of each block, [rest, inputs, outputs] of blocks.

    Args:
        scores: Scores of a kernel's weights.
        block: The pattern.
        axes: Axes of the kernel.
        signed: Whether the scores are numbers to be summed; else they are logarithms of them.
    """
    rest, inputs, outputs = axes.sizes(scores.shape)
    a, b = block.inputs, block.outputs
    parts = axes.arranged(scores).reshape(rest, inputs // a, a, outputs // b, b)
    if signed:
        # What is pruned already, −inf, adds nothing, unless all of the block is.
        gone = np.isneginf(parts)
        sums = np.where(gone, 0, parts).sum(axis=(2, 4), dtype=np.float64)
        return np.where(gone.all(axis=(2, 4)), -np.inf, sums).astype(scores.dtype)
    largest = parts.max(axis=(2, 4), keepdims=True)
    # Each term is divided by the block's largest, so no sum overflows or vanishes.
    shift = np.where(np.isfinite(largest), largest, 0)
    with np.errstate(divide="ignore"):
        sums = np.log(np.exp(parts - shift).sum(axis=(2, 4), dtype=np.float64))
    return (sums + shift[:, :, 0, :, 0]).astype(scores.dtype)


def spread(
    kept: npt.NDArray[np.bool_], block: Block, axes: Axes, shape: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """The mask of a kernel's weights from that of its blocks."""
    whole = kept.repeat(block.inputs, axis=1).repeat(block.outputs, axis=2)
    return axes.restored(whole, shape)
