"""What a selection is made of: arrays by path, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from prospr_ops.utils.axes import Axes

Masks = dict[str, npt.NDArray[np.bool_]]
Scores = dict[str, npt.NDArray[np.floating]]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


class Channels(Protocol):
    """What a selection asks of `prospr_ops.pruning.channels.groups.ChannelGroups`."""

    @property
    def groups(self) -> Mapping[str, npt.NDArray[Any]]:
        """The groups, by path as in the scores."""

    @property
    def kernels(self) -> Mapping[str, Any]:
        """The prunable kernels, by path."""

    def costs(self, uses: Mapping[str, int]) -> Mapping[str, npt.NDArray[np.int64]]:
        """Multiply-adds per sample with the slices of each group."""

    def multiply_adds(self, uses: Mapping[str, int], kept: Mapping[str, Any] | None = None) -> int:
        """Multiply-adds per sample without the slices of groups not kept."""


@dataclass(frozen=True)
class Kernels:
    """What a selection has to know of the arrays that were scored.

    Attributes:
        axes: Axes by path; an array without them is taken as [rest, inputs, outputs].
        uses: Multiply-adds per sample that each weight takes part in, by path.
        channels: The groups of channels that were scored instead of weights, or None.
        dead: Where what was scored is pruned for good, by path; without those where nothing is.
        signed: Whether the scores are signed numbers instead of logarithms.
    """

    axes: Mapping[str, Axes] = field(default_factory=dict)
    uses: Mapping[str, int] = field(default_factory=dict)
    channels: Channels | None = None
    dead: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    signed: bool = False
