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
from prospr_ops.cli.comparison import journal
from prospr_ops.cli.comparison.cells import DENSE, Cell
from prospr_ops.cli.comparison.training import error_percent, train
from prospr_ops.data.datasets import DATASETS, Dataset
from prospr_ops.delivery.sparsifying import sparsify
from prospr_ops.methods import METHODS
from prospr_ops.pruning.api import prune, score
from prospr_ops.pruning.arrays import Masks, Scores
from prospr_ops.pruning.masks import apply_masks
from prospr_ops.pruning.selection import select
from prospr_ops.utils.build import build_info

_VALIDATION_SAMPLES = 10_000
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
    redrawn = _REDRAWN if cell.contender.control == "reinit" else 0
    model = _network(cell.model, cell.seed + redrawn, data)
    if masks:
        apply_masks(model, masks)
        model = sparsify(model, layers="all", batch_size=cell.training.batch_size, verbose=0)
    train(model, data.x_train, data.y_train, cell.training, seed=cell.seed)
    trained = time.perf_counter()
    error = error_percent(model, data.x_test, data.y_test)
    return {
        **cell.identity(),
        "validation_error" if cell.validation else "test_error": error,
        "kept": {path: int(np.count_nonzero(mask)) for path, mask in masks.items()},
        "prune_seconds": round(pruned - before, 3),
        "train_seconds": round(trained - pruned, 3),
        "training_samples": len(data.x_train),
        "error_samples": len(data.x_test),
        "version": build_info()["version"],
    }


@lru_cache(maxsize=1)
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


def _network(name: str, seed: int, data: Dataset) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return getattr(models, name)(data.x_train.shape[1:], data.classes)


def _masks(cell: Cell) -> Masks:
    """No masks for the dense network."""
    if cell.contender.method == DENSE:
        return {}
    uncontrolled = replace(cell, contender=replace(cell.contender, control=""))
    rounds = cell.contender.rounds
    if (METHODS[cell.contender.method].rounds if rounds is None else rounds) > 1:
        masks = _pruned(uncontrolled)  # the rounds are on the way to its sparsity
    else:
        # That a method empties a layer is one of the things to find out.
        masks = select(_scores(replace(uncontrolled, sparsity=0.0)), cell.sparsity)
    if cell.contender.control != "shuffled":
        return masks
    random = np.random.default_rng(cell.seed)
    return {path: random.permuted(mask.ravel()).reshape(mask.shape) for path, mask in masks.items()}


def _pruned(cell: Cell) -> Masks:
    """The masks of `prune`."""
    model, data, options = _options(cell)
    options.update(sparsity=cell.sparsity, rounds=cell.contender.rounds, allow_empty=True)
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
    return _network(cell.model, cell.seed, data), (data.x_train, data.y_train), options
