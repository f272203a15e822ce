"""Runs the cells of a comparison that its journal does not hold yet."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prospr_ops.cli.comparison import journal, worker
from prospr_ops.cli.comparison.cells import (
    DENSE,
    DRAWN,
    DURING,
    IDENTITY,
    Cell,
    Contender,
    Pruning,
    grid,
)
from prospr_ops.cli.comparison.training import Training
from prospr_ops.data.datasets import DATASETS
from prospr_ops.pruning.target import Target
from prospr_ops.utils.checks import check_integer, check_real, choose
from prospr_ops.utils.stderr import quiet_stderr

MODELS = ("lenet_300_100", "lenet5", "lenet5_caffe", "vgg7", "resnet20")
SPARSITIES = (0.9, 0.95, 0.98, 0.99, 0.995)
CONTENDERS = (
    "dense", "exact:3", "diagonal:3", "first_order:3", "snip", "magnitude",
    "random", "shuffled:exact:3", "reinit:exact:3",
)  # fmt: skip


def compare(
    path: str | os.PathLike[str],
    *,
    model: str = "lenet_300_100",
    contenders: Sequence[str] = CONTENDERS,
    sparsities: Sequence[float] | None = None,
    flops: Sequence[float] = (),
    seeds: int = 5,
    pruning: Pruning | None = None,
    training: Training | None = None,
    validation: bool = False,
    dataset: str = "mnist",
    pretrained: str | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> list[dict[str, Any]]:
    """Prunes and trains a network for each contender, sparsity and seed.

    All networks of a seed start from the same weights (but for "reinit") and are trained on the same
    batches in the same way. Each finished network is a line of the journal at once: a run that was
    stopped, by whatever, goes on where it was when it is called again, and a larger grid adds to a
    smaller one.

    Args:
        path: The journal, a file of JSON lines; created if there is none.
        model: Name of a network in `prospr_ops.models`, but for `vgg16`.
        contenders: Each "[control:]method[:steps][@rounds[+revive]]", with a method of `prospr_ops.prune`;
            or "dense"; or what is pruned during training: "gradual" (`GradualPruning` to half of the
            steps), "rigl" and "set" (`DynamicSparsity`), and "exact_rigl", which begins with the masks
            of "exact:3"; or "random_erk", the masks that "rigl" and "set" begin with. Control
            "shuffled" shuffles the method's masks within each layer, "reinit" trains them on newly
            drawn weights: a method that is no better than these has only found how many weights each
            layer needs.
        sparsities: Fractions of the weights to prune, in [0, 1); None for 0.9, 0.95, 0.98, 0.99 and
            0.995, or for none where `flops` is given.
        flops: Fractions of the multiply-adds to keep, in (0, 1]: more columns. Only contenders with
            scores can meet these.
        seeds: How many: 0, 1, ….
        pruning: How the scores are made.
        training: How the networks are trained.
        validation: Measure the error on the last 10,000 training samples, and train on the others;
            for the choice of settings, which must not look at the test set.
        dataset: Data set to train on: "mnist" or "fashion_mnist".
        pretrained: Data set on which the dense network is trained first, in the same way: what is
            compared then is pruning a trained network for a new task. None for initial weights.
            Control "reinit" trains on newly drawn weights there.
        workers: Processes, of one thread each; by default as many as there are processors.
        console: Where progress is shown; by default standard output.

    Returns:
        The records of the grid, in its order. Each says all that is needed to repeat it, and
        `test_error` (or `validation_error`) in percent.

    Raises:
        OSError: The journal cannot be read or written, or the data cannot be read.
        TypeError: An option is of the wrong type.
        ValueError: An option is out of range, the file is not a journal, or the prospect of a
            contender diverged; that one is named when the others are finished.
    """
    path = Path(path)
    choose("model", model, MODELS)
    choose("dataset", dataset, DATASETS)
    if pretrained is not None:
        choose("pretrained", pretrained, DATASETS)
    check_integer("seeds", seeds, at_least=1)
    if sparsities is None:
        sparsities = () if flops else SPARSITIES
    if not contenders or not (sparsities or flops):
        msg = f"contenders and sparsities must not be empty, got {contenders!r} and {sparsities!r}"
        raise ValueError(msg)
    if all(text == DENSE for text in contenders):
        msg = "there is nothing to compare: name a method among the contenders, not only 'dense'"
        raise ValueError(msg)
    for sparsity in sparsities:
        check_real("sparsity", sparsity, below=1.0)
    for share in flops:
        Target.of(flops=share)
    parsed = [Contender.parse(text) for text in contenders]
    if flops and (unmet := [str(c) for c in parsed if c.method in {*DURING, *DRAWN}]):
        msg = f"{', '.join(unmet)} cannot meet flops, which needs scores: give sparsities instead"
        raise ValueError(msg)
    if workers is None:
        workers = len(os.sched_getaffinity(0))
    check_integer("workers", workers, at_least=1)
    cells = grid(
        model,
        parsed,
        [float(sparsity) for sparsity in sparsities],
        range(seeds),
        pruning or Pruning(),
        training or Training(),
        validation,
        dataset,
        pretrained,
        [float(share) for share in flops],
    )
    records = journal.read(path)  # refuses a file that is something else before it is written to
    journal.mend(path)
    samples = len(worker.load(dataset, validation).x_train)
    done = finished(records, cells, samples)
    todo = [cell for cell in cells if cell not in done]
    if todo:
        _run(todo, path, min(workers, len(todo)), console or Console())
    return list(finished(journal.read(path), cells, samples).values())


def _run(cells: list[Cell], path: Path, workers: int, console: Console) -> None:
    # A job is what shares its scores, so that they are made once.
    jobs = [
        list(job) for _, job in groupby(cells, lambda c: (c.seed, replace(c.contender, control="")))
    ]
    already = len(journal.read(path))
    failures: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    context = multiprocessing.get_context("spawn")
    with (
        Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress,
        ProcessPoolExecutor(workers, context, initializer=worker.start) as pool,
    ):
        task = progress.add_task("networks", total=len(cells))
        with quiet_stderr():  # as the processes start; what goes wrong in one, its future says
            futures = {pool.submit(worker.run, job, path): job[0] for job in jobs}
        try:
            pending = set(futures)
            while pending:
                finished, pending = wait(pending, timeout=1, return_when=FIRST_EXCEPTION)
                progress.update(task, completed=len(journal.read(path)) - already)
                for future in finished:
                    try:
                        future.result()
                    except ValueError as error:  # of the scores, which the job's cells share
                        cell = futures[future]
                        contender = replace(cell.contender, control="")
                        failures.append(f"{contender}, seed {cell.seed}: {error}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failures:
        msg = f"{'; '.join(failures)}. The other networks are in {path}"
        raise ValueError(msg)


def finished(
    records: Iterable[dict[str, Any]], cells: Iterable[Cell], samples: int
) -> dict[Cell, dict[str, Any]]:
    """Those of these cells that a journal has.

    Args:
        records: Of the journal.
        cells: Of a grid.
        samples: Training samples of the data set; a network that was trained on a part is another one.

    Returns:
        The record by cell, in the order of the cells.
    """
    by_key = {_key(r): r for r in records if r.get("training_samples") == samples}
    return {cell: by_key[key] for cell in cells if (key := _key(cell.identity())) in by_key}


def _key(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(record.get(name) for name in IDENTITY)
