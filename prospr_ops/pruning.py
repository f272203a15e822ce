"""Pruning a model: score, select, apply."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prospr_ops import curvature as curvatures
from prospr_ops import storage
from prospr_ops.batches import checked, endless_batches
from prospr_ops.checkpoint import Checkpoint, checkpoint_path, description
from prospr_ops.distribution import MIRRORED, Replicas, shared_by, strategy_for
from prospr_ops.flops import input_specs, weight_uses
from prospr_ops.masking import apply_masks
from prospr_ops.methods import METHODS, LogScores, Problem
from prospr_ops.microbatches import shareable, splittable
from prospr_ops.objective import Batch, Loss, Objective
from prospr_ops.prunable import Prunable, prunable_weights
from prospr_ops.result import PruneResult
from prospr_ops.selection import SCOPES, Masks, Scores, select
from prospr_ops.settings import Settings, check_integer, check_real, choose
from prospr_ops.state import preserved
from prospr_ops.structured import ChannelGroups

STRUCTURES = ("weight", "channel")


def prune(
    model: keras.Model,
    data: Any,
    *,
    sparsity: float,
    method: str = "diagonal",
    curvature: str = "auto",
    probes: int = 1,
    steps: int = 3,
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    nesterov: bool = False,
    loss: Loss | None = None,
    batch_size: int = 128,
    microbatch: int | None = None,
    scope: str = "global",
    structure: str = "weight",
    prunable: Prunable | None = None,
    seed: int | None = None,
    min_keep: int = 0,
    allow_empty: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    verbose: int = 1,
    strategy: tf.distribute.Strategy | None = None,
) -> PruneResult:
    """Prunes a model at initialisation, in place.

    Afterwards the pruned weights are zero and stay zero under training (see `apply_masks`); every
    other weight and all other state of the model is as it was. On any error the model is exactly as
    before the call.

    Args:
        model: A built Keras model.
        data: A tuple (x, y) of arrays, a batched `tf.data.Dataset`, or any re-iterable of (x, y)
            batches; sample weights may follow y. `steps` + 1 batches are drawn, starting over when
            it ends; arrays are shuffled. None for the methods "synflow", "magnitude" and "random".
        sparsity: Fraction of the prunable weights to set to zero, in [0, 1). Of n weights exactly
            ⌈n (1 − sparsity)⌉ are kept; ties go to the lower index.
        method: "diagonal" (ProsPr with the streamed diagonal), "exact" (ProsPr's meta-gradient as
            the paper has it; keeps a copy of the weights a step), "first_order" (ProsPr's
            first-order variant), "snip", "grasp", "synflow" (in 100 iterations), "magnitude" or
            "random".
        curvature: For "diagonal": where the Hessian's diagonal comes from, "auto", "ggn", "ggn_mc",
            "hutchinson" or "row_sum"; see `prospr_ops.curvature.diagonal`.
        probes: Random vectors a step that the estimator averages over.
        steps: Steps of gradient descent, at least 0.
        learning_rate: Of those steps, at least 0.
        momentum: Of those steps, in [0, 1); as in PyTorch, w ← w − α v with v ← μ v + g.
        nesterov: Whether it is Nesterov's: w ← w − α (g + μ v); for "exact" and "first_order".
        loss: A Keras loss, its name or a function; None for the one the model is compiled with.
            Regularisation losses of the model are added.
        batch_size: Samples a batch, where `data` is arrays.
        microbatch: Evaluate every batch in parts of at most so many samples, one after the other,
            which bounds the memory and changes the result by rounding only (and the draws of
            dropout). The loss must be a mean over samples that do not see each other. None: whole.
        scope: "global" ranks all weights together, "layer" prunes each layer by itself.
        structure: "weight", or "channel" to prune whole output channels and units, of functional and
            Sequential models, which `shrink` then removes. A channel is pruned with its bias and
            the gamma and beta of BatchNormalization behind it, and with all channels that it is tied
            to, by a residual sum for instance; so many together count once, and `sparsity` is the
            fraction of such groups. Channels that cannot go, as the model's outputs, are not among
            them. See `prospr_ops.structured` for their scores.
        prunable: Which weights: None for the kernels of Dense, EinsumDense, Embedding, convolution,
            transposed, depthwise and separable convolution layers; a function of (layer, variable);
            or variable paths, in which `*` and `?` are wildcards.
        seed: Of everything random in the call; None draws one (see `PruneResult.settings`). The
            same seed, model and data give the same masks, bit for bit, with the same number of
            intra-op threads on the same machine. Other numbers change convolutional networks by
            TensorFlow's rounding (see docs/long_runs.md).
        min_keep: At least so many weights (or channels) of each layer's kernel are kept, or all of
            one that has fewer, whatever their score; see `select`.
        allow_empty: Accept that a layer is left with no weight at all.
        checkpoint: A file for the state of the run, from which the same call, with the same model
            and data, goes on if this process is killed, to the same masks, bit for bit. Needs a
            `seed`, and data that come in the same order again. Written between steps, as long as
            that takes a twentieth of the time at most; deleted when the model is pruned. Methods
            without steps leave nothing there. See docs/long_runs.md.
        verbose: 0 is silent; 1 shows a progress bar and a table.
        strategy: A `tf.distribute` MirroredStrategy, MultiWorkerMirroredStrategy or
            OneDeviceStrategy, in whose scope the model was built; None for that of the scope which
            is open or that the model was built in. Its replicas share every batch, and the result
            is that of one process on whole batches but for rounding (and for draws of dropout and
            "ggn_mc", and for BatchNormalization, which normalises each replica's share by itself).
            Call it on every worker, with the same arguments and data: each takes its part, and all
            get the same masks. The seed is the first worker's. The loss must be a mean over samples.

    Returns:
        Masks, scores and a record of the run.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of range, the model is not built or has nothing to prune, the
            data is empty or does not fit the model, the loss or a derivative becomes NaN or
            infinite, or a layer would be left empty; `checkpoint` is damaged or of another run, or
            comes without a `seed` or with replicas; or workers were given different things.
        OSError: `checkpoint` cannot be read or written.
        tf.errors.OpError: Another worker is lost.
    """
    start = time.perf_counter()
    check_real("sparsity", sparsity, below=1.0)
    choose("scope", scope, SCOPES)
    min_keep = check_integer("min_keep", min_keep, at_least=0)
    target = _Target(float(sparsity), scope, min_keep, allow_empty)
    scored = _score(
        model,
        data,
        method=method,
        loss=loss,
        structure=structure,
        prunable=prunable,
        checkpoint=checkpoint_path(checkpoint, seed),
        verbose=verbose,
        target=target,
        strategy=strategy,
        settings=Settings.of(
            curvature=curvature,
            probes=probes,
            steps=steps,
            learning_rate=learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            batch_size=batch_size,
            microbatch=microbatch,
            seed=seed,
        ),
    )
    masks = target.masks(scored.scores, scored.channels)
    result = PruneResult(
        masks=storage.PackedMasks(masks),
        scores=scored.scores,
        sparsity=float(sparsity),
        settings={
            **scored.settings,
            "scope": scope,
            "sparsity": float(sparsity),
            "min_keep": min_keep,
        },
        losses=scored.losses,
        estimators=scored.estimators,
        seconds=time.perf_counter() - start,
        uses=weight_uses(model, scored.inputs),
        input_shape=_sample_shape(scored.inputs),
    )
    apply_masks(model, masks)  # the last that can fail
    scored.finish()
    if verbose:
        result.summary()
    return result


def score(
    model: keras.Model,
    data: Any,
    *,
    method: str = "diagonal",
    curvature: str = "auto",
    probes: int = 1,
    steps: int = 3,
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    nesterov: bool = False,
    loss: Loss | None = None,
    batch_size: int = 128,
    microbatch: int | None = None,
    structure: str = "weight",
    prunable: Prunable | None = None,
    seed: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    verbose: int = 1,
    strategy: tf.distribute.Strategy | None = None,
) -> Scores:
    """Scores the weights of a model and changes nothing in it.

    Args:
        model: A built Keras model.
        data: As for `prune`, like all that follow.
        method: The criterion.
        curvature: Where the Hessian's diagonal comes from.
        probes: Random vectors a step.
        steps: Steps of gradient descent.
        learning_rate: Of those steps.
        momentum: Of those steps.
        nesterov: Whether it is Nesterov's.
        loss: The loss; None for the compiled one.
        batch_size: Samples a batch, where `data` is arrays.
        microbatch: Samples that are evaluated at a time; None for the whole batch.
        structure: "weight" or "channel".
        prunable: Which weights.
        seed: Of everything random in the call.
        checkpoint: A file for the state of the run.
        verbose: 0 is silent; 1 shows a progress bar.
        strategy: Whose replicas share every batch.

    Returns:
        Logarithm of each weight's score, float32 (float64 for float64 weights), by variable path;
        larger is more important, −inf is least. Give it to `select`. The scores of "grasp" are
        signed, and are given as they are: larger is more important. Those of "synflow" are the
        whole model's; only `prune`, which knows the sparsity, goes on from there. With
        structure="channel", float64 vectors with an element for each group of channels, under the
        path of the first kernel that makes it; the masks that `select` makes of them are for
        `channel_masks`.

    Raises:
        TypeError: As for `prune`.
        ValueError: As for `prune`.
        OSError: As for `prune`.
    """
    scored = _score(
        model,
        data,
        method=method,
        loss=loss,
        structure=structure,
        prunable=prunable,
        checkpoint=checkpoint_path(checkpoint, seed),
        verbose=verbose,
        strategy=strategy,
        settings=Settings.of(
            curvature=curvature,
            probes=probes,
            steps=steps,
            learning_rate=learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            batch_size=batch_size,
            microbatch=microbatch,
            seed=seed,
        ),
    )
    scored.finish()
    return scored.scores


@dataclass(frozen=True)
class _Target:
    """How to select."""

    sparsity: float
    scope: str
    min_keep: int
    allow_empty: bool

    def masks(
        self, scores: Scores, channels: ChannelGroups | None, sparsity: float | None = None
    ) -> Masks:
        masks = select(
            scores,
            self.sparsity if sparsity is None else sparsity,
            self.scope,
            min_keep=self.min_keep,
            allow_empty=self.allow_empty,
        )
        return masks if channels is None else channels.masks(masks)


@dataclass(frozen=True)
class _Scored:
    scores: Scores
    settings: dict[str, Any]
    losses: tuple[float, ...]
    estimators: dict[str, str]
    channels: ChannelGroups | None
    inputs: Any  # what the model takes, as `input_specs` says
    checkpoint: Checkpoint | None

    def finish(self) -> None:
        """Deletes the checkpoint, when the scores have served their purpose."""
        if self.checkpoint is not None:
            self.checkpoint.remove()


def _score(
    model: keras.Model,
    data: Any,
    *,
    method: str,
    loss: Loss | None,
    structure: str,
    prunable: Prunable | None,
    checkpoint: Path | None,
    verbose: int,
    strategy: tf.distribute.Strategy | None,
    settings: Settings,
    target: _Target | None = None,
) -> _Scored:
    choose("method", method, METHODS)
    choose("structure", structure, STRUCTURES)
    curvatures.find(settings.curvature)
    chosen = METHODS[method]
    channels = ChannelGroups.of(model, prunable) if structure == "channel" else None
    weights = _scored_variables(model, prunable, channels, chosen.sums)
    estimators: dict[str, str] = {}
    signs: dict[str, tf.Tensor] | None = None if channels is None else {}
    passes = chosen.passes(settings.steps)
    objective = Objective.of(model, loss) if passes else Objective(model, None)
    losses: list[float] = []
    specs: list[Any] = []
    strategy = strategy_for(model, strategy)
    if checkpoint is not None and isinstance(strategy, MIRRORED):
        msg = "replicas that share the batches of a run keep no checkpoint of it; leave it out"
        raise ValueError(msg)
    facts = {"method": method, **asdict(settings), "structure": structure}
    saved = None
    if checkpoint is not None and passes:
        saved = Checkpoint(checkpoint, description(objective, weights, facts))

    def selectable(found: dict[str, tf.Tensor]) -> Scores:
        """What is selected from: weights, or channels."""
        scores = _arrays(found, settings)
        if channels is None or not chosen.sums:
            return scores
        return channels.sums(scores) if chosen.signed else channels.scores(scores, signs or {})

    def mask(found: LogScores, sparsity: float) -> None:
        if target is None:
            return
        for path, kept in target.masks(selectable(found), channels, sparsity).items():
            variable = weights[path] if channels is None else channels.members[path].variable
            variable.assign(tf.where(kept, variable.value, tf.zeros_like(variable.value)))
        if signs is not None:  # of the scores that come next
            signs.clear()

    def observed(batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if not specs:
                specs.append(input_specs(model, batch.x))
            yield batch

    total, unit = (passes, "batches") if passes else (chosen.iterations - 1, "iterations")
    shown = bool(verbose) and (passes > 0 or target is not None)
    with (
        shared_by(strategy, model) as replicas,
        preserved(model),
        _progress(method, total if shown else 0, unit) as advance,
    ):
        if replicas is not None:
            settings = _agreed(replicas, settings, repr((method, structure, target, [*weights])))
            replicas.check_same("the model's variables", *model.variables)
        batches: Iterator[Batch] = iter(())
        if passes:
            batches = observed(_batches(data, objective, settings, replicas))
        if saved is not None:
            batches = saved.watch(batches)
        problem = Problem(
            objective=objective,
            weights=weights,
            batches=batches,
            settings=settings,
            advance=advance,
            losses=losses,
            estimators=estimators,
            signs=signs,
            sparsity=None if target is None else target.sparsity,
            mask=mask,
            checkpoint=saved,
        )
        scores = selectable(chosen.scores(problem))
        if replicas is not None:
            replicas.check_same("the scores", *scores.values())
    return _Scored(
        scores,
        {
            "method": method,
            **asdict(settings),
            "structure": structure,
            "replicas": strategy.num_replicas_in_sync,
        },
        tuple(losses),
        estimators,
        channels,
        specs[0] if specs else input_specs(model),
        saved,
    )


def _scored_variables(
    model: keras.Model, prunable: Prunable | None, channels: ChannelGroups | None, sums: bool
) -> dict[str, Any]:
    """What gets a score: weights, or channels by themselves where theirs is no sum of weights'."""
    if channels is None:
        return prunable_weights(model, prunable)
    return channels.weights() if sums else channels.placeholders()


def _agreed(replicas: Replicas, settings: Settings, others: str) -> Settings:
    """The settings, with the first worker's seed, if all workers were given the same.

    Raises:
        ValueError: They were not.
    """
    settings = replace(settings, seed=replicas.first(settings.seed))
    replicas.check_same("the arguments", f"{settings} {others}")
    return settings


def _arrays(found: dict[str, tf.Tensor], settings: Settings) -> Scores:
    """Scores as arrays; each tensor goes when it is one.

    Raises:
        ValueError: Some are NaN.
    """
    scores = {path: found.pop(path).numpy() for path in list(found)}
    for path, values in scores.items():
        if np.isnan(values).any():
            msg = (
                f"the scores of {path} hold NaN: its weights or derivatives are too large; lower "
                f"learning_rate (now {settings.learning_rate:g})"
            )
            raise ValueError(msg)
    return scores


def _batches(
    data: Any, objective: Objective, settings: Settings, replicas: Replicas | None
) -> Iterator[Batch]:
    """Endless batches, checked for all that is done with them."""
    batches = endless_batches(data, settings.batch_size, settings.seed)
    if replicas is not None:  # first, so that all workers find the same wrong with a batch
        batches = replicas.same_batches(batches)
    batches = checked(batches, objective)
    if replicas is not None:
        batches = shareable(batches, objective)
    return batches if settings.microbatch is None else splittable(batches, objective)


def _sample_shape(specs: Any) -> tuple[int, ...] | None:
    """The shape of a sample, of a model with one input."""
    return tuple(specs.shape[1:]) if isinstance(specs, tf.TensorSpec) else None


@contextmanager
def _progress(method: str, total: int, unit: str) -> Iterator[Callable[[], None]]:
    """A progress bar over so many of a unit, none over 0; a function that advances it."""
    if not total:
        yield lambda: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(f"scoring by {method}", total=total)
        yield lambda: progress.advance(task)
