"""What a comparison consists of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from prospr_ops.cli.comparison.training import Training
from prospr_ops.methods import METHODS, Method, method_label
from prospr_ops.pruning.target import check_revive
from prospr_ops.utils.checks import check_integer, check_real, choose

DENSE = "dense"

# Sanity checks of a method's masks (Frankle et al., arXiv 2009.08576; Su et al., arXiv 2009.11094).
# By what they are called in a table: masks shuffled within each layer, and on newly drawn weights.
CONTROLS = {"shuffled": "shuffled", "reinit": "new weights"}


# What is pruned while it is trained, by a callback of `prospr_ops.callbacks`, and what a table calls it.
DURING = {
    "gradual": "Gradual pruning",
    "rigl": "RigL",
    "set": "SET",
    "exact_rigl": "RigL from the masks of ProsPr-exact",
}


# What is pruned before training by no method of `prospr_ops.prune`: the masks that RigL and SET begin with.
DRAWN = {"random_erk": "Random, by ERK"}


# The names in `Cell.identity`.
IDENTITY = (
    "model", "dataset", "pretrained", "method", "steps", "rounds", "revive", "learning_rate", "batch_size",
    "sparsity", "flops", "seed", *(f"training_{field.name}" for field in fields(Training)), "validation",
)  # fmt: skip


@dataclass(frozen=True)
class Contender:
    """A row of the comparison.

    Attributes:
        method: A pruning method's name, one of `DURING` or `DRAWN`, or "dense" for the network that is
            not pruned.
        steps: Prospect steps; None for a method that takes none.
        control: "shuffled" or "reinit" for a sanity check of the method's masks, else "".
        rounds: Rounds of pruning; None for the method's own number.
        revive: Whether pruned weights may return in them.
    """

    method: str
    steps: int | None = None
    control: str = ""
    rounds: int | None = None
    revive: bool = False

    @property
    def scored(self) -> Method | None:
        """The method whose scores prune it before training; None if there is none."""
        return METHODS.get(self.method)

    @classmethod
    def parse(cls, text: str) -> Contender:
        """Reads "[control:]method[:steps][@rounds[+revive]]", such as "shuffled:exact:3@5".

        A method that takes steps takes 3 unless told otherwise.

        Raises:
            ValueError: The text is of another form, or a name in it is unknown.
        """
        control, _, rest = text.partition(":")
        if control not in CONTROLS:
            control, rest = "", text
        rest, at, count = rest.partition("@")
        method, colon, number = rest.partition(":")
        choose("the method of a contender", method, [*METHODS, *DURING, *DRAWN, DENSE])
        if control and method == DENSE:
            msg = f"the dense network has no masks, so there is no {text!r}"
            raise ValueError(msg)
        if control and method in DURING:
            msg = f"{method} has no masks before training, so there is no {text!r}"
            raise ValueError(msg)
        if number and not _takes_steps(method):
            msg = f"{method} takes no steps, so {text!r} cannot have {number}"
            raise ValueError(msg)
        if at and method not in METHODS:
            msg = f"{method} has no scores, so {text!r} cannot have rounds"
            raise ValueError(msg)
        count, plus, option = count.partition("+")
        if (
            (colon and not number.isdecimal())
            or (at and not (count.isdecimal() and int(count)))
            or (plus and option != "revive")
        ):
            msg = (
                "a contender is [control:]method[:steps][@rounds[+revive]], such as exact:3@5, "
                f"not {text!r}"
            )
            raise ValueError(msg)
        rounds = int(count) if at else None
        check_revive(bool(plus), method, rounds, "weight")
        steps = int(number or 3) if _takes_steps(method) else None
        return cls(method, steps, control, rounds, bool(plus))

    def label(self, rate: float | None = None) -> str:
        """How a table names it: "ProsPr-exact, M = 3, 5 rounds, α = 0.1, shuffled".

        Args:
            rate: Learning rate of the prospect steps, where the table has several.
        """
        parts = [{**DURING, **DRAWN}.get(self.method) or method_label(self.method)]
        if self.steps is not None:
            parts.append(f"M = {self.steps}")
        if self.rounds is not None:
            parts.append("1 round" if self.rounds == 1 else f"{self.rounds} rounds")
        if self.revive:
            parts.append("may return")
        if rate is not None:
            parts.append(f"α = {rate:g}")
        if self.control:
            parts.append(CONTROLS[self.control])
        return ", ".join(parts)

    def __str__(self) -> str:
        """The form that `parse` reads."""
        parts = [self.control, self.method, "" if self.steps is None else str(self.steps)]
        text = ":".join(part for part in parts if part)
        if self.rounds is not None:
            text += f"@{self.rounds}" + ("+revive" if self.revive else "")
        return text


@dataclass(frozen=True)
class Pruning:
    """How the scores are made, the same for all methods as far as it concerns them.

    Attributes:
        learning_rate: Of the prospect steps.
        batch_size: Samples of one pass.
    """

    learning_rate: float = 0.1
    batch_size: int = 512

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_real("learning_rate", self.learning_rate)
        check_integer("batch_size", self.batch_size, at_least=1)


@dataclass(frozen=True)
class Cell:
    """One network of the comparison: pruned once, trained once.

    Attributes:
        model: Name of a function in `prospr_ops.models`.
        contender: How it is pruned.
        sparsity: In [0, 1); 0 for the dense network. None where `flops` is given.
        seed: Of the initial weights, the pruning and the training.
        pruning: How the scores are made.
        training: How it is trained.
        validation: Whether the error is that on the last 10,000 training samples, which are then
            not trained on, instead of that on the test set.
        dataset: Name of a data set in `prospr_ops.data`.
        pretrained: Name of the data set that the dense network was trained on before, in the same way;
            None for initial weights.
        flops: Fraction of the multiply-adds that are kept, in (0, 1], in the place of a sparsity.
    """

    model: str
    contender: Contender
    sparsity: float | None
    seed: int
    pruning: Pruning
    training: Training
    validation: bool = False
    dataset: str = "mnist"
    pretrained: str | None = None
    flops: float | None = None

    def identity(self) -> dict[str, Any]:
        """What tells the cell from others in a journal, flat, as JSON can hold it."""
        method, control = self.contender.scored, self.contender.control
        prospect = method is not None and method.needs_data
        return {
            "model": self.model,
            "dataset": self.dataset,
            "pretrained": self.pretrained,
            "method": f"{control}:{self.contender.method}" if control else self.contender.method,
            "steps": self.contender.steps,
            "rounds": self.contender.rounds,
            "revive": self.contender.revive or None,  # older journals do not have it
            "learning_rate": self.pruning.learning_rate if self.contender.steps else None,
            "batch_size": self.pruning.batch_size if prospect else None,
            "sparsity": self.sparsity,
            "flops": self.flops,  # older journals do not have it
            "seed": self.seed,
            **{f"training_{name}": value for name, value in asdict(self.training).items()},
            "validation": self.validation,
        }


def grid(
    model: str,
    contenders: Sequence[Contender],
    sparsities: Sequence[float],
    seeds: Iterable[int],
    pruning: Pruning,
    training: Training,
    validation: bool,
    dataset: str = "mnist",
    pretrained: str | None = None,
    flops: Sequence[float] = (),
) -> list[Cell]:
    """All cells, seed after seed; those which share their scores follow each other."""
    budgets = [(sparsity, None) for sparsity in sparsities] + [(None, share) for share in flops]
    by_scores: dict[Contender, list[Contender]] = {}
    for contender in dict.fromkeys(contenders):
        by_scores.setdefault(replace(contender, control=""), []).append(contender)
    return [
        Cell(
            model,
            contender,
            sparsity,
            seed,
            pruning,
            training,
            validation,
            dataset,
            pretrained,
            share,
        )
        for seed in seeds
        for group in by_scores.values()
        for contender in group
        for sparsity, share in ([(0.0, None)] if contender.method == DENSE else budgets)
    ]


def _takes_steps(method: str) -> bool:
    return method in METHODS and METHODS[method].passes(1) != METHODS[method].passes(2)
