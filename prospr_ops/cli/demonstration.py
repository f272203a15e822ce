"""The demonstration behind `prospr demo`: pruning methods side by side on one small network."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from prospr_ops.cli.comparison.cells import DENSE, Contender
from prospr_ops.data.datasets import DATASETS, Dataset
from prospr_ops.methods import METHODS as PRUNING_METHODS
from prospr_ops.models import lenet_300_100
from prospr_ops.network.weights import prunable_weights
from prospr_ops.pruning.api import prune
from prospr_ops.pruning.arrays import Masks
from prospr_ops.reporting.figures import accuracy_figure
from prospr_ops.utils.build import build_info
from prospr_ops.utils.checks import check_integer, check_real, choose
from prospr_ops.utils.files import check_output, replacing, write_json
from prospr_ops.utils.tables import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["METHODS", "SPARSITIES", "Run", "run_demo", "runs_table"]

# What docs/accuracy.md recommends for this network, and one step each away from it: one round of the same,
# the same rounds of a criterion that looks at the initial weights alone, and no data at all.
METHODS = ("exact@5", "exact", "snip@5", "magnitude")
SPARSITIES = (0.9, 0.98, 0.995)

# Every method that looks at data looks at batches of this size; only ProsPr's make steps.
_PRUNING: dict[str, Any] = {"batch_size": 512, "learning_rate": 0.1}

# The same for every network: momentum SGD, its learning rate falling to 0 by a cosine.
_TRAINING: dict[str, Any] = {"batch_size": 128, "learning_rate": 0.1, "momentum": 0.9}

_MAP_SPARSITY = 0.98  # the maps are of the nearest sparsity


@dataclass(frozen=True)
class Run:
    """One network, pruned and trained.

    Attributes:
        method: How it was pruned, as `Contender.parse` reads it; `"dense"` if it was not.
        sparsity: Fraction of the prunable weights set to zero, in [0, 1).
        accuracy: Test accuracy after training, in [0, 1].
        kept: Number of weights kept, by variable path.
        prune_seconds: Time that pruning took.
        train_seconds: Time that training took.
    """

    method: str
    sparsity: float
    accuracy: float
    kept: dict[str, int]
    prune_seconds: float
    train_seconds: float


def run_demo(
    *,
    methods: Sequence[str] = METHODS,
    sparsities: Sequence[float] = SPARSITIES,
    epochs: int | None = None,
    seed: int = 0,
    dataset: str = "mnist",
    out: Path = Path("prospr_demo"),
    quick: bool = False,
    force: bool = False,
    console: Console | None = None,
) -> list[Run]:
    """Prunes LeNet-300-100 by each method, trains what is left, and reports.

    All networks start from the same weights and are trained in the same way on the same batches.

    Args:
        methods: Each "method[:steps][@rounds[+revive]]", with a method of `prospr_ops.prune`, such as
            "exact:3@5"; a method that takes prospect steps takes 3 unless told otherwise.
        sparsities: Fractions of the weights to prune, in [0, 1).
        epochs: Epochs of training, at least 1; by default 6, or 40 on a small data set.
        seed: Of the initial weights, of pruning and of training.
        dataset: Data set to train on: "mnist" or "fashion_mnist".
        out: Folder for `demo.json` and, with matplotlib, `demo.png`; created if there is none.
        quick: Makes it a smoke test: a slice of the data, one epoch.
        force: Whether results that are in `out` already may be replaced.
        console: Where progress and results are shown; by default standard output.

    Returns:
        The run of the dense network, then one for each sparsity and method.

    Raises:
        OSError: `out` cannot be written, or `PROSPR_DATA` cannot be read.
        TypeError: An option is of the wrong type.
        ValueError: An option is out of range, or the data is damaged.
    """
    start = time.perf_counter()
    console = console or Console()
    jobs = _jobs(methods, sparsities)
    if epochs is not None:
        epochs = check_integer("epochs", epochs, at_least=1)
    seed = check_integer("seed", seed, at_least=0)
    choose("dataset", dataset, DATASETS)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    record_file, figure_file = out / "demo.json", out / "demo.png"
    for file in (record_file, figure_file):
        check_output(file, force=force)
    data = DATASETS[dataset]()
    if quick:
        data = _first(data, 2000)
    if epochs is None:
        epochs = 1 if quick else 6 if len(data.x_train) > 20_000 else 40
    console.print(
        f"LeNet-300-100 on {data.name} ({data.source}): {len(data.x_train):,} images to train "
        f"on, {len(data.x_test):,} to test; epochs per network: {epochs}",
        highlight=False,
        markup=False,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with (
        _without_retracing_warnings(),
        Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress,
    ):
        # All are pruned before any is trained, so that a wrong option shows at once.
        networks = [
            _pruned(contender, sparsity, data, seed)
            for contender, sparsity in progress.track(jobs, description="pruning")
        ]
        task = progress.add_task("training", total=len(jobs) * epochs)
        runs = []
        for (contender, sparsity), network in zip(jobs, networks, strict=True):
            title = f"{contender.label()} {percent(sparsity)}" if sparsity else "the dense network"
            progress.update(task, description=f"training {title}")
            accuracy, train_seconds = _train(
                network.model, data, epochs, seed, on_epoch=lambda: progress.advance(task)
            )
            kept = {path: int(np.count_nonzero(mask)) for path, mask in network.masks.items()}
            runs.append(
                Run(str(contender), sparsity, accuracy, kept, network.seconds, train_seconds)
            )
    console.print(runs_table(runs))

    written = [record_file]
    record = {
        "dataset": data.name,
        "data": data.source,
        "images": {"train": len(data.x_train), "test": len(data.x_test)},
        "seed": seed,
        "pruning": _PRUNING,
        "training": {"epochs": epochs, **_TRAINING},
        "runs": [asdict(run) for run in runs],
        "build_info": build_info(),
    }
    write_json(record_file, record)
    title = f"LeNet-300-100 on {len(data.x_train):,} images of {data.name}, pruned before training"
    if len(steps := _steps(runs)) == 1:
        title += f", M = {steps.pop()}"
    try:
        figure = _figure(runs, networks, title)
    except ImportError as error:
        figure_file.unlink(missing_ok=True)  # that of an earlier run, which does not fit the record
        console.print(f"No picture: {error}", highlight=False, markup=False, soft_wrap=True)
    else:
        written.append(figure_file)
        with replacing(figure_file) as unfinished:
            figure.savefig(unfinished, dpi=150)
    console.print(
        f"{time.perf_counter() - start:.0f} seconds in all; see {' and '.join(map(str, written))}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return runs


def runs_table(runs: Sequence[Run]) -> Table:
    """Tabulates runs in the order given, with a line where the sparsity changes.

    Args:
        runs: Of one architecture, at least one.

    Returns:
        A row for each run; the best accuracy of each sparsity is bold.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    labels = _labels(runs)
    table.caption = "One seed: small differences are chance."
    if len(steps := _steps(runs)) == 1:
        table.caption += f" Prospect steps: {steps.pop()}."
    if any(0 in run.kept.values() for run in runs):
        table.caption += "\nA network with an empty layer can only guess."
    layers = [path.split("/")[-2] for path in runs[0].kept]
    table.add_column("\nmethod")
    for header in ("\npruned", "test\naccuracy", *(f"kept in\n{layer}" for layer in layers)):
        table.add_column(header, justify="right")
    for header in ("prune\ns", "train\ns"):
        table.add_column(header, justify="right")
    for run, following in zip(runs, [*runs[1:], None], strict=True):
        best = max(other.accuracy for other in runs if other.sparsity == run.sparsity)
        accuracy = f"{100 * run.accuracy:.2f} %"
        table.add_row(
            labels[run.method],
            percent(run.sparsity),
            f"[bold]{accuracy}[/]" if run.accuracy == best else accuracy,
            *(f"{kept:,}" for kept in run.kept.values()),
            f"{run.prune_seconds:.1f}",
            f"{run.train_seconds:.1f}",
            end_section=following is not None and following.sparsity != run.sparsity,
        )
    return table


