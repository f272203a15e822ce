"""Runs that are killed or interrupted at random moments, in processes of their own.

    python tests/support/interrupted.py kill 60        prints, as JSON, what happened to 60 runs

This process only imports TensorFlow, and forks before it has executed anything: a child starts at
once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers

import prospr_ops as po
import prospr_ops.methods.engine.checkpoint as checkpoints

STEPS = 60
RUNS: dict[str, dict[str, Any]] = {
    "diagonal": {"method": "diagonal"},
    "diagonal, momentum": {"method": "diagonal", "momentum": 0.9},
    "diagonal, channels": {"method": "diagonal", "structure": "channel"},
    "exact": {"method": "exact"},
    "exact, rounds": {"method": "exact", "rounds": 3},
    "exact, Nesterov": {"method": "exact", "momentum": 0.9, "nesterov": True},
    "first_order": {"method": "first_order"},
    "first_order, momentum": {"method": "first_order", "momentum": 0.9},
}


def _model() -> keras.Model:
    """Small, with all that a step changes: weights, moving averages and the seeds of dropout."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(momentum=0.9),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(4),
        ]
    )


def _prune(model: keras.Model, checkpoint: Path | None, run: str) -> po.PruneResult:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((256, 8, 8, 2), "float32")
    return po.prune(
        model,
        (x, generator.integers(0, 4, 256)),
        sparsity=0.5,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps=STEPS,
        batch_size=16,
        seed=5,
        checkpoint=checkpoint,
        allow_empty=True,
        verbose=0,
        **RUNS[run],
    )


def _whole_run(run: str, checkpoint: Path | None, out: Path) -> None:
    checkpoints._SHARE = 1.0  # after every step
    keras.utils.set_random_seed(1)
    result = _prune(_model(), checkpoint, run)
    result.save(out)


def _interrupted_run(run: str, checkpoint: Path | None, out: Path) -> None:
    # What a shell runs in the background is told to ignore it, and so are the children of that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    keras.utils.set_random_seed(1)
    model = _model()
    before = [variable.numpy() for variable in model.variables]
    try:
        out.write_text("too late")
        _prune(model, checkpoint, run)
    except BaseException as error:  # noqa: BLE001 - TensorFlow makes all kinds of it while it traces
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for variable, old in zip(model.variables, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), old, err_msg=variable.path)
        assert all(variable.constraint is None for variable in model.trainable_variables)
        as_such = isinstance(error, KeyboardInterrupt)
        out.write_text("KeyboardInterrupt" if as_such else "another error")


def _child(work: Callable[..., None], *arguments: Any) -> int:
    process = os.fork()
    if process == 0:
        try:
            work(*arguments)
        except BaseException:  # noqa: BLE001 - a child must not go on as its parent
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return process


def _ended(process: int, seconds: float) -> bool:
    """Waits so long for a child; whether it has come to its end, which must be a good one."""
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            if status:
                msg = f"a run failed: status {status}"
                raise RuntimeError(msg)
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)


def _undisturbed(run: str, out: Path) -> float:
    start = time.monotonic()
    assert _ended(_child(_whole_run, run, None, out), 600)
    return time.monotonic() - start


def _steps_done(checkpoint: Path) -> int:
    with zipfile.ZipFile(checkpoint) as archive, archive.open("header.npy") as member:
        return json.loads(str(np.lib.format.read_array(member)))["done"]


def _version(file: Path) -> tuple[int, int] | None:
    """Changes whenever the file is written."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _ended_before_a_checkpoint(process: int, checkpoint: Path) -> bool:
    """Waits until a child has written a checkpoint; whether it has come to its end before."""
    before = _version(checkpoint)
    while _version(checkpoint) in (before, None):
        if _ended(process, 0.002):
            return True
    return False


def kill(run: str, kills: int, folder: Path) -> dict[str, Any]:
    """Kills a run `kills` times, each at a random moment; whenever one ends, compares its result."""
    checkpoint, expected, out = (folder / name for name in ("run.ckpt", "expected.npz", "out.npz"))
    unfinished = folder / ".run.ckpt.unfinished"
    seconds = _undisturbed(run, expected)
    wanted = po.PruneResult.load(expected)
    found = {"kills": 0, "before the first checkpoint": 0, "while writing": 0, "ends": 0}
    resumed_at = []
    while found["kills"] < kills or found["ends"] == 0:
        half_written = _version(unfinished)
        process = _child(_whole_run, run, checkpoint, out)
        if found["kills"] == kills:
            ended = _ended(process, 600)
        elif found["kills"] % 3 == 0:  # at any moment, which is mostly before the first step
            ended = _ended(process, random.uniform(0, seconds))
        else:  # between two steps or in one
            ended = _ended_before_a_checkpoint(process, checkpoint)
            ended = ended or _ended(process, random.uniform(0, seconds / 3))
        if ended:
            result = po.PruneResult.load(out)
            assert result.losses == wanted.losses
            for path, mask in wanted.masks.items():
                np.testing.assert_array_equal(result.masks[path], mask)
            for path, scores in wanted.scores.items():
                np.testing.assert_array_equal(result.scores[path], scores)
            assert not checkpoint.exists()
            assert not unfinished.exists()
            found["ends"] += 1
            continue
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        found["kills"] += 1
        found["while writing"] += _version(unfinished) not in (half_written, None)
        if checkpoint.exists():
            resumed_at.append(_steps_done(checkpoint))
        else:
            found["before the first checkpoint"] += 1
    return {**found, "steps done when killed": resumed_at}


def interrupt(run: str, times: int, folder: Path) -> dict[str, Any]:
    """Sends a run Ctrl-C `times` times, at random moments: the model must be as it was."""
    out = folder / "out"
    seconds = _undisturbed(run, out)
    out.unlink()
    found = {"KeyboardInterrupt": 0, "another error": 0, "too late": 0}
    for _ in range(times):
        process = _child(_interrupted_run, run, None, out)
        while not out.exists():  # the model is not there yet
            assert not _ended(process, 0.002)
        if not _ended(process, random.uniform(0, 0.9) * seconds):
            os.kill(process, signal.SIGINT)
            assert _ended(process, 60)
        found[out.read_text()] += 1
        out.unlink()
    return found


def main() -> None:
    """Spreads the given number of tries over the given runs, or all."""
    command, tries, *runs = sys.argv[1:]
    runs = runs or list(RUNS)
    tries_each = -(-int(tries) // len(runs))
    found = {}
    for run in runs:
        with tempfile.TemporaryDirectory() as folder:
            work = {"kill": kill, "interrupt": interrupt}[command]
            found[run] = work(run, tries_each, Path(folder))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
