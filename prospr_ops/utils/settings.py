"""The options of a scoring run, checked in one place."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from prospr_ops.utils.checks import check_integer, check_real, choose

# What options that name something accept.
CHOICES = {
    "curvature": ("auto", "ggn", "ggn_mc", "hutchinson", "row_sum"),
    "scope": ("global", "layer", "erk"),
    "structure": ("weight", "channel"),
}


@dataclass(frozen=True)
class Settings:
    """Checked options of a scoring run; `prospr_ops.prune` describes them."""

    curvature: str
    probes: int
    steps: int
    learning_rate: float
    momentum: float
    nesterov: bool
    batch_size: int
    microbatch: int | None
    memory: int | None
    seed: int

    @classmethod
    def of(
        cls,
        *,
        curvature: str = "auto",
        probes: int = 1,
        steps: int = 3,
        learning_rate: float = 0.1,
        momentum: float = 0.0,
        nesterov: bool = False,
        batch_size: int = 128,
        microbatch: int | None = None,
        memory: int | None = None,
        seed: int | None = None,
    ) -> Settings:
        """Checks every option and converts it to its plain Python type.

        A `seed` of None becomes a seed drawn from Python's random module, which
        `keras.utils.set_random_seed` seeds, so that a run can be repeated from its record.

        Raises:
            TypeError: An option has the wrong type.
            ValueError: An option is out of range.
        """
        if not isinstance(curvature, str):
            msg = f"curvature must be the name of an estimator, not {type(curvature).__name__}"
            raise TypeError(msg)
        if not isinstance(nesterov, bool):
            msg = f"nesterov must be True or False, not {nesterov!r}"
            raise TypeError(msg)
        momentum = check_real("momentum", momentum, below=1.0)
        if nesterov and momentum == 0.0:
            msg = "nesterov needs a momentum above 0"
            raise ValueError(msg)
        return cls(
            curvature=choose("curvature", curvature, CHOICES["curvature"]),
            probes=check_integer("probes", probes, at_least=1),
            steps=check_integer("steps", steps, at_least=0),
            learning_rate=check_real("learning_rate", learning_rate),
            momentum=momentum,
            nesterov=nesterov,
            batch_size=check_integer("batch_size", batch_size, at_least=1),
            microbatch=(
                None if microbatch is None else check_integer("microbatch", microbatch, at_least=1)
            ),
            memory=None if memory is None else check_integer("memory", memory, at_least=0),
            seed=check_integer(
                "seed", random.randrange(2**31) if seed is None else seed, at_least=0
            ),
        )

    @classmethod
    def among(cls, arguments: Mapping[str, Any]) -> Settings:
        """The settings among the arguments of a function, checked as in `of`."""
        return cls.of(**{f.name: arguments[f.name] for f in fields(cls) if f.name in arguments})
