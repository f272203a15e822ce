"""Scoring a model: `run_scoring`, in the steps that its docstring names."""

from __future__ import annotations

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
from prospr_ops.data.batches import checked, endless_batches
from prospr_ops.methods import METHODS, Method
from prospr_ops.methods.engine.checkpoint import Checkpoint, description
from prospr_ops.methods.engine.distribution import MIRRORED, Replicas, shared_by, strategy_for
from prospr_ops.methods.engine.microbatches import shareable, splittable
from prospr_ops.methods.engine.problem import Found, Problem
from prospr_ops.network.loss import Batch, Loss, Objective
from prospr_ops.network.restore import preserved
from prospr_ops.network.tracing import run_as_fit
from prospr_ops.network.weights import Prunable, prunable_weights
from prospr_ops.pruning.channels.groups import ChannelGroups
from prospr_ops.pruning.flops import input_specs
from prospr_ops.pruning.selection import Masks, Scores, select
from prospr_ops.utils.checks import choose
from prospr_ops.utils.settings import Settings

STRUCTURES = ("weight", "channel")


@dataclass(frozen=True)
class Target:
    """How to select; see `prospr_ops.prune`."""

    sparsity: float
    scope: str
    min_keep: int
    allow_empty: bool

    def masks(
        self, scores: Scores, channels: ChannelGroups | None, sparsity: float | None = None
    ) -> Masks:
        """The masks of weights, at the target's sparsity or another on the way to it."""
        masks = select(
            scores,
            self.sparsity if sparsity is None else sparsity,
            self.scope,
            min_keep=self.min_keep,
            allow_empty=self.allow_empty,
        )
        return masks if channels is None else channels.masks(masks)


@dataclass(frozen=True)
class Scoring:
    """What was asked for; see `prospr_ops.prune` for what the options mean.

    `target` is None where nothing will be selected, as in `prospr_ops.score`.
    """

    model: keras.Model
    method: str
    loss: Loss | None
    structure: str
    prunable: Prunable | None
    checkpoint: Path | None
    strategy: tf.distribute.Strategy | None
    settings: Settings
    target: Target | None = None


@dataclass(frozen=True)
class Scored:
    """What scoring gave: the scores to select from, and the record of the run."""

    scores: Scores
    settings: dict[str, Any]
    losses: tuple[float, ...]
    estimators: dict[str, str]
    channels: ChannelGroups | None
    inputs: Any  # what the model takes, as `input_specs` says
    checkpoint: Checkpoint | None

    @property
    def sample_shape(self) -> tuple[int, ...] | None:
        """The shape of a sample, of a model with one input."""
        inputs = self.inputs
        return tuple(inputs.shape[1:]) if isinstance(inputs, tf.TensorSpec) else None

    def finish(self) -> None:
        """Deletes the checkpoint, when the scores have served their purpose."""
        if self.checkpoint is not None:
            self.checkpoint.remove()


def run_scoring(asked: Scoring, data: Any, *, show_progress: bool) -> Scored:
    """Scores a model and leaves it unchanged.

    1. `_resolve`: check the options, and find method, loss, weights or channels, and strategy.
    2. `_open_checkpoint`: read the state that a killed run has left, if there is one.
    3. `_draw_batches`: make batches of the data, checked for all that is done with them.
    4. The method scores the weights (`prospr_ops.methods`).
    5. `_scores_to_select_from`: sum them over channels, refuse NaN.

    Raises:
        TypeError: As `prospr_ops.prune`.
        ValueError: As `prospr_ops.prune`.
        OSError: As `prospr_ops.prune`.
    """
    run = _resolve(asked)
    checkpoint = _open_checkpoint(asked, run)
    settings, target, model = asked.settings, asked.target, asked.model
    specs: list[Any] = []
    with (
        shared_by(run.strategy, model) as replicas,
        preserved(model),
        run_as_fit(model),
        _progress(asked.method, *_work(run, target, show_progress)) as advance,
    ):
        if replicas is not None:
            settings = _agreed(replicas, settings, (asked.method, asked.structure, target), run)
        batches: Iterator[Batch] = iter(())
        if run.passes:
            batches = _draw_batches(data, run.objective, settings, replicas, specs)
        if checkpoint is not None:
            batches = checkpoint.watch(batches)
        problem = Problem(
            objective=run.objective,
            weights=run.weights,
            batches=batches,
            settings=settings,
            advance=advance,
            signed=run.channels is not None,
            sparsity=None if target is None else target.sparsity,
            rounds=run.method.rounds,
            mask=lambda found, sparsity: _mask_variables(run, target, found, sparsity, settings),
            checkpoint=checkpoint,
        )
        found = run.method.scores(problem)
        scores = _scores_to_select_from(run, found, settings)
        if replicas is not None:
            replicas.check_same("the scores", *scores.values())
    return Scored(
        scores,
        {
            "method": asked.method,
            **asdict(settings),
            "structure": asked.structure,
            "replicas": run.strategy.num_replicas_in_sync,
        },
        found.losses,
        found.estimators,
        run.channels,
        specs[0] if specs else input_specs(model),
        checkpoint,
    )


