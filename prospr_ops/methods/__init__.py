"""Pruning methods: one file and one row of `METHODS` each.

The method `name` is the function `name_scorer` of the module `name`, which takes a `Problem` and
returns a function that scores the current weights. This table imports neither these modules nor TensorFlow, so that the shell
command can make its help from it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prospr_ops.methods.engine.problem import Problem, Scorer


@dataclass(frozen=True)
class Method:
    """A pruning method.

    Attributes:
        name: Name of the method as an argument.
        label: Name of the method in papers.
        summary: The score of a weight, in one line.
        passes: Number of passes over a batch, as a function of the number of steps; always 0 for a
            method that uses no data, which accepts data=None.
        sums: Whether the score of a channel is the sum of its weights' scores (with `Found.signs`);
            otherwise the function is given one element per channel instead of the weights.
        second_derivatives: Whether the method differentiates gradients, which TensorFlow cannot do
            behind every operation.
        signed: Whether the scores are signed numbers, of which the largest are kept, instead of
            logarithms of magnitudes.
        rounds: Number of rounds in which `prune` prunes by the method, unless told otherwise.
        revives: Whether pruned weights may return in rounds: whether the score of a pruned weight is
            defined, and letting it return was found to be of use (docs/notes.md).
        settings: Names of the settings that change its scores (see `prospr_ops.utils.settings`).
    """

    name: str
    label: str
    summary: str
    passes: Callable[[int], int]
    sums: bool = True
    second_derivatives: bool = False
    signed: bool = False
    rounds: int = 1
    revives: bool = False
    settings: tuple[str, ...] = ()

    @property
    def needs_data(self) -> bool:
        """Whether the method uses data."""
        return self.passes(0) > 0

    @property
    def scorer(self) -> Callable[[Problem], Scorer]:
        """The function that prepares to score, imported on first use."""
        module = importlib.import_module(f"{__name__}.{self.name}")
        return getattr(module, f"{self.name}_scorer")


_ONE_BATCH = ("batch_size", "microbatch", "seed")
_STEPS = ("steps", "learning_rate", "momentum", *_ONE_BATCH)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "exact",
            "ProsPr-exact",
            "|∂L_M(w_M)/∂c|, the paper's meta-gradient through M steps",
            lambda steps: 2 * steps + 1,
            second_derivatives=True,
            settings=("nesterov", *_STEPS),
        ),
        Method(
            "diagonal",
            "ProsPr-diagonal",
            "|∇L_M(w_M)| · Π|1 − α diag(H_m)| · |w₀|, the curvature of M steps",
            lambda steps: steps + 1,
            second_derivatives=True,
            settings=("curvature", "probes", *_STEPS),
        ),
        Method(
            "first_order",
            "ProsPr-first-order",
            "|∇L_M(w_M) ⊙ w₀| after M steps",
            lambda steps: steps + 1,
            revives=True,
            settings=("nesterov", *_STEPS),
        ),
        Method(
            "snip",
            "SNIP",
            "|∇L(w₀) ⊙ w₀| on one batch",
            lambda _: 1,
            revives=True,
            settings=_ONE_BATCH,
        ),
        Method(
            "grasp",
            "GraSP",
            "w₀ ⊙ Hg, signed: how much less gradient would flow without the weight",
            lambda _: 2,
            second_derivatives=True,
            signed=True,
            settings=_ONE_BATCH,
        ),
        Method(
            "synflow",
            "SynFlow",
            "|∂R/∂w ⊙ w|, R = 1ᵀ(Π|w|)1, in 100 rounds; needs no data",
            lambda _: 0,
            rounds=100,
        ),
        Method("magnitude", "Magnitude", "|w₀|; needs no data", lambda _: 0),
        Method(
            "random",
            "Random",
            "a draw from the seed; needs no data",
            lambda _: 0,
            sums=False,
            settings=("seed",),
        ),
    )
}


def method_label(name: str) -> str:
    """The name of a method in papers; "dense" is "Dense", an unknown name is returned unchanged."""
    return METHODS[name].label if name in METHODS else {"dense": "Dense"}.get(name, name)
