"""What is asked of a selection: a budget, how layers share it, and a pattern."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

from prospr_ops.methods import METHODS
from prospr_ops.pruning.patterns import NByM, Pattern, pattern_of
from prospr_ops.utils.checks import check_integer, check_real, choose
from prospr_ops.utils.paths import nearest_paths, path_matches
from prospr_ops.utils.settings import CHOICES

Scope: TypeAlias = str | Mapping[str, float]


class Share(NamedTuple):
    """Arrays that are ranked together, and how much of them is kept.

    A unit is what is kept or pruned whole: a weight, a block of weights, or a group of channels.

    Attributes:
        paths: Paths of the arrays.
        keep: Number of units to keep; None for as many as fit `budget`.
        budget: Multiply-adds per sample that the kept units may take.
    """

    paths: Sequence[str]
    keep: int | None = None
    budget: int | None = None

    def at(self, progress: float, sizes: Mapping[str, int], costs: Mapping[str, int]) -> Share:
        """The share after a part of the rounds."""
        whole = sum((sizes if self.budget is None else costs)[path] for path in self.paths)
        left = self.keep if self.budget is None else self.budget
        if not left or left >= whole:
            return self
        left = max(left, math.ceil(whole * (left / whole) ** progress))
        return self._replace(keep=left) if self.budget is None else self._replace(budget=left)


@dataclass(frozen=True)
class Target:
    """Checked options of a selection; `prospr_ops.prune` describes them.

    `at` gives the target of an earlier round; `progress` is what it was given, for a mapping.
    """

    sparsity: float | None
    flops: float | None
    scope: Scope
    pattern: Pattern | None
    min_keep: int
    progress: float = 1.0

    @classmethod
    def of(
        cls,
        *,
        sparsity: float | None = None,
        flops: float | None = None,
        scope: Scope = "global",
        pattern: Pattern | str | None = None,
        min_keep: int = 0,
    ) -> Target:
        """Checks every option, as far as it can be without the scores.

        Raises:
            TypeError: An option has the wrong type.
            ValueError: An option is out of range, or two contradict each other.
        """
        if sparsity is not None:
            sparsity = check_real("sparsity", sparsity, below=1.0)
        if flops is not None:
            flops = check_real("flops", flops)
            if not 0 < flops <= 1:
                msg = f"flops must be above 0 and at most 1, not {flops!r}"
                raise ValueError(msg)
        pattern = pattern_of(pattern)
        check_integer("min_keep", min_keep, at_least=0)
        if isinstance(scope, Mapping):
            scope = _checked_mapping(scope)
        else:
            choose("scope", scope, CHOICES["scope"])
        if sparsity is not None and flops is not None:
            msg = f"sparsity={sparsity:g} and flops={flops:g} are two budgets: pass exactly one"
            raise ValueError(msg)
        if isinstance(pattern, NByM):
            _check_agreement(pattern, sparsity, flops, scope)
            sparsity = pattern.sparsity
        elif sparsity is None and flops is None and not isinstance(scope, Mapping):
            msg = "how much to prune is not said: pass exactly one of sparsity and flops"
            raise ValueError(msg)
        if flops is not None and scope == "erk":
            msg = "scope='erk' shares out a number of weights: pass sparsity instead of flops"
            raise ValueError(msg)
        return cls(sparsity, flops, scope, pattern, int(min_keep))

    def at(self, progress: float, before: float = 1.0) -> Target:
        """The target after a part of the way: what is kept in the end, to the power of `progress`.

        Args:
            progress: Part of the rounds that are done, in (0, 1]; 1 gives the target itself. In a
                group of pattern n:m ⌈m (n/m)^progress⌉ weights are kept; with a mapping each share of
                the budget goes this way by itself.
            before: Fraction of the weights that is kept at first, from which a single `sparsity`
                takes its way.
        """
        if progress == 1:
            return self
        if isinstance(self.pattern, NByM):
            m = self.pattern.m
            n = math.ceil(m * (self.pattern.n / m) ** progress)
            if n == m:
                return replace(self, pattern=None, sparsity=0.0)
            return replace(self, pattern=NByM(n, m), sparsity=(m - n) / m)
        if isinstance(self.scope, Mapping):
            return replace(self, progress=progress)
        if self.flops is not None:
            return replace(self, flops=self.flops**progress)
        return replace(self, sparsity=1.0 - before ** (1.0 - progress) * self.density**progress)

    def of_each(self, m: int) -> int:
        """Number of weights that pattern n:m keeps of each m; all without a pattern."""
        return self.pattern.n if isinstance(self.pattern, NByM) else m

    @property
    def ranks_all(self) -> bool:
        """Whether a single sparsity says how much is kept."""
        return self.sparsity is not None and not isinstance(self.scope, Mapping)

    @property
    def density(self) -> float:
        """Fraction that is kept: of weights, of multiply-adds, or of the layer that is pruned most."""
        if self.sparsity is not None:
            return 1.0 - self.sparsity
        if self.flops is not None:
            return self.flops
        assert isinstance(self.scope, Mapping)  # `of` has seen to it
        return 1.0 - max(self.scope.values())

    def record(self) -> dict[str, Any]:
        """The options as JSON can hold them."""
        return {
            "scope": dict(self.scope) if isinstance(self.scope, Mapping) else self.scope,
            "sparsity": self.sparsity,
            "flops": self.flops,
            "pattern": None if self.pattern is None else str(self.pattern),
            "min_keep": self.min_keep,
        }

    def shares(
        self,
        sizes: Mapping[str, int],
        least: Mapping[str, int],
        neurons: Mapping[str, int],
        costs: Mapping[str, int],
        alive: Mapping[str, int] | None = None,
    ) -> list[Share]:
        """Divides the budget among arrays.

        Args:
            sizes: Number of units by path.
            least: Number of units by path that are kept whatever their rank.
            neurons: Sum of a kernel's sizes along its axes, by path, for scope "erk".
            costs: Multiply-adds per sample of a whole array, by path; for `flops`.
            alive: Number of units by path that are not pruned for good, for scope "erk", where no
                array gets more as long as the others have enough; None for all.

        Raises:
            ValueError: The options contradict each other, or a pattern of the scope matches no path.
        """
        if isinstance(self.scope, Mapping):
            shares = self._mapped(self.scope, sizes, least, costs)
            if self.progress == 1:
                return shares
            return [share.at(self.progress, sizes, costs) for share in shares]
        if self.flops is not None:
            together = [[*sizes]] if self.scope == "global" else [[path] for path in sizes]
            shares = [
                Share(paths, budget=fraction_of(sum(costs[path] for path in paths), self.flops))
                for paths in together
            ]
            for share in shares:
                self._check_least(share, sizes, least, costs)
            return shares
        assert self.sparsity is not None  # `of` has seen to it
        if self.scope == "layer":
            return [
                Share([path], max(kept_count(size, self.sparsity), least[path]))
                for path, size in sizes.items()
            ]
        share = Share([*sizes], kept_count(sum(sizes.values()), self.sparsity))
        self._check_least(share, sizes, least, costs)
        if self.scope == "global":
            return [share]
        assert share.keep is not None
        most = sizes if alive is None or sum(alive.values()) < share.keep else alive
        counts = erk_counts(
            [neurons[path] for path in sizes],
            [most[path] for path in sizes],
            share.keep,
            [min(least[path], most[path]) for path in sizes],
        )
        return [Share([path], count) for path, count in zip(sizes, counts, strict=True)]

    def _mapped(
        self,
        scope: Mapping[str, float],
        sizes: Mapping[str, int],
        least: Mapping[str, int],
        costs: Mapping[str, int],
    ) -> list[Share]:
        """Each matched array by itself, and the others together with what is left of the budget."""
        own: dict[str, float] = {}
        for pattern, sparsity in scope.items():
            matches = [path for path in sizes if path_matches(path, pattern)]
            if not matches:
                msg = f"scope: {pattern!r} matches no prunable weight; the nearest are {nearest_paths(pattern, sizes)}"
                raise ValueError(msg)
            for path in matches:
                own.setdefault(path, sparsity)
        shares = [
            Share([path], max(kept_count(sizes[path], own[path]), least[path])) for path in own
        ]
        fixed = {share.paths[0]: share.keep or 0 for share in shares}
        others = [path for path in sizes if path not in own]
        everything = sum(sizes.values())
        if not others:
            kept = sum(fixed.values())
            if self.flops is not None:
                msg = "the sparsities of scope cover every layer: leave flops out"
                raise ValueError(msg)
            # Each layer's count is rounded up.
            if self.sparsity is not None and not (
                0 <= kept - kept_count(everything, self.sparsity) <= len(own)
            ):
                msg = (
                    f"the sparsities of scope cover every layer and keep {kept:,} of the "
                    f"{everything:,} weights, which is not sparsity {self.sparsity:g}: leave it out"
                )
                raise ValueError(msg)
            return shares
        if self.flops is not None:
            spent = sum(costs[path] // sizes[path] * count for path, count in fixed.items())
            rest = Share(others, budget=fraction_of(sum(costs.values()), self.flops) - spent)
        elif self.sparsity is not None:
            rest = Share(others, kept_count(everything, self.sparsity) - sum(fixed.values()))
        else:
            msg = f"scope says nothing of {', '.join(others)}: pass sparsity or flops too"
            raise ValueError(msg)
        size = sum(sizes[path] for path in others)
        left = rest.keep if rest.budget is None else rest.budget
        assert left is not None
        if left < 0 or (rest.keep or 0) > size:
            given = "flops" if rest.keep is None else "sparsity"
            msg = (
                f"{given}={getattr(self, given):g} contradicts the sparsities of scope, which keep "
                f"{sum(fixed.values()):,} of the {everything:,} weights and leave {size:,} to rank"
            )
            raise ValueError(msg)
        self._check_least(rest, sizes, least, costs)
        return [*shares, rest]

    def _check_least(
        self,
        share: Share,
        sizes: Mapping[str, int],
        least: Mapping[str, int],
        costs: Mapping[str, int],
    ) -> None:
        """Refuses a `min_keep` that needs more than there is."""
        if share.keep is not None:
            needed = sum(least[path] for path in share.paths)
            if needed > share.keep:
                size = sum(sizes[path] for path in share.paths)
                msg = (
                    f"min_keep={self.min_keep} keeps {needed:,} of the {size:,} weights, but "
                    f"sparsity {self.sparsity:g} leaves only {share.keep:,}"
                )
                raise ValueError(msg)
        elif share.budget is not None and costs:
            needed = sum(costs[path] // sizes[path] * least[path] for path in share.paths)
            if needed > share.budget:
                msg = (
                    f"min_keep={self.min_keep} needs {needed:,} multiply-adds per sample, but "
                    f"flops {self.flops:g} leaves only {share.budget:,}"
                )
                raise ValueError(msg)


def check_revive(revive: Any, method: str, rounds: int | None, structure: str) -> bool:
    """Returns `revive`, whether pruned weights may return in rounds, if the other options allow it.

    Raises:
        TypeError: `revive` is no truth value.
        ValueError: It is True, and pruned weights have no score that counts, or there is one round.
    """
    if not isinstance(revive, bool):
        msg = f"revive must be True or False, not {revive!r}"
        raise TypeError(msg)
    if not revive:
        return False
    accepting = [f"'{one.name}'" for one in METHODS.values() if one.revives]
    if not METHODS[choose("method", method, METHODS)].revives:
        msg = f"revive=True is for methods {', '.join(accepting)}, not {method!r}"
        raise ValueError(msg)
    if structure != "weight":
        msg = (
            f"revive=True is for structure='weight', not {structure!r}: a whole channel that is pruned "
            "has a derivative of zero behind ReLU or BatchNormalization"
        )
        raise ValueError(msg)
    if rounds is None or rounds < 2:
        msg = "revive=True needs rounds of at least 2: in one round nothing can return"
        raise ValueError(msg)
    return True


def kept_count(size: int, sparsity: float) -> int:
    """⌈size (1 − sparsity)⌉, exact for the decimal number that `sparsity` prints as."""
    return math.ceil(size * (1 - Decimal(repr(float(sparsity)))))


def erk_counts(
    neurons: Sequence[int], sizes: Sequence[int], keep: int, least: Sequence[int]
) -> list[int]:
    """Numbers kept of each layer by Erdős–Rényi-kernel, exactly `keep` in all.

    The density of a layer is ε (n_in + n_out + height + width) / (n_in n_out height width), so the
    number kept is ε times its `neurons`, within `least` and `sizes`; ε is what gives the total. What
    is left of rounding down goes to the largest remainders, and of equal ones to the first. (Evci
    et al., "Rigging the Lottery", arXiv 1911.11134.)

    Args:
        neurons: Sum of the sizes of each kernel along its axes; ≥ 1.
        sizes: Number of units of each kernel.
        keep: Number of units to keep, at least the sum of `least` and at most that of `sizes`.
        least: Number of units to keep of each kernel at least.
    """

    def clipped(epsilon: Fraction) -> list[Fraction]:
        return [
            min(max(epsilon * n, Fraction(low)), Fraction(high))
            for n, low, high in zip(neurons, least, sizes, strict=True)
        ]

    # Their sum rises linearly between these values of ε: find the two that enclose `keep`.
    bends = sorted(
        {Fraction(0)}
        | {
            Fraction(b, n)
            for bounds in (least, sizes)
            for b, n in zip(bounds, neurons, strict=True)
        }
    )
    low, high = 0, len(bends) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if sum(clipped(bends[middle])) >= keep else (middle + 1, high)
    parts: list[Any] = clipped(bends[low])
    if low and sum(parts) > keep:
        start = clipped(bends[low - 1])
        part = (keep - sum(start, Fraction(0))) / sum(
            b - a for a, b in zip(start, parts, strict=True)
        )
        parts = [a + part * (b - a) for a, b in zip(start, parts, strict=True)]
    counts = [math.floor(part) for part in parts]
    remainders = [part - count for part, count in zip(parts, counts, strict=True)]
    order = sorted(range(len(counts)), key=lambda i: -remainders[i])
    for i in order[: keep - sum(counts)]:
        counts[i] += 1
    return counts


def fraction_of(cost: int, flops: float) -> int:
    """The whole multiply-adds of a fraction, exact for the decimal number that it prints as."""
    return math.floor(cost * Decimal(repr(flops)))


def _checked_mapping(scope: Mapping[Any, Any]) -> dict[str, float]:
    if not scope:
        msg = "scope is an empty mapping: give it a sparsity by path pattern, or pass 'global'"
        raise ValueError(msg)
    for pattern in scope:
        if not isinstance(pattern, str):
            msg = f"the keys of scope must be path patterns, not {type(pattern).__name__}"
            raise TypeError(msg)
    return {
        pattern: check_real(f"the sparsity of {pattern!r} in scope", sparsity, below=1.0)
        for pattern, sparsity in scope.items()
    }


def _check_agreement(
    pattern: NByM, sparsity: float | None, flops: float | None, scope: Scope
) -> None:
    """Refuses what contradicts a pattern n:m, which says how much of each layer is kept."""
    says = f"pattern {str(pattern)!r} prunes {pattern.sparsity:g} of every layer"
    if flops is not None:
        msg = f"{says}: leave flops out"
        raise ValueError(msg)
    if sparsity is not None and abs(sparsity - pattern.sparsity) > 1e-6:
        msg = f"{says}, which is not sparsity {sparsity:g}: leave it out"
        raise ValueError(msg)
    if scope not in ("global", "layer"):
        msg = f"{says}, so scope must be 'global' or 'layer', not {scope!r}"
        raise ValueError(msg)
