"""Structured pruning: whole channels are scored, selected and masked.

A *group* is a set of channels that must be pruned together (see
`prospr_ops.pruning.channels.graph`), most often a single one. It has one mask value, which
multiplies everything that makes the group: kernel columns, biases, and gamma and beta of
BatchNormalization. Its score is the derivative by that value, which is the sum of the derivatives
by the mask values of its weights, **with their signs**:

    score = |Σ_w ∂L/∂c_w|

Gamma must be included: a loss behind train-mode BatchNormalization does not change when a kernel
column is scaled, so the sum over the column alone is zero for any channel, and SNIP's score would
be rounding. Variables that are zero, as biases and beta are at initialisation, add nothing and are
not scored.

For a method with signed scores (GraSP) the groups with the largest sums are kept, not those with
the largest magnitudes.

For magnitude pruning a group's score is the sum of magnitudes Σ|w|, the L1 norm of everything that
is pruned with it. For random pruning the scores are independent, one per group.

Masks cover the same variables, so a pruned channel is exactly zero and stays zero under training:
if only the kernel column were zero, beta or the bias would grow into a constant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from prospr_ops.network.weights import Prunable, prunable_weights, trainable_weights
from prospr_ops.pruning.channels.graph import FIXED, ChannelGraph
from prospr_ops.pruning.channels.rules import Labels
from prospr_ops.pruning.selection import Masks, Scores


class Member(NamedTuple):
    """A variable whose slices make channels.

    Attributes:
        variable: The variable.
        axis: Axis of the variable that runs over the channels.
        labels: The group of each slice; `FIXED` for a slice that must stay.
    """

    variable: keras.Variable
    axis: int
    labels: Labels

    @property
    def others(self) -> tuple[int, ...]:
        """The other axes, which lie within a slice."""
        return tuple(axis for axis in range(len(self.variable.shape)) if axis != self.axis)

    def spread(self, vector: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Reshapes a vector along the axis to the variable's number of dimensions."""
        return np.expand_dims(vector, self.others)


