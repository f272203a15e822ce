"""Structured pruning: whole channels are scored, selected and masked.

A *group* is a set of channels that can only be removed together (see `prospr_ops.channels`), most
often a single one. It has one mask value, which multiplies all that makes it: kernel columns, biases,
and gamma and beta of BatchNormalization. Its score is the derivative by that one value, which is the
sum of the derivatives by the values of its weights, **with their signs**:

    score = |Σ_w ∂L/∂c_w|

Gamma is no detail: a loss behind train-mode BatchNormalization does not change when a kernel column
is scaled, so the sum over the column alone is zero, whatever the channel is worth, and of SNIP only
rounding would be left. What is zero, as biases and beta are at initialisation, adds nothing, and is
not scored.

By magnitude a group's score is the sum of magnitudes, Σ|w|: the L1 norm of all that is pruned with
it. The scores of random pruning are independent, one a group.

Masks cover the same variables, so that a pruned channel is exactly zero, and stays so under training:
behind a kernel column of zeros alone, beta or the bias would grow into a constant again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from prospr_ops.channels import FIXED, ChannelGraph, Labels, Sliced
from prospr_ops.prunable import Prunable, prunable_weights, trainable_weights
from prospr_ops.selection import Masks, Scores

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChannelGroups:
    """The groups of channels of a model that may be pruned.

    Attributes:
        groups: Every group once, by the path of the first kernel that makes one of its channels, in
            the model's order.
        members: What makes the groups, by variable path, with the group of each slice along its own
            axis; `FIXED` for one that must stay.
    """

    groups: dict[str, Labels]
    members: dict[str, tuple[Sliced, Labels]]

    @classmethod
    def of(cls, model: keras.Model, prunable: Prunable | None = None) -> ChannelGroups:
        """Finds the groups all of whose kernels are prunable, and all of whose variables trainable.

        Raises:
            TypeError: `model` is no Keras model.
            ValueError: The model is not functional or Sequential, or no channel may be pruned.
        """
        kernels = prunable_weights(model, prunable)
        graph = ChannelGraph(model)
        paths = {id(variable): path for path, variable in trainable_weights(model).items()}
        fixed = np.zeros(graph.labels, bool)
        fixed[FIXED] = True
        members = {}
        for sliced in graph.sliced.values():
            if sliced.own is None:
                continue
            labels = graph.groups(sliced.axes[sliced.own])
            path = paths.get(id(sliced.variable))
            if path is None or (len(sliced.variable.shape) > 1 and path not in kernels):
                fixed[labels] = True
            if path is not None:
                members[path] = (sliced, labels)
        members = {path: (s, np.where(fixed[g], FIXED, g)) for path, (s, g) in members.items()}

        groups: dict[str, Labels] = {}
        seen = fixed
        for path in kernels:
            if path in members:
                _, labels = members[path]
                new = np.unique(labels[~seen[labels]])
                seen[new] = True
                if new.size:
                    groups[path] = new
        if not groups:
            why = f"; left whole: {', '.join(graph.left_whole)}" if graph.left_whole else ""
            msg = (
                f"model {model.name!r} has no channel that can be pruned: all belong to its inputs "
                f"and outputs, or to what is not prunable{why}"
            )
            raise ValueError(msg)
        return cls(groups, members)

    def scored(self) -> dict[str, keras.Variable]:
        """The variables that add to a score: kernels, and whatever else is not zero."""
        return {
            path: sliced.variable
            for path, (sliced, labels) in self.members.items()
            if labels.any() and keras.ops.convert_to_numpy(sliced.variable).any()
        }

    def scores(self, logs: Mapping[str, Any], signs: Mapping[str, Any]) -> Scores:
        """log|Σ sign · exp(log)| of each group, over the elements of its members.

        Args:
            logs: Array by path of a scored variable, in its shape.
            signs: Their signs; a path without one is positive throughout.

        Returns:
            Float64 vectors by path, as in `groups`; −inf for a sum of zero.
        """
        size = 1 + max(int(labels.max()) for _, labels in self.members.values())
        largest = np.full(size, -np.inf)
        for path, log in logs.items():
            sliced, labels = self.members[path]
            np.maximum.at(largest, labels, log.max(axis=_all_but(sliced)))
        # Every term is divided by its group's largest: nothing overflows, nor vanishes together.
        shift = np.where(np.isneginf(largest), 0.0, largest)
        total = np.zeros(size)
        for path, log in logs.items():
            sliced, labels = self.members[path]
            along = [1] * log.ndim
            along[sliced.own] = -1
            terms = np.exp(log.astype(np.float64) - shift[labels].reshape(along))
            if path in signs:
                terms *= np.asarray(signs[path])
            np.add.at(total, labels, terms.sum(axis=_all_but(sliced)))
        with np.errstate(divide="ignore"):
            sums = np.log(np.abs(total)) + shift
        return {path: sums[groups] for path, groups in self.groups.items()}

    def masks(self, kept: Mapping[str, Any]) -> Masks:
        """Masks of all members from those of the groups."""
        keep = np.ones(1 + max(int(labels.max()) for _, labels in self.members.values()), bool)
        for path, groups in self.groups.items():
            keep[groups] = kept[path]
        return {
            path: _spread(keep[labels], sliced)
            for path, (sliced, labels) in self.members.items()
            if labels.any()
        }


def channel_masks(
    model: keras.Model, kept: Mapping[str, Any], *, prunable: Prunable | None = None
) -> Masks:
    """Masks of weights from masks of channels.

    The last of the steps that `prune` with structure="channel" is made of:

        scores = po.score(model, data, structure="channel")
        po.apply_masks(model, po.channel_masks(model, po.select(scores, 0.5)))

    Args:
        model: The model that was scored.
        kept: Boolean vector by path, True for a group of channels that is kept, in the shapes that
            `prospr_ops.score` returned.
        prunable: What was given to `prospr_ops.score`.

    Returns:
        Boolean array by variable path, in the variable's shape: of the kernels, biases, gammas and
        betas that make the channels, False for all that makes a pruned one.

    Raises:
        TypeError: `model` is no Keras model, or a mask is not boolean.
        ValueError: The model is not functional or Sequential, or the masks do not fit it.
    """
    groups = ChannelGroups.of(model, prunable)
    expected = {path: labels.shape for path, labels in groups.groups.items()}
    arrays = {path: np.asarray(mask) for path, mask in kept.items()}
    for path, mask in arrays.items():
        if mask.dtype != np.bool_:
            msg = f"the mask of {path} must be boolean, not {mask.dtype}"
            raise TypeError(msg)
    found = {path: mask.shape for path, mask in arrays.items()}
    if found != expected:
        msg = f"kept has the shapes {found}; the channels of the model have {expected}"
        raise ValueError(msg)
    return groups.masks(arrays)


def _all_but(sliced: Sliced) -> tuple[int, ...]:
    return tuple(axis for axis in range(len(sliced.variable.shape)) if axis != sliced.own)


def _spread(values: npt.NDArray[np.bool_], sliced: Sliced) -> npt.NDArray[np.bool_]:
    """A vector along the own axis, in the variable's shape."""
    shape = np.expand_dims(values, _all_but(sliced))
    return np.broadcast_to(shape, tuple(sliced.variable.shape)).copy()
