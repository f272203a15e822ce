"""The result of `prune`: shown, saved and loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Any

from rich.console import Console

from prospr_ops.methods import method_label
from prospr_ops.pruning.arrays import Scores
from prospr_ops.pruning.mask_files import PackedMasks, read_masks, write_masks
from prospr_ops.pruning.summary import layer_rows
from prospr_ops.utils.tables import Rows, html_table, percent, rich_table


@dataclass(frozen=True, repr=False, eq=False)
class PruneResult:
    """The result of `prune`.

    Attributes:
        masks: Boolean array by variable path, True for a weight that is kept. Stored at 1 bit per
            weight: every lookup makes a new array. With structure="channel" there are also masks of
            biases, gammas and betas.
        scores: Array of log-scores by variable path, from which the masks were selected, as `score`
            returns them; larger is more important. Those of the last round: −inf for what the rounds
            before have pruned, unless that may return (`revive`).
        sparsity: The fraction of weights (or groups of channels) to prune that was asked for; what
            came of it where `flops` or the scope alone said how much.
        settings: The options of the run, including the seed (but not `loss`, `prunable` and
            `allow_empty`), and the number of replicas.
        losses: Loss of each prospect step and of the final batch, round after round; empty for
            methods without data.
        estimators: By variable path, which curvature estimator was used and how it relates to the
            Hessian: "ggn (exact)", "ggn (Gauss-Newton: …)" or "hutchinson (why)"; empty for methods
            without curvature.
        seconds: Wall-clock time of the call.
        uses: Multiply-adds per sample that each weight of a kernel takes part in, by variable path
            (see `prospr_ops.pruning.flops`); paths where this is unknown are missing.
        shrunk: Number of weights of each kernel after `shrink` has removed the pruned channels, by
            variable path; empty without structure="channel".
        left_out: Large trainable matrices that are not prunable by default, by variable path: shape,
            number of weights and class of the layer; empty if `prunable` was given.
        pruned_groups: Numbers of the groups of channels that were pruned, by path as in `scores`;
            empty without structure="channel".
        input_shape: Shape of one sample, for a model with one input; None if it is unknown.

    Examples:
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> po.prune(model, None, sparsity=0.9, method="magnitude", verbose=0)
        PruneResult(...)
    """

    masks: PackedMasks
    scores: Scores
    sparsity: float
    settings: dict[str, Any]
    losses: tuple[float, ...]
    estimators: dict[str, str]
    seconds: float
    uses: dict[str, int] = field(default_factory=dict)
    input_shape: tuple[int, ...] | None = None
    shrunk: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    pruned_groups: dict[str, list[int]] = field(default_factory=dict)

    @property
    def weights(self) -> int:
        """Number of prunable weights."""
        return self.masks.size

    @property
    def kept(self) -> int:
        """Number of weights that were kept."""
        return self.masks.kept

    def __repr__(self) -> str:
        """One line, without the arrays."""
        return (
            f"PruneResult(method={self.settings['method']!r}, sparsity={self.sparsity:g}, "
            f"kept={self.kept:,} of {self.weights:,} weights, seconds={self.seconds:.2f})"
        )

    def rows(self) -> Rows:
        """The table of `summary`, as cells."""
        flops, pattern = self.settings.get("flops"), self.settings.get("pattern")
        rounds = self.settings.get("rounds", 1)  # files of earlier versions have none
        label = method_label(self.settings["method"]) + f" in {rounds} rounds" * (rounds > 1)
        budget = f"{percent(self.sparsity)} sparsity"
        if flops is not None:
            budget = f"{percent(flops)} of the FLOPs"
        if pattern is not None:
            budget += f", pattern {pattern}"
        title = f"{label}, {budget}: {self.kept:,} of {self.weights:,} weights kept"
        probes = self.settings.get("probes", 1)
        return layer_rows(
            title, self.masks, self.uses, self.estimators, self.shrunk, self.left_out, probes
        )

    def _repr_html_(self) -> str:
        """The table of `summary`, as notebooks show it."""
        return html_table(self.rows())

    def summary(self, console: Console | None = None) -> None:
        """Prints a table of the weights by layer: shape, number kept, and FLOPs per sample.

        FLOPs are two per multiply-add with a weight, for all weights → for the kept ones; "–" if
        unknown. With structure="channel" the latter are those after `shrink`: the layers behind a
        pruned channel also have fewer inputs. Large matrices that are not prunable by default are
        named below the table.

        Args:
            console: Console to print to; standard output by default.
        """
        (console or Console()).print(rich_table(self.rows()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the result to one file, with the masks at 1 bit per weight.

        The file is an .npz archive that `numpy.load` opens, written whole or not at all. `load` and
        `apply_masks` read it.

        Args:
            path: File to write; an existing one is replaced.

        Raises:
            OSError: The file cannot be written; an existing one is unchanged.

        Examples:
            >>> import prospr_ops as po
            >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
            >>> result = po.prune(model, None, sparsity=0.9, method="magnitude", verbose=0)
            >>> result.save("pruned.npz")
            >>> po.apply_masks(model, "pruned.npz")
        """
        arrays = ("masks", "scores")
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in arrays}
        write_masks(path, self.masks, self.scores, record)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PruneResult:
        """Reads a file that `save` wrote; nothing in it is executed.

        Args:
            path: File to read.

        Returns:
            A result equal to the one that was saved.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file is truncated or damaged, holds something else, or was written by a
                newer version.

        Examples:
            >>> import prospr_ops as po
            >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
            >>> result = po.prune(model, None, sparsity=0.9, method="magnitude", verbose=0)
            >>> result.save("pruned.npz")
            >>> po.PruneResult.load("pruned.npz").sparsity
            0.9
        """
        masks, scores, record = read_masks(path)
        try:
            return cls(masks=PackedMasks(masks), scores=scores, **_checked(record))
        except (KeyError, TypeError) as error:
            msg = f"{path} holds masks, but no record of `prune`: {error}"
            raise ValueError(msg) from error


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    """The record that was written, with the types that it had before.

    Raises:
        KeyError: An entry is missing.
        TypeError: An entry has another type.
    """
    # Files of earlier versions have none of these.
    later: dict[str, dict[str, Any]] = {
        name: {} for name in ("uses", "shrunk", "left_out", "pruned_groups")
    }
    record = {**later, "input_shape": None, **record}
    number = (int, float)
    for name, kind, element in (
        ("sparsity", number, None),
        ("settings", dict, None),
        ("losses", list, number),
        ("estimators", dict, str),
        ("seconds", number, None),
        ("uses", dict, int),
        ("shrunk", dict, int),
        ("left_out", dict, str),
        ("pruned_groups", dict, list),
        ("input_shape", (list, type(None)), int),
    ):
        value = record[name]
        parts = value.values() if isinstance(value, dict) else value
        if not isinstance(value, kind) or (
            element and not all(isinstance(part, element) for part in parts or [])
        ):
            msg = f"{name} is {value!r}"
            raise TypeError(msg)
    if not isinstance(record["settings"]["method"], str):
        msg = f"method is {record['settings']['method']!r}"
        raise TypeError(msg)
    shape = record["input_shape"]
    return {
        **record,
        "losses": tuple(record["losses"]),
        "input_shape": None if shape is None else tuple(shape),
    }
