"""Rounds of pruning: what is pruned before each, and the state in which it finds the model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from prospr_ops.network import keras_private
from prospr_ops.pruning.arrays import Masks
from prospr_ops.pruning.channels.groups import ChannelGroups
from prospr_ops.pruning.masks import mask_of
from prospr_ops.pruning.patterns import Block, NByM
from prospr_ops.pruning.target import Target, kept_count

# Offset between the seeds of a model's random layers in consecutive rounds.
_SEED_STRIDE = 0x85EBCA6B


class Rounds:
    """The state of a model in rounds that each score what the rounds before have kept.

    Every round finds the variables as they were before the first, but for what is pruned by then,
    which is zero, and for the seeds of random layers, which are others in each. What makes the state
    of a round is its number and the masks alone, so that a killed run can go on in it.

    Where pruned weights may return (`revive`), their initial values are kept, and nothing that a round
    prunes counts as dead.

    Attributes:
        held: Masks of variables by id, as `prospr_ops.methods.engine.problem.Problem` takes them.
        dead: Where weights, or channels, are pruned by now for good, by path; without those where
            nothing is.
        initial: Weights before the first round by path, if pruned ones may return; else None.
        size: Number of weights, or channels, that are scored.
        alive: Fraction of them that was not pruned before the first round.

    Args:
        model: The model, in the state before the first round.
        weights: Its scored variables by path.
        channels: The groups of channels, if these are scored.
        rounds: Number of rounds.
        revive: Whether what a round prunes may return in a later one.
    """

    def __init__(
        self,
        model: keras.Model,
        weights: Mapping[str, keras.Variable],
        channels: ChannelGroups | None,
        rounds: int,
        *,
        revive: bool = False,
    ) -> None:
        self._channels = channels
        self.initial: dict[str, tf.Tensor] | None = None
        if revive:
            self.initial = {path: tf.identity(v.value) for path, v in weights.items()}
        self._dead_before = self.dead = _dead(weights, channels)
        parts = weights if channels is None else channels.groups
        self.size = sum(math.prod(part.shape) for part in parts.values())
        self.alive = 1.0 - sum(map(np.count_nonzero, self.dead.values())) / self.size
        masks = {id(v.value): mask_of(v) for v in model.trainable_variables}
        self._masks_before = {key: mask for key, mask in masks.items() if mask is not None}
        self.held: dict[int, tf.Tensor | tf.Variable] = {
            key: tf.constant(mask) for key, mask in self._masks_before.items()
        }
        if rounds == 1:
            return
        # TensorFlow copies a variable's buffer only when it is next written.
        self._initial = [(variable, tf.identity(variable.value)) for variable in model.variables]
        self._seeds = {id(seed) for seed in keras_private.seed_states(model)}
        self._maskable = (
            dict(weights)
            if channels is None
            else {path: member.variable for path, member in channels.members.items()}
        )
        for variable in self._maskable.values():
            # A variable and no constant, so that one trace serves all rounds.
            key, everywhere = id(variable.value), np.ones(tuple(variable.shape), bool)
            mask = self._masks_before.get(key, everywhere)
            self.held[key] = tf.Variable(mask, trainable=False, dtype=tf.bool)

    def begin(self, number: int, kept: Mapping[str, np.ndarray]) -> None:
        """Sets the model to the state in which a round finds it.

        Args:
            number: Number of the round, from 1: the model is in the state of round 0.
            kept: What the rounds before have kept of what is scored, by path.
        """
        if self.initial is None:
            gone = {p: ~mask | self._dead_before.get(p, np.False_) for p, mask in kept.items()}
            self.dead = {path: dead for path, dead in gone.items() if dead.any()}
        masks = {id(self._maskable[path]): mask for path, mask in self.masks(kept).items()}
        shift = tf.constant([number * _SEED_STRIDE, 0], tf.int64)
        for variable, value in self._initial:
            if id(variable) in self._seeds:
                variable.assign(value + tf.cast(shift, value.dtype))
            elif id(variable) in masks:
                key = id(variable.value)
                mask = masks[id(variable)] & self._masks_before.get(key, np.True_)
                self.held[key].assign(mask)
                variable.assign(tf.where(mask, value, tf.zeros_like(value)))
            else:
                variable.assign(value)

    def masks(self, kept: Mapping[str, np.ndarray]) -> Masks:
        """Masks of variables, from what is kept of what is scored."""
        return dict(kept) if self._channels is None else self._channels.masks(kept)


def _dead(
    weights: Mapping[str, keras.Variable], channels: ChannelGroups | None
) -> dict[str, np.ndarray]:
    """Where weights, or channels, are pruned already, by path; without those where nothing is.

    A weight is, if a mask says so, or if it is zero and others of its array are not.
    """
    if channels is not None:
        return channels.without_kernels(
            {p: mask_of(m.variable) for p, m in channels.members.items()}
        )
    dead = {}
    for path, variable in weights.items():
        values, mask = variable.numpy(), mask_of(variable)
        gone = (values == 0) & bool(values.any())
        if mask is not None:
            gone |= ~mask
        if gone.any():
            dead[path] = gone
    return dead


# Where the bound on the number of rounds is lower than this, more are tried out.
_FEW = 200


def _each_prunes(rounds: int, size: int, before: float, target: Target) -> bool:
    """Whether each of so many rounds prunes at least one of `size` weights or channels."""
    ways = [target.at(r / rounds, before).sparsity for r in range(1, rounds + 1)]
    counts = [round(size * before), *(kept_count(size, way or 0.0) for way in ways)]
    return all(less < more for more, less in itertools.pairwise(counts))


def check_rounds(rounds: int, size: int, before: float, target: Target) -> None:
    """Refuses so many rounds that one would prune nothing.

    The last one prunes least, but for a pattern n:m, whose numbers are small.

    Args:
        rounds: Number of rounds that is asked for.
        size: Number of weights, or channels.
        before: Fraction of them that is kept before the first round.
        target: What is kept after the last round.

    Raises:
        ValueError: There are too many; the message says how many there may be.
    """
    if rounds == 1:
        return
    pattern = target.pattern
    if isinstance(pattern, NByM):
        if (
            rounds > pattern.m - pattern.n
            or len(
                {
                    pattern.m,
                    *(target.at(r / rounds).of_each(pattern.m) for r in range(1, rounds + 1)),
                }
            )
            <= rounds
        ):
            msg = (
                f"rounds={rounds} are too many for pattern {str(pattern)!r}: one of them would prune "
                f"none of the {pattern.m} weights of a group"
            )
            raise ValueError(msg)
        return
    if isinstance(pattern, Block):
        size //= pattern.size
    if not target.ranks_all:
        before = 1.0
    density, most = target.density, 1
    if density < before:
        most = max(1, int(math.log(before / density) / math.log1p(1 / (size * density))))
    if target.ranks_all and most < _FEW:  # the bound, which takes no rounding, may be too low
        while most < rounds and _each_prunes(most + 1, size, before, target):
            most += 1
    if rounds > most:
        msg = (
            f"rounds must be at most {most:,}, not {rounds:,}: from {before:.4g} to {density:.4g} of "
            f"{size:,} weights (or channels), one of more rounds would prune nothing"
        )
        raise ValueError(msg)
