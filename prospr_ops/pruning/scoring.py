"""Scoring a model: `run_scoring`, in the steps that its docstring names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prospr_ops.data.batches import checked, endless_batches
from prospr_ops.methods import METHODS, Method
from prospr_ops.methods.engine.checkpoint import Checkpoint, description
from prospr_ops.methods.engine.distribution import MIRRORED, Replicas, shared_by, strategy_for
from prospr_ops.methods.engine.microbatches import shareable, splittable
from prospr_ops.methods.engine.problem import Found, Problem
from prospr_ops.network.loss import Batch, Loss, Objective
from prospr_ops.network.restore import preserved
from prospr_ops.network.second_derivatives import NoSecondDerivative
from prospr_ops.network.tracing import run_as_fit
from prospr_ops.network.weights import Prunable, prunable_weights
from prospr_ops.pruning.channels.groups import ChannelGroups
from prospr_ops.pruning.flops import input_specs
from prospr_ops.pruning.masks import mask_of
from prospr_ops.pruning.selection import Masks, Scores, select
from prospr_ops.utils.checks import choose
from prospr_ops.utils.settings import CHOICES, Settings


@dataclass(frozen=True)
class Target:
    """How to select weights; the options are those of `prospr_ops.prune`."""

    sparsity: float
    scope: str
    min_keep: int

    def masks(
        self, scores: Scores, channels: ChannelGroups | None, sparsity: float | None = None
    ) -> Masks:
        """Masks of weights at the target's sparsity, or at an intermediate one."""
        masks = select(
            scores,
            self.sparsity if sparsity is None else sparsity,
            self.scope,
            min_keep=self.min_keep,
        )
        return masks if channels is None else channels.masks(masks)


@dataclass(frozen=True)
class Scoring:
    """A request to score; the options are those of `prospr_ops.prune`.

    `target` is None if no selection follows, as in `prospr_ops.score`.
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
    """The result of scoring: the scores to select from, and the record of the run."""

    scores: Scores
    settings: dict[str, Any]
    losses: tuple[float, ...]
    estimators: dict[str, str]
    channels: ChannelGroups | None
    inputs: Any  # as `input_specs` returns them
    first: Any  # inputs of the first batch; None for a method without data
    checkpoint: Checkpoint | None

    @property
    def sample_shape(self) -> tuple[int, ...] | None:
        """Shape of one sample, for a model with one input; else None."""
        inputs = self.inputs
        return tuple(inputs.shape[1:]) if isinstance(inputs, tf.TensorSpec) else None

    def finish(self) -> None:
        """Deletes the checkpoint, once the scores have been used."""
        if self.checkpoint is not None:
            self.checkpoint.remove()


def run_scoring(asked: Scoring, data: Any, *, show_progress: bool) -> Scored:
    """Scores a model and leaves it unchanged.

    1. `_resolve`: check the options; find method, loss, weights or channels, and strategy.
    2. `_open_checkpoint`: read the state of a killed run, if there is one.
    3. `_draw_batches`: make batches of the data, with all checks that the run needs.
    4. The method scores the weights (`prospr_ops.methods`).
    5. `_scores_to_select_from`: sum the scores over channels, put what is pruned already last,
       and refuse NaN.

    Raises:
        TypeError: An argument has the wrong type, as in `prospr_ops.prune`.
        ValueError: An argument, the data or a derivative is refused, as in `prospr_ops.prune`.
        OSError: The checkpoint cannot be read or written.
    """
    run = _resolve(asked)
    checkpoint = _open_checkpoint(asked, run)
    settings, target, model = asked.settings, asked.target, asked.model
    first: list[Any] = []
    dead = _dead(run)
    with (
        shared_by(run.strategy, model) as replicas,
        preserved(model),
        run_as_fit(model),
        _progress(asked.method, *_work(run, target, show_progress)) as (advance, say),
    ):
        if replicas is not None:
            settings = _agreed(replicas, settings, (asked.method, asked.structure, target), run)
        batches: Iterator[Batch] = iter(())
        if run.passes:
            batches = _draw_batches(data, run.objective, settings, replicas, first)
        if checkpoint is not None:
            batches = checkpoint.watch(batches)
        problem = Problem(
            objective=run.objective,
            weights=run.weights,
            batches=batches,
            settings=settings,
            advance=advance,
            signed=run.channels is not None,
            held=_held(model),
            sparsity=None if target is None else target.sparsity,
            rounds=run.method.rounds,
            mask=lambda found, sparsity: _mask_variables(
                run, target, found, sparsity, settings, dead
            ),
            checkpoint=checkpoint,
            say=say,
        )
        found = _found(run.method, problem)
        scores = _scores_to_select_from(run, found, settings, dead)
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
        input_specs(model, first[0] if first else None),
        first[0] if first else None,
        checkpoint,
    )


@dataclass(frozen=True)
class _Run:
    """The checked options, and what they name in the model.

    Attributes:
        method: The method's row of `METHODS`.
        passes: Number of passes over a batch that the method makes.
        objective: The loss, with its model.
        weights: Variables that get a score, by path.
        channels: The groups of channels, for structure="channel"; else None.
        strategy: The strategy whose replicas share the batches, or None.
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
    choose("structure", asked.structure, CHOICES["structure"])
    method = METHODS[asked.method]
    for option, default in (("curvature", "auto"), ("probes", 1)):
        given = getattr(settings, option)
        if option not in method.settings and given != default:
            msg = f"{option} is for method 'diagonal', and {option}={given!r} is given with {asked.method!r}"
            raise ValueError(msg)
    channels = ChannelGroups.of(model, asked.prunable) if asked.structure == "channel" else None
    if channels is None:
        weights = prunable_weights(model, asked.prunable)
    elif method.sums:
        weights = channels.weights()
    else:  # the method scores channels directly, not as sums over weights
        weights = channels.placeholders()
    passes = method.passes(settings.steps)
    objective = Objective.of(model, asked.loss) if passes else Objective(model, None)
    strategy = strategy_for(model, asked.strategy)
    return _Run(method, passes, objective, weights, channels, strategy)


