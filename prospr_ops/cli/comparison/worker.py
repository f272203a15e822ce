"""One cell of a comparison, from fresh weights to a line in the journal."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from prospr_ops import models
from prospr_ops.callbacks import DynamicSparsity, GradualPruning
from prospr_ops.cli.comparison import journal
from prospr_ops.cli.comparison.cells import DRAWN, DURING, Cell, Contender
from prospr_ops.cli.comparison.training import Training, error_percent, fit, train
from prospr_ops.data.datasets import DATASETS, Dataset
from prospr_ops.delivery.sparsifying import sparsify
from prospr_ops.network.weights import prunable_weights
from prospr_ops.pruning.api import prune, score
from prospr_ops.pruning.arrays import Masks, Scores
from prospr_ops.pruning.masks import apply_masks
from prospr_ops.pruning.selection import select
from prospr_ops.utils.build import build_info

_VALIDATION_SAMPLES = 10_000
_EVERY = 100  # steps between two changes of masks during training
_REDRAWN = 1_000_003  # added to the seed of weights that are drawn anew


def start() -> None:
    """Prepares a worker process: as many of them as processors run one thread each."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when its parent is gone: killed, it cannot tell its workers to stop."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def run(cells: list[Cell], path: Path) -> None:
    """Runs the cells one after another, and writes each into the journal as it is finished."""
    for cell in cells:
        journal.append(path, run_cell(cell))


def run_cell(cell: Cell) -> dict[str, Any]:
    """Prunes and trains the network of a cell; returns its record."""
    keras.backend.clear_session()
    data = load(cell.dataset, cell.validation)
    before = time.perf_counter()
    masks = _masks(cell)
    pruned = time.perf_counter()
    errors: list[float] = []
    if cell.contender.control == "reinit":
        model = _drawn(cell.model, cell.seed + _REDRAWN, data)
    else:
        model = _network(cell, data)
    if cell.contender.method in DURING:
        masks = _trained_and_pruned(cell, model, data)
    else:
        if masks:
            apply_masks(model, masks)
            model = sparsify(model, layers="auto", batch_size=cell.training.batch_size, verbose=0)
        train(
            model, data.x_train, data.y_train, cell.training, seed=cell.seed,
            after_epoch=lambda: errors.append(error_percent(model, data.x_test, data.y_test)),
        )  # fmt: skip
    trained = time.perf_counter()
    error = errors[-1] if errors else error_percent(model, data.x_test, data.y_test)
    return {
        **cell.identity(),
        "validation_error" if cell.validation else "test_error": error,
        # Of the epochs' ends, as SNIP's code reports it; one that is picked by looking at these samples.
        "lowest_error": min(errors, default=None),
        "kept": {path: int(np.count_nonzero(mask)) for path, mask in masks.items()},
        "prune_seconds": round(pruned - before, 3),
        "train_seconds": round(trained - pruned, 3),
        "training_samples": len(data.x_train),
        "error_samples": len(data.x_test),
        "version": build_info()["version"],
    }


@lru_cache(maxsize=2)
def load(dataset: str, validation: bool) -> Dataset:
    """A data set by its name; for validation with held-out training samples in the place of the test set.

    Raises:
        OSError: The data cannot be read.
        ValueError: There are too few samples to hold so many out.
    """
    data = DATASETS[dataset]()
    if not validation:
        return data
    held_out = slice(len(data.x_train) - _VALIDATION_SAMPLES, None)
    if held_out.start <= 0:
        msg = (
            f"a validation set takes {_VALIDATION_SAMPLES:,} of more samples than {data.source} has"
        )
        raise ValueError(msg)
    return replace(
        data,
        x_train=data.x_train[: held_out.start],
        y_train=data.y_train[: held_out.start],
        x_test=data.x_train[held_out],
        y_test=data.y_train[held_out],
    )


def _drawn(name: str, seed: int, data: Dataset) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return getattr(models, name)(data.x_train.shape[1:], data.classes)


def _network(cell: Cell, data: Dataset) -> keras.Model:
    """The dense network that a cell begins with, trained on another data set or not."""
    model = _drawn(cell.model, cell.seed, data)
    if cell.pretrained is not None:
        model.set_weights(
            _trained(cell.model, cell.pretrained, cell.seed, cell.training, cell.validation)
        )
    return model


