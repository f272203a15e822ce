"""What the axes of a kernel run over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Axes(NamedTuple):
    """The axes of a kernel that run over what it reads and over what it makes.

    Attributes:
        inputs: Axes that are summed over; none for a depthwise kernel but its positions.
        outputs: Axes that run over the outputs.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def order(self, dimensions: int) -> tuple[int, ...]:
        """All axes: the rest, inputs, outputs."""
        named = {*self.inputs, *self.outputs}
        rest = tuple(axis for axis in range(dimensions) if axis not in named)
        return rest + self.inputs + self.outputs

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Sizes of a kernel as [rest, inputs, outputs]."""
        inputs = math.prod(shape[axis] for axis in self.inputs)
        outputs = math.prod(shape[axis] for axis in self.outputs)
        named = {*self.inputs, *self.outputs}
        rest = math.prod(size for axis, size in enumerate(shape) if axis not in named)
        return rest, inputs, outputs

    def neurons(self, shape: Sequence[int]) -> int:
        """Sum of a kernel's sizes: inputs + outputs + height + width; ≥ 1."""
        _, inputs, outputs = self.sizes(shape)
        named = {*self.inputs, *self.outputs}
        rest = sum(size for axis, size in enumerate(shape) if axis not in named)
        return rest + bool(self.inputs) * inputs + bool(self.outputs) * outputs or 1

    def arranged(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A kernel as [rest, inputs, outputs]."""
        return array.transpose(self.order(array.ndim)).reshape(self.sizes(array.shape))

    def restored(self, array: npt.NDArray[Any], shape: Sequence[int]) -> npt.NDArray[Any]:
        """The kernel in its own shape again, from [rest, inputs, outputs]."""
        order = self.order(len(shape))
        back = array.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))
        return np.ascontiguousarray(back)
