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
from prospr_ops.methods.engine.checkpoint import Checkpoint, Round, description
from prospr_ops.methods.engine.distribution import MIRRORED, Replicas, shared_by, strategy_for
from prospr_ops.methods.engine.faults import layer_without_derivative
from prospr_ops.methods.engine.microbatches import shareable, splittable
from prospr_ops.methods.engine.problem import Found, Problem
from prospr_ops.network import keras_private
from prospr_ops.network.loss import Batch, Loss, Objective
from prospr_ops.network.restore import preserved
from prospr_ops.network.second_derivatives import NoSecondDerivative
from prospr_ops.network.tracing import run_as_fit
from prospr_ops.network.weights import Prunable, prunable_weights
from prospr_ops.pruning.arrays import Kernels, Masks, Scores
from prospr_ops.pruning.channels.groups import ChannelGroups
from prospr_ops.pruning.flops import input_specs, weight_uses
from prospr_ops.pruning.kernels import kernels_of
from prospr_ops.pruning.rounds import Rounds, check_rounds
from prospr_ops.pruning.selection import check_selectable, kept_of
from prospr_ops.pruning.target import Target
from prospr_ops.utils.checks import choose
from prospr_ops.utils.memory import old_objects_left_alone
from prospr_ops.utils.settings import CHOICES, Settings


@dataclass(frozen=True)
class Scoring:
    """A request to score; the options are those of `prospr_ops.prune`.

    `target` is None if no selection follows, as in `prospr_ops.score`, in a single round; `rounds` is
    None for the method's own number; `revive` is checked already.
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
    rounds: int | None = None
    revive: bool = False


@dataclass(frozen=True)
class Scored:
    """The result of scoring, and of selecting if there is a target, with the record of the run.

    The scores are those of the last round.
    """

    scores: Scores
    kept: Masks  # of what is scored, weights or channels; none without a target
    masks: Masks  # of variables; none without a target
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
    """Scores a model, and selects if there is a target, in rounds; leaves the model unchanged.

    1. `_resolve`: check the options; find method, loss, weights or channels, and strategy.
    2. `_open_checkpoint`: read the state of a killed run, if there is one.
    3. `_draw_batches`: make batches of the data, with all checks that the run needs.
    4. `Rounds.begin`: set the model to the state in which a round finds it.
    5. The method scores the weights (`prospr_ops.methods`).
    6. `_scores_to_select_from`: sum the scores over channels, put what is pruned already last,
       and refuse NaN.
    7. `kept_of`: what is kept; on with the next round at 4, with fresh batches.

    Raises:
        TypeError: An argument has the wrong type, as in `prospr_ops.prune`.
        ValueError: An argument, the data or a derivative is refused, as in `prospr_ops.prune`.
        OSError: The checkpoint cannot be read or written.
    """
    run = _resolve(asked)
    checkpoint = _open_checkpoint(asked, run)
    settings, target, model = asked.settings, asked.target, asked.model
    first: list[Any] = []
    with (
        old_objects_left_alone(),
        shared_by(run.strategy, model) as replicas,
        preserved(model),
        run_as_fit(model),
        _progress(asked.method, *_work(run, show_progress)) as (advance, say),
    ):
        if replicas is not None:
            others = (asked.method, asked.structure, target, run.rounds, asked.revive)
            settings = _agreed(replicas, settings, others, run)
        batches: Iterator[Batch] = iter(())
        if run.passes:
            batches = _draw_batches(data, run.objective, settings, replicas, first)
        if checkpoint is not None:
            batches = checkpoint.watch(batches)
        rounds = Rounds(model, run.weights, run.channels, run.rounds, revive=asked.revive)
        if target is not None and asked.rounds is not None:
            check_rounds(asked.rounds, rounds.size, rounds.alive, target)
        problem = Problem(
            objective=run.objective,
            weights=run.weights,
            batches=batches,
            settings=settings,
            advance=advance,
            signed=run.channels is not None,
            held=rounds.held,
            rounds=run.rounds,
            initial=rounds.initial,
            checkpoint=checkpoint,
            say=say,
        )
        with _second_derivatives_named(run.method, problem):
            scores, kept, found = _in_rounds(run, problem, rounds, target, first)
        if replicas is not None:
            replicas.check_same("the scores", *scores.values())
    return Scored(
        scores,
        kept,
        rounds.masks(kept) if kept else {},
        {
            "method": asked.method,
            **asdict(settings),
            "structure": asked.structure,
            "replicas": run.strategy.num_replicas_in_sync,
            **({} if target is None else {"rounds": run.rounds, "revive": asked.revive}),
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
        rounds: Number of rounds.
        passes: Number of passes over a batch that the method makes in a round.
        objective: The loss, with its model.
        weights: Variables that get a score, by path.
        channels: The groups of channels, for structure="channel"; else None.
        kernels: What the selection has to know of them.
        strategy: The strategy whose replicas share the batches, or None.
    """

    method: Method
    rounds: int
    passes: int
    objective: Objective
    weights: dict[str, Any]
    channels: ChannelGroups | None
    kernels: Kernels
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
    kernels = Kernels(channels=channels, signed=method.signed)
    if asked.target is not None:
        kernels = _selectable(asked.target, kernels, model, weights)
    passes = method.passes(settings.steps)
    objective = Objective.of(model, asked.loss) if passes else Objective(model, None)
    strategy = strategy_for(model, asked.strategy)
    rounds = 1
    if asked.target is not None:
        rounds = method.rounds if asked.rounds is None else asked.rounds
    return _Run(method, rounds, passes, objective, weights, channels, kernels, strategy)


