"""Selection: which weights are kept."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prospr_ops import _native
from prospr_ops.pruning.arrays import Kernels, Masks, Scores, Shapes
from prospr_ops.pruning.patterns import (
    Block,
    NByM,
    Pattern,
    best_of_each,
    block_scores,
    check_divides,
    spread,
)
from prospr_ops.pruning.target import Scope, Share, Target, fraction_of

if TYPE_CHECKING:
    import keras

# Scores per thread from which another thread pays.
_SCORES_PER_THREAD = 1_000_000


def select(
    scores: Mapping[str, Any],
    sparsity: float | None = None,
    scope: Scope = "global",
    *,
    flops: float | None = None,
    pattern: Pattern | str | None = None,
    min_keep: int = 0,
    model: keras.Model | None = None,
) -> Masks:
    """Selects the weights with the largest scores.

    Exactly one of `sparsity` and `flops` is given, unless `pattern` or `scope` says already how much
    of every layer is kept.

    Args:
        scores: Floating-point array or tensor of any shape by variable path, as `prospr_ops.score`
            returns them; larger is more important, −inf is least. Weights are numbered array after
            array, each in C order.
        sparsity: Fraction of the weights to prune, in [0, 1). Of n weights exactly
            ⌈n (1 − sparsity)⌉ are kept; the sparsity is the decimal number that it prints as.
        scope: "global" ranks all weights together; "layer" prunes each array by itself; "erk" gives
            each array its share of the weights by Erdős–Rényi-kernel, larger arrays a lower density;
            a mapping of path pattern to sparsity, with the wildcards `*` and `?`, prunes each array
            by the first pattern that matches, and ranks the others together so that the total is
            what was asked for.
        flops: Fraction of the multiply-adds of these arrays to keep, in (0, 1]. Weights are ranked by
            score per use (log score − log uses: the scores must be logarithms), and as many as fit
            are kept: the next one in rank would not.
        pattern: "n:m" keeps the best n of each m weights along the input axis; "axb" keeps or prunes
            blocks of a inputs × b outputs, whose scores are the sum of their weights'; a count is then
            of blocks. `NByM` and `Block` are such values; None for single weights.
        min_keep: Minimum number of weights kept in each array, whatever their rank; an array that
            has fewer keeps all. With scope "global" fewer weights of the other arrays are kept in
            return; with scope "layer" an array that would keep fewer keeps `min_keep`.
        model: The model that was scored, which knows the axes of its kernels and how often they are
            used; needed for `flops`, `pattern` and scope "erk".

    Returns:
        Boolean array by variable path, True for a weight that is kept. Ties go to the lower index,
        so the masks are the same on every machine.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range, or two contradict each other; `min_keep` needs more
            weights than there are to keep; `pattern` does not divide an axis; a pattern of `scope`
            matches nothing; `scores` is empty or holds NaN; or they do not belong to `model`.

    Examples:
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> scores = {"a": np.array([3.0, 1.0]), "b": np.array([2.0, 0.0])}
        >>> {path: mask.tolist() for path, mask in po.select(scores, 0.5).items()}
        {'a': [True, False], 'b': [True, False]}
        >>> masks = po.select(scores, 0.5, scope={"b*": 0.0})
        >>> {path: mask.tolist() for path, mask in masks.items()}
        {'a': [False, False], 'b': [True, True]}
    """
    target = Target.of(
        sparsity=sparsity, flops=flops, scope=scope, pattern=pattern, min_keep=min_keep
    )
    arrays = _checked(scores)
    kernels = Kernels()
    if model is not None:
        from prospr_ops.pruning.kernels import kernels_of  # noqa: PLC0415 - needs TensorFlow

        kernels = kernels_of(model, {path: array.shape for path, array in arrays.items()}, target)
    elif target.flops is not None or target.pattern is not None or target.scope == "erk":
        needs = (
            "flops" if target.flops is not None else "pattern" if target.pattern else "scope='erk'"
        )
        msg = f"{needs} needs the model that was scored: pass model=model"
        raise ValueError(msg)
    return kept_of(arrays, target, kernels)


def check_selectable(shapes: Shapes, target: Target, kernels: Kernels) -> None:
    """Refuses a target that no scores of these shapes could meet.

    Raises:
        ValueError: An option of the target does not fit the arrays, or another option.
    """
    _shares(shapes, target, kernels)


def kept_of(scores: Scores, target: Target, kernels: Kernels) -> Masks:
    """Masks of what was scored, weights or groups of channels; all is checked but the options."""
    shapes = {path: array.shape for path, array in scores.items()}
    shares = _shares(shapes, target, kernels)
    scores = dead_last(scores, kernels.dead)
    pattern = target.pattern
    if isinstance(pattern, NByM):
        _refuse_nan(scores)
        return {
            path: best_of_each(array, pattern.n, pattern.m, kernels.axes[path])
            for path, array in scores.items()
        }
    units = scores
    if isinstance(pattern, Block):
        units = {
            path: block_scores(array, pattern, kernels.axes[path], signed=kernels.signed)
            for path, array in scores.items()
        }
    each = pattern.size if isinstance(pattern, Block) else 1
    min_keep = -(-target.min_keep // each)
    alive = _alive(shapes, target, kernels)
    kept: Masks = {}
    for share in shares:
        arrays = {path: units[path] for path in share.paths}
        if share.keep is not None:
            # Where an array has a share of its own, that holds its minimum already.
            kept |= keep_largest(arrays, share.keep, min_keep if len(arrays) > 1 else 0)
        else:
            most = sum(alive[path] for path in share.paths)
            kept |= _keep_what_fits(arrays, share, min_keep, most, each, target, kernels)
    if isinstance(pattern, Block):
        kept = {
            path: spread(mask, pattern, kernels.axes[path], shapes[path])
            for path, mask in kept.items()
        }
    return {path: kept[path] for path in scores}


def dead_last(scores: Scores, dead: Mapping[str, npt.NDArray[np.bool_]]) -> Scores:
    """The scores with all that is pruned for good below all that is not, also below −inf."""
    if not dead:
        return scores
    return {
        path: np.where(
            dead.get(path, np.False_), -np.inf, np.maximum(values, np.finfo(values.dtype).min)
        ).astype(values.dtype)
        for path, values in scores.items()
    }


def _shares(shapes: Shapes, target: Target, kernels: Kernels) -> list[Share]:
    """How the arrays share what is kept, in units; none for a pattern n:m."""
    pattern, channels = target.pattern, kernels.channels
    _check_combination(target, kernels)
    if pattern is not None:
        for path, shape in shapes.items():
            check_divides(pattern, path, shape, kernels.axes[path])
    sizes = {path: math.prod(shape) for path, shape in shapes.items()}
    if isinstance(pattern, NByM):
        for path, size in sizes.items():
            kept = size // pattern.m * pattern.n
            if min(target.min_keep, size) > kept:
                msg = (
                    f"min_keep={target.min_keep} keeps more of {path} than pattern "
                    f"{str(pattern)!r}, which leaves {kept:,} of its {size:,} weights"
                )
                raise ValueError(msg)
        return []
    each = pattern.size if isinstance(pattern, Block) else 1
    sizes = {path: size // each for path, size in sizes.items()}
    least = {path: min(-(-target.min_keep // each), size) for path, size in sizes.items()}
    neurons = {}
    if target.scope == "erk":
        neurons = {path: kernels.axes[path].neurons(shape) for path, shape in shapes.items()}
    if target.flops is None:
        return target.shares(sizes, least, neurons, {}, _alive(shapes, target, kernels))
    if channels is not None:
        _refuse_unknown([*channels.kernels], kernels.uses)
        budget = fraction_of(channels.multiply_adds(kernels.uses), target.flops)
        return [Share([*shapes], budget=budget)]
    _refuse_unknown([*shapes], kernels.uses)
    costs = {path: kernels.uses[path] * size * each for path, size in sizes.items()}
    return target.shares(sizes, least, neurons, costs)


def _alive(shapes: Shapes, target: Target, kernels: Kernels) -> dict[str, int]:
    """Number of units by path that are not pruned for good."""
    pattern, alive = target.pattern, {}
    each = pattern.size if isinstance(pattern, Block) else 1
    for path, shape in shapes.items():
        alive[path] = math.prod(shape) // each
        if path in kernels.dead:
            units = np.where(kernels.dead[path], -np.inf, 0.0)
            if isinstance(pattern, Block):
                units = block_scores(units, pattern, kernels.axes[path])
            alive[path] -= int(np.count_nonzero(np.isneginf(units)))
    return alive


def _check_combination(target: Target, kernels: Kernels) -> None:
    """Refuses options that contradict the kind of the scores."""
    if kernels.channels is not None:
        if target.pattern is not None or target.scope == "erk":
            wrong = "scope='erk'" if target.pattern is None else f"pattern {str(target.pattern)!r}"
            msg = f"{wrong} is of weights: it contradicts structure='channel'"
            raise ValueError(msg)
        if target.flops is not None and target.scope != "global":
            msg = f"flops with structure='channel' needs scope='global', not {target.scope!r}"
            raise ValueError(msg)
    if kernels.signed and target.flops is not None:
        msg = "flops divides scores by uses, which method 'grasp' has not: its scores are signed"
        raise ValueError(msg)


def _refuse_unknown(paths: list[str], uses: Mapping[str, int]) -> None:
    unknown = [path for path in paths if path not in uses]
    if unknown:
        msg = (
            f"flops needs the multiply-adds of every prunable weight, and those of "
            f"{', '.join(unknown)} are unknown (not a kernel, in a loop, or of an unknown shape): "
            "leave them out by prunable"
        )
        raise ValueError(msg)


def _checked(scores: Mapping[str, Any]) -> Scores:
    if not isinstance(scores, Mapping):
        msg = f"scores must be a mapping of variable path to array, not {type(scores).__name__}"
        raise TypeError(msg)
    arrays = {path: np.asarray(array) for path, array in scores.items()}
    if not sum(array.size for array in arrays.values()):
        msg = "scores is empty: there is nothing to select from"
        raise ValueError(msg)
    for path, array in arrays.items():
        if not np.issubdtype(array.dtype, np.floating) or array.dtype.itemsize > 8:
            msg = f"scores of {path} must be floats, not {array.dtype} (at most 64 bits are taken)"
            raise TypeError(msg)
        if not array.size:
            msg = f"scores of {path} is empty: its shape is {array.shape}"
            raise ValueError(msg)
    # One dtype that holds all scores exactly, in the layout that the kernel reads.
    dtype = np.result_type(np.float32, *(array.dtype for array in arrays.values()))
    return {path: np.require(array, dtype, ["C", "A"]) for path, array in arrays.items()}


def _refuse_nan(arrays: Scores) -> None:
    for path, array in arrays.items():
        if np.isnan(array).any():
            msg = f"scores of {path} hold NaN"
            raise ValueError(msg)


def keep_largest(arrays: Scores, keep: int, min_keep: int = 0) -> Masks:
    """Masks of the `keep` largest of all scores; ties go to the lower index."""
    size = sum(array.size for array in arrays.values())
    threads = min(len(os.sched_getaffinity(0)), 1 + size // _SCORES_PER_THREAD)
    try:
        masks = _native.select(list(arrays.values()), keep, min_keep, threads=threads)
    except ValueError:
        _refuse_nan(arrays)  # the kernel numbers the arrays; here they have names
        raise
    return dict(zip(arrays, masks, strict=True))


def _keep_what_fits(
    arrays: Scores,
    share: Share,
    min_keep: int,
    most: int,
    each: int,
    target: Target,
    kernels: Kernels,
) -> Masks:
    """The most of a ranking by score per use, of `most` units at most, that fits a budget."""
    assert share.budget is not None
    channels, uses = kernels.channels, kernels.uses
    costs: Mapping[str, Any]
    spent: Callable[[Masks], int]
    if channels is not None:
        costs = channels.costs(uses)

        def spent(masks: Masks) -> int:
            return channels.multiply_adds(uses, masks)
    else:
        costs = {path: uses[path] * each for path in arrays}

        def spent(masks: Masks) -> int:
            return sum(costs[path] * int(np.count_nonzero(m)) for path, m in masks.items())

    ranked = {path: _per_use(array, costs[path]) for path, array in arrays.items()}
    # What more units take can only be more: halve the range of their number.
    low = sum(min(min_keep, array.size) for array in arrays.values())
    high = max(low, most)
    fitting = None
    while fitting is None or low < high:
        keep = low if fitting is None else (low + high + 1) // 2
        masks = keep_largest(ranked, keep, min_keep)
        if (cost := spent(masks)) <= share.budget:
            low, fitting = keep, masks
        elif fitting is None:
            msg = (
                f"flops={target.flops:g} leaves {share.budget:,} multiply-adds per sample, but the "
                f"least that can stay takes {cost:,}"
            )
            raise ValueError(msg)
        else:
            high = keep - 1
    return fitting


def _per_use(scores: npt.NDArray[Any], costs: Any) -> npt.NDArray[Any]:
    """Log score − log cost; what costs nothing comes first, unless its score is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.asarray(costs, np.float64)).astype(scores.dtype)
        return np.where(np.isneginf(scores), scores, scores - logs)
