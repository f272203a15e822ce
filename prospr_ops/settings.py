"""The options of a scoring run, checked in one place."""

from __future__ import annotations

import math
import numbers
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


def choose(name: str, value: Any, accepted: Iterable[str]) -> str:
    """Returns `value` if it is one of `accepted`.

    Raises:
        ValueError: It is not; the message lists what is accepted.
    """
    accepted = list(accepted)
    if value not in accepted:
        msg = f"{name} must be one of {', '.join(map(repr, accepted))}, not {value!r}"
        raise ValueError(msg)
    return value


def check_real(name: str, value: Any, *, below: float = math.inf) -> float:
    """Returns `value` as a float if it is a number in [0, `below`).

    Raises:
        TypeError: It is not a number.
        ValueError: It is out of range or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        msg = f"{name} must be a number, not {type(value).__name__}"
        raise TypeError(msg)
    value = float(value)
    if not 0 <= value < below:
        limit = "finite" if below == math.inf else f"less than {below:g}"
        msg = f"{name} must be at least 0 and {limit}, not {value!r}"
        raise ValueError(msg)
    return value


def check_integer(name: str, value: Any, *, at_least: int) -> int:
    """Returns `value` as an int if it is an integer of at least `at_least`.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is too small.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        msg = f"{name} must be an integer, not {type(value).__name__} ({value!r})"
        raise TypeError(msg)
    if value < at_least:
        msg = f"{name} must be at least {at_least}, not {value!r}"
        raise ValueError(msg)
    return int(value)


@dataclass(frozen=True)
class Settings:
    """Options of a scoring run, checked; see `prospr_ops.prune` for what they mean."""

    curvature: str
    probes: int
    steps: int
    learning_rate: float
    momentum: float
    nesterov: bool
    batch_size: int
    microbatch: int | None
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
        seed: int | None = None,
    ) -> Settings:
        """Checks every option and brings it to its plain Python type.

        A `seed` of None becomes one drawn from Python's random module, which
        `keras.utils.set_random_seed` seeds, so that a run can be repeated from its record.

        Raises:
            TypeError: An option is of the wrong type.
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
            curvature=curvature,
            probes=check_integer("probes", probes, at_least=1),
            steps=check_integer("steps", steps, at_least=0),
            learning_rate=check_real("learning_rate", learning_rate),
            momentum=momentum,
            nesterov=nesterov,
            batch_size=check_integer("batch_size", batch_size, at_least=1),
            microbatch=(
                None if microbatch is None else check_integer("microbatch", microbatch, at_least=1)
            ),
            seed=check_integer(
                "seed", random.randrange(2**31) if seed is None else seed, at_least=0
            ),
        )