@dataclass(frozen=True)
class _Run:
    """What the options came to.

    Attributes:
        method: The row of `METHODS`.
        passes: How many passes over a batch it makes.
        objective: The loss, with its model.
        weights: What gets a score, by path.
        channels: The groups of channels, of structure="channel".
        strategy: Whose replicas share the batches.
    """

    method: Method
    passes: int
    objective: Objective
    weights: dict[str, Any]
    channels: ChannelGroups | None
    strategy: tf.distribute.Strategy


def _resolve(asked: Scoring) -> _Run:
    """Checks the options, and finds what they name in the model."""
    model, settings = asked.model, asked.settings
    choose("method", asked.method, METHODS)
    choose("structure", asked.structure, STRUCTURES)
    curvatures.find(settings.curvature)
    method = METHODS[asked.method]
    channels = ChannelGroups.of(model, asked.prunable) if asked.structure == "channel" else None
    if channels is None:
        weights = prunable_weights(model, asked.prunable)
    elif method.sums:
        weights = channels.weights()
    else:  # channels by themselves: their scores are no sums of weights'
        weights = channels.placeholders()
    passes = method.passes(settings.steps)
    objective = Objective.of(model, asked.loss) if passes else Objective(model, None)
    strategy = strategy_for(model, asked.strategy)
    return _Run(method, passes, objective, weights, channels, strategy)


def _open_checkpoint(asked: Scoring, run: _Run) -> Checkpoint | None:
    """The state of the run in a file, if it is asked for and the method has steps.

    Raises:
        ValueError: Replicas share the batches; or as `Checkpoint`.
    """
    if asked.checkpoint is not None and isinstance(run.strategy, MIRRORED):
        msg = "replicas that share the batches of a run keep no checkpoint of it; leave it out"
        raise ValueError(msg)
    if asked.checkpoint is None or not run.passes:
        return None
    facts = {"method": asked.method, **asdict(asked.settings), "structure": asked.structure}
    return Checkpoint(asked.checkpoint, description(run.objective, run.weights, facts))


def _work(run: _Run, target: Target | None, show: bool) -> tuple[int, str]:
    """What the progress bar counts up to, and its unit; 0 for no bar."""
    if run.passes:
        return run.passes if show else 0, "batches"
    return run.method.rounds - 1 if show and target is not None else 0, "rounds"


def _agreed(replicas: Replicas, settings: Settings, others: object, run: _Run) -> Settings:
    """The settings, with the first worker's seed, if all workers were given the same.

    Raises:
        ValueError: They were not.
    """
    settings = replace(settings, seed=replicas.first(settings.seed))
    replicas.check_same("the arguments", f"{settings} {others!r} {[*run.weights]}")
    replicas.check_same("the model's variables", *run.objective.model.variables)
    return settings


def _draw_batches(
    data: Any,
    objective: Objective,
    settings: Settings,
    replicas: Replicas | None,
    specs: list[Any],
) -> Iterator[Batch]:
    """Endless batches, checked for all that is done with them; `specs` gets those of the first."""
    batches = endless_batches(data, settings.batch_size, settings.seed)
    if replicas is not None:  # first, so that all workers find the same wrong with a batch
        batches = replicas.same_batches(batches)
    batches = checked(batches, objective)
    if replicas is not None:
        batches = shareable(batches, objective)
    if settings.microbatch is not None:
        batches = splittable(batches, objective)
    for batch in batches:
        if not specs:
            specs.append(input_specs(objective.model, batch.x))
        yield batch


def _mask_variables(
    run: _Run, target: Target | None, found: Found, sparsity: float, settings: Settings
) -> None:
    """Sets to zero what is pruned by these scores at this sparsity."""
    if target is None:
        return
    scores = _scores_to_select_from(run, found, settings)
    for path, kept in target.masks(scores, run.channels, sparsity).items():
        members = run.channels and run.channels.members
        variable = members[path].variable if members else run.weights[path]
        variable.assign(tf.where(kept, variable.value, tf.zeros_like(variable.value)))


def _scores_to_select_from(run: _Run, found: Found, settings: Settings) -> Scores:
    """Scores of weights or channels as arrays; each tensor goes when it is one.

    Raises:
        ValueError: Some are NaN.
    """
    scores = {path: found.scores.pop(path).numpy() for path in list(found.scores)}
    for path, values in scores.items():
        if np.isnan(values).any():
            msg = (
                f"the scores of {path} hold NaN: its weights or derivatives are too large; lower "
                f"learning_rate (now {settings.learning_rate:g})"
            )
            raise ValueError(msg)
    if run.channels is None or not run.method.sums:
        return scores
    if run.method.signed:
        return run.channels.sums(scores)
    return run.channels.scores(scores, found.signs)


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