def _selectable(
    target: Target, kernels: Kernels, model: keras.Model, weights: Mapping[str, Any]
) -> Kernels:
    """What the selection has to know, as far as it is known before the first batch.

    Raises:
        ValueError: The target does not fit what will be scored.
    """
    if kernels.channels is None:
        shapes = {path: tuple(variable.shape) for path, variable in weights.items()}
        found = kernels_of(model, shapes, target)
        kernels = replace(kernels, axes=found.axes, uses=found.uses)
    else:
        shapes = {path: groups.shape for path, groups in kernels.channels.groups.items()}
        if target.flops is not None:
            kernels = replace(kernels, uses=weight_uses(model))
    if target.flops is None or input_specs(model) is not None:
        check_selectable(shapes, target, kernels)
    return kernels


def _with_uses(kernels: Kernels, target: Target, model: keras.Model, first: list[Any]) -> Kernels:
    """What the selection has to know, where the first batch tells what the model takes."""
    if target.flops is None or kernels.uses or not first:
        return kernels
    return replace(kernels, uses=weight_uses(model, input_specs(model, first[0])))


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
    if run.rounds > 1 and asked.target is not None:  # what a round finds depends on them
        facts |= {"rounds": run.rounds, "revive": asked.revive, **asked.target.record()}
    return Checkpoint(asked.checkpoint, description(run.objective, run.weights, facts))


def _work(run: _Run, show: bool) -> tuple[int, str]:
    """Total and unit of the progress bar; a total of 0 for no bar."""
    if run.passes:
        return run.rounds * run.passes if show else 0, "batches"
    return run.rounds if show and run.rounds > 1 else 0, "rounds"


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


@contextmanager
def _second_derivatives_named(method: Method, problem: Problem) -> Iterator[None]:
    """Says which methods still work where TensorFlow has no second derivative.

    Raises:
        ValueError: The method needs one that TensorFlow does not have.
    """
    changing = keras_private.changed_by_calls(problem.objective.model)
    if method.second_derivatives and changing:
        msg = (
            f"{_takes_them(method)} each forward pass of {changing[0]!r} (SpectralNormalization) assigns "
            f"to its kernel, which they leave out; {_that_take_none()}"
        )
        raise ValueError(msg)
    try:
        yield
    except NoSecondDerivative as error:
        layer = layer_without_derivative(problem, error)
        where = f" behind layer {layer!r}" if layer else ""
        msg = f"{_takes_them(method)} {error}{where}; {_that_take_none()}"
        raise ValueError(msg) from error


def _takes_them(method: Method) -> str:
    return f"method '{method.name}' takes second derivatives, and"


def _that_take_none() -> str:
    others = [f"'{one.name}'" for one in METHODS.values() if not one.second_derivatives]
    return f"those that take none are {', '.join(others)}"


def _in_rounds(
    run: _Run, problem: Problem, rounds: Rounds, target: Target | None, first: list[Any]
) -> tuple[Scores, Masks, Found]:
    """Scores, and selects if there is a target, as often as there are rounds.

    Returns:
        The scores of the last round, what is kept of what was scored, and what the method found,
        with the losses of all rounds.
    """
    score, checkpoint = run.method.scorer(problem), problem.checkpoint
    begun = Round() if checkpoint is None else checkpoint.resume_round()
    losses, kept, kernels = begun.losses, begun.kept, run.kernels
    for _ in range(begun.number * run.passes):
        problem.advance()
    for number in range(begun.number, run.rounds):
        if number > 0:
            rounds.begin(number, kept)
        found = score(number)
        losses = [*losses, *found.losses]
        scores = _scores_to_select_from(run, found, problem.settings, rounds.dead)
        if target is not None:
            kernels = _with_uses(kernels, target, problem.objective.model, first)
            aim = target.at((number + 1) / run.rounds, rounds.alive)
            kept = kept_of(scores, aim, replace(kernels, dead=rounds.dead))
        if not run.passes:
            problem.advance()
        if checkpoint is not None and number + 1 < run.rounds:
            checkpoint.begin_round(number + 1, losses, kept)
    return scores, dict(kept), replace(found, losses=tuple(losses))


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