class _Network(NamedTuple):
    model: keras.Model
    masks: Masks
    seconds: float


def _jobs(methods: Sequence[str], sparsities: Sequence[float]) -> list[tuple[Contender, float]]:
    """The networks: the dense one, then one for each sparsity and method."""
    if isinstance(methods, str):
        msg = f"methods must be a list such as [{methods!r}], not str"
        raise TypeError(msg)
    contenders = dict.fromkeys(_contender(text) for text in methods)
    levels = dict.fromkeys(check_real("sparsity", level, below=1.0) for level in sparsities)
    if not contenders or not levels:
        msg = f"methods and sparsities must not be empty, got {methods!r} and {sparsities!r}"
        raise ValueError(msg)
    return [(Contender(DENSE), 0.0), *((one, level) for level in levels for one in contenders)]


def _contender(text: str) -> Contender:
    """Reads a contender that `prune` can score, the same one however it is written."""
    if not isinstance(text, str):
        msg = f"a method must be a str such as 'exact:3@5', not {type(text).__name__} ({text!r})"
        raise TypeError(msg)
    contender = Contender.parse(text)
    if contender.scored is None or contender.control:
        msg = (
            f"a method of the demonstration is one of {', '.join(PRUNING_METHODS)}, with its steps and "
            f"rounds as in exact:3@5, not {text!r}; prospr compare takes it"
        )
        raise ValueError(msg)
    usual = contender.rounds == contender.scored.rounds
    return replace(contender, rounds=None) if usual else contender