@dataclass(frozen=True)
class ChannelGroups:
    """The groups of channels of a model that may be pruned.

    Attributes:
        groups: Each group once, by the path of the first kernel that makes one of its channels, in
            the model's order.
        members: Variables that make the groups, by path.
        kernels: By path of each prunable kernel, its shape, and the group of each slice along each
            axis that runs over channels, whether it makes the channels or reads them.
    """

    groups: dict[str, Labels]
    members: dict[str, Member]
    kernels: dict[str, tuple[tuple[int, ...], dict[int, Labels]]]

    @classmethod
    def of(cls, model: keras.Model, prunable: Prunable | None = None) -> ChannelGroups:
        """Finds the groups that may be pruned.

        All kernels of such a group are prunable, and its other variables are trainable, or zero
        already: the moving mean of BatchNormalization without gamma, for instance, is zero at
        initialisation and stays zero behind a pruned channel.

        Raises:
            TypeError: `model` is not a Keras model.
            ValueError: The model is not functional or Sequential, or no channel may be pruned.
        """
        kernels = prunable_weights(model, prunable)
        graph = ChannelGraph(model)
        paths = {id(variable): path for path, variable in trainable_weights(model).items()}
        fixed = np.zeros(graph.labels, bool)
        fixed[FIXED] = True
        members: dict[str, Member] = {}
        whole = list(graph.left_whole)
        for sliced in graph.sliced.values():
            if sliced.own is None:
                continue
            labels = graph.groups(sliced.axes[sliced.own])
            member = Member(sliced.variable, sliced.own, labels)
            path = paths.get(id(sliced.variable))
            if path is None:  # not trainable, so it has no mask: nonzero slices must stay
                values = sliced.variable.numpy()
                nonzero = labels[values.any(axis=member.others)]
                if not fixed[nonzero].all():
                    whole.append(f"{sliced.variable.path} (not zero, and not trained)")
                fixed[nonzero] = True
                continue
            if len(sliced.variable.shape) > 1 and path not in kernels:
                fixed[labels] = True
            members[path] = member
        for path, member in members.items():
            labels = np.where(fixed[member.labels], FIXED, member.labels)
            members[path] = member._replace(labels=labels)

        groups: dict[str, Labels] = {}
        seen = fixed
        for path in kernels:
            if path in members:
                labels, first = np.unique(members[path].labels, return_index=True)
                new = labels[np.argsort(first)]
                new = new[~seen[new]]
                seen[new] = True
                if new.size:
                    groups[path] = new
        if not groups:
            more = f" and {len(whole) - 3} more" if len(whole) > 3 else ""
            why = f"; left whole: {', '.join(whole[:3])}{more}" if whole else ""
            msg = (
                f"model {model.name!r} has no channel that can be pruned: all belong to its inputs "
                f"and outputs, or to what is not prunable{why}"
            )
            raise ValueError(msg)
        cut = {
            paths[id(sliced.variable)]: (
                tuple(sliced.variable.shape),
                {axis: graph.groups(labels) for axis, labels in sliced.axes.items()},
            )
            for sliced in graph.sliced.values()
            if paths.get(id(sliced.variable)) in kernels
        }
        return cls(groups, members, cut)

    def without_kernels(
        self, masks: Mapping[str, npt.NDArray[np.bool_] | None]
    ) -> dict[str, npt.NDArray[np.bool_]]:
        """Where groups have no kernel weight left under these masks, by path, as in `groups`.

        Args:
            masks: Mask by path of each member; None for a member without one.
        """
        alive = np.zeros(self._size, bool)
        for path, member in self.members.items():
            mask = masks[path]
            if len(member.variable.shape) > 1:
                kept = slice(None) if mask is None else mask.any(axis=member.others)
                alive[member.labels[kept]] = True
        dead = {path: ~alive[groups] for path, groups in self.groups.items()}
        return {path: gone for path, gone in dead.items() if gone.any()}

    def weights(self) -> dict[str, keras.Variable]:
        """The variables that contribute to a score: all that are not entirely zero."""
        return {
            path: member.variable
            for path, member in self.members.items()
            if member.labels.any() and member.variable.numpy().any()
        }

    def placeholders(self) -> dict[str, keras.Variable]:
        """One variable per path with one element per group, for scores that are not sums."""
        return {path: keras.Variable(np.zeros(g.shape)) for path, g in self.groups.items()}

    def scores(self, logs: Mapping[str, Any], signs: Mapping[str, Any]) -> Scores:
        """log|Σ sign · exp(log)| of each group, over the elements of its members.

        Args:
            logs: Array of log-magnitudes by path of a scored variable, in the variable's shape.
            signs: Array of signs by path; a path without one has positive signs only.

        Returns:
            Float64 vectors by path, as in `groups`; −inf for a sum of zero.
        """
        largest = np.full(self._size, -np.inf)
        for path, log in logs.items():
            member = self.members[path]
            np.maximum.at(largest, member.labels, log.max(axis=member.others))
        # Each term is divided by its group's largest, so no sum overflows or vanishes.
        shift = np.where(np.isneginf(largest), 0.0, largest)
        total = np.zeros(self._size)
        for path, log in logs.items():
            member = self.members[path]
            terms = np.exp(log - member.spread(shift[member.labels]))
            if path in signs:
                terms *= np.asarray(signs[path])
            np.add.at(total, member.labels, terms.sum(axis=member.others))
        with np.errstate(divide="ignore"):
            sums = np.log(np.abs(total)) + shift
        return {path: sums[groups] for path, groups in self.groups.items()}

    def sums(self, values: Mapping[str, Any]) -> Scores:
        """The sum of each group's signed scores: float64 vectors by path, as in `groups`."""
        total = np.zeros(self._size)
        for path, array in values.items():
            member = self.members[path]
            np.add.at(total, member.labels, array.sum(axis=member.others, dtype=np.float64))
        return {path: total[groups] for path, groups in self.groups.items()}

    def shrunk_sizes(self, masks: Masks) -> dict[str, int]:
        """Number of weights of each kernel by path, without the slices of pruned channels."""
        gone = {
            int(label)
            for path, mask in masks.items()
            for label in self.members[path].labels[~mask.any(axis=self.members[path].others)]
        }
        for _, axes in self.kernels.values():  # a layer of which nothing is left keeps a group
            for labels in axes.values():
                if gone.issuperset(labels.tolist()):
                    gone.remove(int(labels[0]))
        sizes = {}
        for path, (shape, axes) in self.kernels.items():
            kept = {
                axis: sum(int(label) not in gone for label in labels)
                for axis, labels in axes.items()
            }
            sizes[path] = math.prod(kept.get(axis, size) for axis, size in enumerate(shape))
        return sizes

    def masks(self, kept: Mapping[str, Any]) -> Masks:
        """Masks of all members, from the masks of the groups."""
        keep = np.ones(self._size, bool)
        for path, groups in self.groups.items():
            keep[groups] = kept[path]
        return {
            path: np.broadcast_to(
                member.spread(keep[member.labels]), tuple(member.variable.shape)
            ).copy()
            for path, member in self.members.items()
            if member.labels.any()
        }

    @property
    def _size(self) -> int:
        return 1 + max(int(member.labels.max()) for member in self.members.values())


def channel_masks(
    model: keras.Model, kept: Mapping[str, Any], *, prunable: Prunable | None = None
) -> Masks:
    """Makes masks of weights from masks of channels.

    It is the last step before `apply_masks` when `prune` with structure="channel" is done step by
    step.

    Args:
        model: The model that was scored.
        kept: Boolean vector by path, True for a group of channels that is kept, in the shapes that
            `prospr_ops.score` returned.
        prunable: The `prunable` that was given to `prospr_ops.score`.

    Returns:
        Boolean array by variable path, in the variable's shape, for the kernels, biases, gammas and
        betas that make the channels; False for everything that makes a pruned channel.

    Raises:
        TypeError: `model` is not a Keras model, or a mask is not boolean.
        ValueError: The model is not functional or Sequential, or the masks do not fit the model.

    Examples:
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> scores = po.score(model, None, method="magnitude", structure="channel", verbose=0)
        >>> [values.shape for values in scores.values()]  # one score per hidden unit
        [(300,), (100,)]
        >>> masks = po.channel_masks(model, po.select(scores, 0.5, "layer"))
        >>> po.apply_masks(model, masks)
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
