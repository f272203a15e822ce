"""What `prune` did, to be shown and kept."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Any

from rich.console import Console

from prospr_ops.methods import method_label
from prospr_ops.pruning.mask_files import PackedMasks, read_masks, write_masks
from prospr_ops.pruning.selection import Scores
from prospr_ops.pruning.summary import layer_rows
from prospr_ops.utils.tables import Rows, html_table, percent, rich_table


@dataclass(frozen=True, repr=False, eq=False)
class PruneResult:
    """What `prune` did.

    Attributes:
        masks: Boolean array by variable path, True for a weight that is kept. Held at a bit a weight:
            every look-up makes a new array. With structure="channel" there are masks of biases,
            gammas and betas too.
        scores: What the masks were selected by: log-score array by variable path; larger is more
            important. As `score` returns them; of "synflow", those of the last iteration.
        sparsity: The fraction that was asked for.
        settings: The options of the run, the seed included, but for `loss`, `prunable` and
            `allow_empty`; and how many replicas there were.
        losses: Loss of each prospect step and of the final batch; empty for methods without data.
        estimators: By variable path, which curvature estimator was used and what it is worth:
            "ggn (exact)", "ggn (Gauss-Newton: …)" or "hutchinson (why)"; empty for methods without
            curvature.
        seconds: Time the whole call took.
        uses: By variable path, the multiply-adds a sample that each weight of a kernel takes part in
            (see `prospr_ops.pruning.flops`); without those where it is not known.
        shrunk: By variable path, the number of weights of each kernel once `shrink` has removed the
            pruned channels; empty without structure="channel".
        input_shape: Shape of a sample, of a model with one input; None where it is not known.
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
        title = (
            f"{method_label(self.settings['method'])}, {percent(self.sparsity)} sparsity: "
            f"{self.kept:,} of {self.weights:,} weights kept"
        )
        return layer_rows(title, self.masks, self.uses, self.estimators, self.shrunk)

    def _repr_html_(self) -> str:
        """The table of `summary`, as notebooks show it."""
        return html_table(self.rows())

    def summary(self, console: Console | None = None) -> None:
        """Prints a table of the weights by layer: shape, how many are kept, and FLOPs a sample.

        FLOPs are two for each multiply-add with a weight, for all weights → those that are kept;
        "–" where it is not known. With structure="channel" they are those after `shrink`, which
        removes the inputs of what is behind a pruned channel too.

        Args:
            console: Where to print; by default standard output.
        """
        (console or Console()).print(rich_table(self.rows()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all of it to one file, with the masks packed to bits.

        It is an .npz file that `numpy.load` opens, written whole or not at all. `load` and
        `apply_masks` read it.

        Args:
            path: Of the file; one that exists is replaced.

        Raises:
            OSError: It cannot be written. What was there before is as it was.
        """
        arrays = ("masks", "scores")
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in arrays}
        write_masks(path, self.masks, self.scores, record)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PruneResult:
        """Reads a file that `save` wrote; nothing in it is executed.

        Raises:
            OSError: It cannot be read.
            ValueError: It is truncated or damaged, holds something else, or is of a newer version.
        """
        masks, scores, record = read_masks(path)
        try:
            return cls(masks=PackedMasks(masks), scores=scores, **_checked(record))
        except (KeyError, TypeError) as error:
            msg = f"{path} holds masks, but no record of `prune`: {error}"
            raise ValueError(msg) from error


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    """The record that was written, in the types that it had before.

    Raises:
        KeyError: Something is missing.
        TypeError: Something is of another type.
    """
    # Files of earlier versions have none of these.
    record = {"uses": {}, "shrunk": {}, "input_shape": None, **record}
    number = (int, float)
    for name, kind, element in (
        ("sparsity", number, None),
        ("settings", dict, None),
        ("losses", list, number),
        ("estimators", dict, str),
        ("seconds", number, None),
        ("uses", dict, int),
        ("shrunk", dict, int),
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