def _labels(runs: Sequence[Run]) -> dict[str, str]:
    """How the methods are called, by what they are; without their steps where all take as many."""
    contenders = {run.method: Contender.parse(run.method) for run in runs}
    if len(_steps(runs)) == 1:
        contenders = {text: replace(one, steps=None) for text, one in contenders.items()}
    return {text: contender.label() for text, contender in contenders.items()}


def _steps(runs: Sequence[Run]) -> set[int]:
    """Prospect steps that the methods take, of those which take any."""
    return {steps for run in runs if (steps := Contender.parse(run.method).steps) is not None}


def _pruned(contender: Contender, sparsity: float, data: Dataset, seed: int) -> _Network:
    """A network with the initial weights of `seed`, pruned unless `sparsity` is 0."""
    keras.utils.set_random_seed(seed)
    model = lenet_300_100()
    if sparsity == 0:
        weights = prunable_weights(model)
        return _Network(model, {path: np.ones(w.shape, bool) for path, w in weights.items()}, 0.0)
    options = dict(_PRUNING)
    if contender.steps is not None:
        options["steps"] = contender.steps
    result = prune(
        model,
        (data.x_train, data.y_train),
        sparsity=sparsity,
        method=contender.method,
        rounds=contender.rounds,
        revive=contender.revive,
        loss=_loss(),
        seed=seed,
        allow_empty=True,  # it is one of the things to show, that magnitude collapses
        verbose=0,
        **options,
    )
    return _Network(model, dict(result.masks), result.seconds)


def _train(
    model: keras.Model, data: Dataset, epochs: int, seed: int, on_epoch: Callable[[], None]
) -> tuple[float, float]:
    """Trains a network; returns its test accuracy and the seconds that training took."""
    start = time.perf_counter()
    keras.utils.set_random_seed(seed)  # every network sees the same batches
    updates = epochs * math.ceil(len(data.x_train) / _TRAINING["batch_size"])
    rate = keras.optimizers.schedules.CosineDecay(_TRAINING["learning_rate"], updates)
    model.compile(
        keras.optimizers.SGD(rate, momentum=_TRAINING["momentum"]),
        _loss(),
        metrics=["accuracy"],
        # On a network this small, calls from Python would cost as much as the training itself.
        steps_per_execution=50,
    )
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=_TRAINING["batch_size"],
        epochs=epochs,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: on_epoch())],
    )
    seconds = time.perf_counter() - start
    _, accuracy = model.evaluate(data.x_test, data.y_test, batch_size=1000, verbose=0)
    return accuracy, seconds


@contextmanager
def _without_retracing_warnings() -> Iterator[None]:
    """Drops TensorFlow's warnings that training is traced often: each network is a model of its own."""

    def other(record: logging.LogRecord) -> bool:
        return "tf.function retracing" not in record.getMessage()

    logger = logging.getLogger("tensorflow")
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


def _loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _figure(runs: Sequence[Run], networks: Sequence[_Network], title: str) -> Figure:
    """Draws the dense run and the others, and the masks of one sparsity."""
    dense, *others = runs
    labels = _labels(others)
    accuracies: dict[str, dict[float, float]] = {}
    for run in others:
        accuracies.setdefault(labels[run.method], {})[run.sparsity] = run.accuracy
    nearest = min((run.sparsity for run in others), key=lambda s: abs(s - _MAP_SPARSITY))
    maps = {
        labels[run.method]: _pixel_map(network.masks)
        for run, network in zip(others, networks[1:], strict=True)
        if run.sparsity == nearest
    }
    return accuracy_figure(
        accuracies, maps, dense=dense.accuracy, map_sparsity=nearest, title=title
    )


def _pixel_map(masks: Masks) -> np.ndarray:
    """Weights kept in the first layer at each pixel, `[28, 28]`."""
    first = next(iter(masks.values()))
    return first.sum(axis=1).reshape(28, 28)


def _first(data: Dataset, count: int) -> Dataset:
    """The first `count` samples of the training set and of the test set."""
    return replace(
        data,
        x_train=data.x_train[:count],
        y_train=data.y_train[:count],
        x_test=data.x_test[:count],
        y_test=data.y_test[:count],
    )