def _held(model: keras.Model) -> dict[int, tf.Tensor]:
    """The masks that the model has already, by the id of the variable that holds the weight."""
    masks = {id(v.value): mask_of(v) for v in model.trainable_variables}
    return {key: tf.constant(mask) for key, mask in masks.items() if mask is not None}


def _dead(run: _Run) -> dict[str, np.ndarray]:
    """Where weights, or channels, are pruned already, by path; without those where nothing is.

    A weight is, if a mask says so, or if it is zero and others of its array are not.
    """
    if run.channels is not None:
        return run.channels.without_kernels(
            {p: mask_of(m.variable) for p, m in run.channels.members.items()}
        )
    dead = {}
    for path, variable in run.weights.items():
        values, mask = variable.numpy(), mask_of(variable)
        gone = (values == 0) & bool(values.any())
        if mask is not None:
            gone |= ~mask
        if gone.any():
            dead[path] = gone
    return dead


def _open_checkpoint(asked: Scoring, run: _Run) -> Checkpoint | None:
    """The checkpoint of the run, if one is asked for and the method has steps.

    Raises:
        ValueError: Replicas share the batches, or `Checkpoint` refuses the file.
    """
    if asked.checkpoint is not None and isinstance(run.strategy, MIRRORED):
        msg = "replicas that share the batches of a run keep no checkpoint of it; leave it out"
        raise ValueError(msg)
    if asked.checkpoint is None or not run.passes:
        return None
    facts = {"method": asked.method, **asdict(asked.settings), "structure": asked.structure}
    return Checkpoint(asked.checkpoint, description(run.objective, run.weights, facts))


def _work(run: _Run, target: Target | None, show: bool) -> tuple[int, str]:
    """Total and unit of the progress bar; a total of 0 for no bar."""
    if run.passes:
        return run.passes if show else 0, "batches"
    return run.method.rounds - 1 if show and target is not None else 0, "rounds"


def _agreed(replicas: Replicas, settings: Settings, others: object, run: _Run) -> Settings:
    """The settings, with the first worker's seed, if all workers were given the same.

    Raises:
        ValueError: The workers were given different settings.
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
    first: list[Any],
) -> Iterator[Batch]:
    """Endless batches with all checks that the run needs; `first` gets the first inputs."""
    batches = endless_batches(data, settings.batch_size, settings.seed)
    if replicas is not None:  # first, so that all workers find the same fault in a batch
        batches = replicas.same_batches(batches)
    batches = checked(batches, objective)
    if replicas is not None:
        batches = shareable(batches, objective)
    if settings.microbatch is not None:
        batches = splittable(batches, objective)
    for batch in batches:
        if not first:
            first.append(batch.x)
        yield batch


def _found(method: Method, problem: Problem) -> Found:
    """What the method finds.

    Raises:
        ValueError: It needs a second derivative that TensorFlow does not have.
    """
    try:
        return method.scores(problem)
    except NoSecondDerivative as error:
        others = [f"'{one.name}'" for one in METHODS.values() if not one.second_derivatives]
        msg = (
            f"method '{method.name}' takes second derivatives, and {error}; those that take none "
            f"are {', '.join(others)}"
        )
        raise ValueError(msg) from error


def _mask_variables(
    run: _Run,
    target: Target | None,
    found: Found,
    sparsity: float,
    settings: Settings,
    dead: Mapping[str, np.ndarray],
) -> None:
    """Sets to zero the weights that these scores prune at this sparsity."""
    if target is None:
        return
    scores = _scores_to_select_from(run, found, settings, dead)
    for path, kept in target.masks(scores, run.channels, sparsity).items():
        members = run.channels and run.channels.members
        variable = members[path].variable if members else run.weights[path]
        variable.assign(tf.where(kept, variable.value, tf.zeros_like(variable.value)))


def _scores_to_select_from(
    run: _Run, found: Found, settings: Settings, dead: Mapping[str, np.ndarray]
) -> Scores:
    """Scores of weights or channels as arrays; each tensor is freed once it is converted.

    Raises:
        ValueError: A score is NaN.
    """
    scores = {path: found.scores.pop(path).numpy() for path in list(found.scores)}
    for path, values in scores.items():
        if np.isnan(values).any():
            msg = (
                f"the scores of {path} hold NaN: its weights or derivatives are too large; lower "
                f"learning_rate (now {settings.learning_rate:g})"
            )
            raise ValueError(msg)
    if run.channels is not None and run.method.sums:
        if run.method.signed:
            scores = run.channels.sums(scores)
        else:
            scores = run.channels.scores(scores, found.signs)
    for path, gone in dead.items():  # what is pruned already goes first
        scores[path] = np.where(gone, -np.inf, scores[path])
    return scores


@contextmanager
def _progress(
    method: str, total: int, unit: str
) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """A progress bar over so many of a unit, none over 0.

    Yields a function that advances it, and one that says on it what is done now.
    """
    if not total:
        yield lambda: None, lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as progress:
        title = f"scoring by {method}"
        task = progress.add_task(title, total=total)

        def say(words: str) -> None:
            progress.update(task, description=f"{title}: {words}", refresh=True)

        if unit == "batches":
            say("checking the data")
        yield lambda: progress.advance(task), say