@lru_cache(maxsize=1)
def _trained(
    name: str, dataset: str, seed: int, training: Training, validation: bool
) -> list[np.ndarray]:
    """The weights of a dense network that was trained on a data set."""
    data = load(dataset, validation)
    model = _drawn(name, seed, data)
    train(model, data.x_train, data.y_train, training, seed=seed)
    return model.get_weights()


def _trained_and_pruned(cell: Cell, model: keras.Model, data: Dataset) -> Masks:
    """Trains a network while a callback prunes it; returns the masks in the end."""
    steps = cell.training.epochs * cell.training.steps(len(data.x_train))
    every = min(_EVERY, max(1, steps // 20))
    assert cell.sparsity is not None  # compare refuses budgets of multiply-adds
    callback: GradualPruning | DynamicSparsity
    if cell.contender.method == "gradual":
        # The learning rate falls after half of the epochs.
        callback = GradualPruning(cell.sparsity, 0, steps // 2, every, seed=cell.seed)
    else:
        name, sparsity = cell.contender.method, cell.sparsity
        if name == "exact_rigl":
            apply_masks(model, _masks(replace(cell, contender=Contender("exact", 3))))
        callback = DynamicSparsity(
            None if name == "exact_rigl" else sparsity,
            every,
            grow="gradient" if name.endswith("rigl") else "random",
            seed=cell.seed,
        )
    fit(model, data.x_train, data.y_train, cell.training, [callback], seed=cell.seed)
    return callback.masks


def _masks(cell: Cell) -> Masks:
    """The masks before training; none for a network that is dense then."""
    method, rounds = cell.contender.scored, cell.contender.rounds
    if cell.contender.method in DRAWN:
        return _drawn_masks(cell)
    if method is None:
        return {}
    uncontrolled = replace(cell, contender=replace(cell.contender, control=""))
    if (method.rounds if rounds is None else rounds) > 1:
        masks = _pruned(uncontrolled)  # the rounds are on the way to its sparsity
    else:
        # That a method empties a layer is one of the things to find out.
        scores = _scores(replace(uncontrolled, sparsity=0.0, flops=None))
        data = load(cell.dataset, cell.validation)
        masks = select(
            scores, cell.sparsity, flops=cell.flops, model=_drawn(cell.model, cell.seed, data)
        )
    if cell.contender.control != "shuffled":
        return masks
    random = np.random.default_rng(cell.seed)
    return {path: random.permuted(mask.ravel()).reshape(mask.shape) for path, mask in masks.items()}


def _drawn_masks(cell: Cell) -> Masks:
    """Random masks as `DynamicSparsity` draws them."""
    model = _drawn(cell.model, cell.seed, load(cell.dataset, cell.validation))
    random = np.random.default_rng(cell.seed)
    numbers = {
        path: random.random(weight.shape) for path, weight in prunable_weights(model).items()
    }
    return select(numbers, cell.sparsity, "erk", model=model)


def _pruned(cell: Cell) -> Masks:
    """The masks of `prune`."""
    model, data, options = _options(cell)
    contender = cell.contender
    options.update(
        sparsity=cell.sparsity,
        flops=cell.flops,
        rounds=contender.rounds,
        revive=contender.revive,
        allow_empty=True,
    )
    return dict(prune(model, data, **options).masks)


@lru_cache(maxsize=1)
def _scores(cell: Cell) -> Scores:
    """The scores behind a cell, whatever its sparsity and control."""
    model, data, options = _options(cell)
    return score(model, data, **options)


def _options(cell: Cell) -> tuple[keras.Model, tuple[np.ndarray, np.ndarray], dict[str, Any]]:
    """What `score` and `prune` are called with."""
    data = load(cell.dataset, cell.validation)
    options = {
        "method": cell.contender.method,
        "learning_rate": cell.pruning.learning_rate,
        "batch_size": cell.pruning.batch_size,
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "seed": cell.seed,
        "verbose": 0,
    }
    if cell.contender.steps is not None:
        options["steps"] = cell.contender.steps
    return _network(cell, data), (data.x_train, data.y_train), options
