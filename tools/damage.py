"""Faults of files: one that is read is damaged, one that is to be written has no room on its disk.

`tools/faults.py` tries them.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from prospr_ops import cli
from prospr_ops.methods.engine.checkpoint import Checkpoint, Progress
from prospr_ops.network.loss import Batch
from prospr_ops.pruning import mask_files

# What the shell writes: with which command, at how many sizes of the disk.
COMMANDS = {
    "a.keras": "prune model.keras --sparsity 0.5 --method magnitude",
    "a.npz": "prune model.keras --sparsity 0.5 --method magnitude",
    "a.json": "prune model.keras --sparsity 0.5 --method magnitude",
    "b.keras": "train model.keras --data data.npz --epochs 1",
    "c.keras": "shrink model.keras",
    "d.keras": "export model.keras",
    "d.tflite": "export model.keras",
    "report.html": "report masks.npz",
}
SIZES = 20
NOBODY = 65534  # a user who may do little

MASKS = {"kernel": np.random.default_rng(0).random((5, 5)) < 0.5}
STATE = np.random.default_rng(1).random((5, 5))


def _write_masks(file: Path) -> None:
    mask_files.write_masks(file, MASKS, {}, {})


def _masks_are_right(file: Path) -> bool:
    return np.array_equal(mask_files.read_masks(file)[0]["kernel"], MASKS["kernel"])


def _run(file: Path) -> tuple[Checkpoint, Iterator[Batch]]:
    """A run with a checkpoint, and its batches."""
    run = Checkpoint(file, {"method": "diagonal"})
    return run, run.watch([Batch(tf.constant([0.5]), tf.constant([1]))])


def _write_checkpoint(file: Path) -> None:
    run, batches = _run(file)
    next(batches)
    run.save(Progress(1, [0.5], {}), [tf.Variable(STATE)])


def _checkpoint_is_right(file: Path) -> bool:
    state = tf.Variable(np.zeros_like(STATE))
    found = _run(file)[0].resume([state], [])
    return found == Progress(1, [0.5], {}) and np.array_equal(state, STATE)


# What a user gives to be read, by how it is written and how it is found right.
Kind = tuple[Callable[[Path], None], Callable[[Path], bool]]
KINDS: dict[str, Kind] = {
    "a file of masks": (_write_masks, _masks_are_right),
    "a checkpoint": (_write_checkpoint, _checkpoint_is_right),
}


def damaged(kind: str) -> Counter[str]:
    """Reads a file that is cut short at every byte, and with every bit of it flipped."""
    write, is_right = KINDS[kind]
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "file"
        write(file)
        whole = file.read_bytes()
        for data in _damages(whole):
            file.write_bytes(data)
            try:
                right = is_right(file)
            except ValueError:
                outcomes["refused with a ValueError"] += 1
            else:
                outcomes["read, and right" if right else "READ, AND WRONG"] += 1
    return outcomes


def _damages(whole: bytes) -> Iterator[bytes]:
    for length in range(len(whole)):
        yield whole[:length]
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


@contextlib.contextmanager
def _full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def full_disk(kind: str) -> Counter[str]:
    """Writes a file over another one where the disk is full after every number of bytes."""
    write, _ = KINDS[kind]
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "file"
        write(file)
        before = _contents(Path(folder))
        for size in range(len(before[file])):
            try:
                with _full_disk(size):
                    write(file)
            except OSError:
                same = _contents(Path(folder)) == before
                outcomes[
                    "an OSError, and all as before" if same else "AN OSERROR, AND CHANGES"
                ] += 1
            else:
                outcomes["WRITTEN ALL THE SAME"] += 1
    return outcomes


def full_disk_of_commands() -> Counter[str]:
    """Has the shell's commands write over another file where the disk is full."""
    outcomes: Counter[str] = Counter()
    with _inputs() as folder:
        for out, command in COMMANDS.items():
            file = folder / out
            arguments = [*command.split(), "--out", out, "--force"]
            assert _shell(arguments)[0] == 0
            size = file.stat().st_size
            file.write_text("precious")
            before = _contents(folder)
            for part in range(SIZES):
                with _full_disk(size * part // SIZES):
                    refused = _shell(arguments)
                outcomes[_told(*refused, same=_contents(folder) == before)] += 1
    return outcomes


def forbidden_folder() -> Counter[str]:
    """Has the shell's commands write to a folder without the permission."""
    outcomes: Counter[str] = Counter()
    with _inputs() as folder:
        folder.chmod(0o555)
        before = _contents(folder)
        user = os.geteuid()
        if user == 0:  # may write anywhere
            os.seteuid(NOBODY)
        try:
            refused = [_shell([*line.split(), "--out", out]) for out, line in COMMANDS.items()]
        finally:
            os.seteuid(user)
        for code, errors in refused:
            outcomes[_told(code, errors, same=_contents(folder) == before)] += 1
    return outcomes


def _told(code: int, errors: str, *, same: bool) -> str:
    """What became of a command that must fail."""
    told = code == 2 and errors.startswith("prospr: ") and errors.count("\n") == 1
    text = "exit code 2 with one line" if told else f"EXIT CODE {code}"
    return text + (", and all as before" if same else ", AND CHANGES")


@contextlib.contextmanager
def _inputs() -> Iterator[Path]:
    """A working folder with what the commands read."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            _make_inputs(Path(name))
            yield Path(name)
        finally:
            os.chdir(before)


def _make_inputs(folder: Path) -> None:
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Conv2D(6, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.save(folder / "model.keras")
    random = np.random.default_rng(0)
    np.savez(folder / "data.npz", x=random.random((60, 4, 4, 1)), y=np.arange(60) % 3)
    assert _shell([*COMMANDS["a.npz"].split(), "--out", "masks.npz"])[0] == 0


def _shell(arguments: list[str]) -> tuple[int, str]:
    """Exit code and error output of `prospr`."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        return cli.main(arguments), errors.getvalue()
