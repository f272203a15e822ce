"""The state of a long run in a file, from which a killed run resumes."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from prospr_ops.network.loss import Batch, Objective
from prospr_ops.utils.archives import open_archive, packed, unpacked, write_archive
from prospr_ops.utils.build import build_info
from prospr_ops.utils.files import replacing

_FORMAT = "prospr_ops checkpoint"
_VERSION = 2
# Largest share of the run's time that writing may take.
_SHARE = 0.05
# Checkpoints of finished runs, within `held`; else None.
_held: ContextVar[list[Checkpoint] | None] = ContextVar("held", default=None)


@contextmanager
def held() -> Iterator[None]:
    """Keeps the checkpoints of runs that end within the context, and deletes them on success.

    For callers whose result is safe only later, for instance once it is written to a file.
    """
    checkpoints: list[Checkpoint] = []
    token = _held.set(checkpoints)
    try:
        yield
    finally:
        _held.reset(token)
    for checkpoint in checkpoints:
        checkpoint.remove()


def checkpoint_path(path: str | os.PathLike[str] | None, seed: int | None) -> Path | None:
    """Checks, before the run, that a checkpoint can be written; None for no checkpoint.

    Raises:
        TypeError: `path` is not a path.
        ValueError: There is no seed, so the run could not be repeated.
        FileNotFoundError: The folder does not exist.
    """
    if path is None:
        return None
    path = Path(path).absolute()
    if seed is None:
        msg = f"a run with a checkpoint ({path}) must be given a seed, so that it can be resumed"
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"there is no folder {path.parent} for the checkpoint {path.name}"
        raise FileNotFoundError(msg)
    return path


def description(
    objective: Objective, weights: Mapping[str, keras.Variable], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What two runs with equal scores must have in common besides their data, as JSON values."""
    model = objective.model
    loss = model.loss if objective.loss is None else objective.loss
    versions = build_info()
    facts = {
        **settings,
        "loss": [_digest_of_config(one) for one in keras.tree.flatten(loss)],
        "the model's configuration": _digest_of_config(model),
        "the prunable weights": list(weights),
        "version of prospr_ops": versions["version"],
        "version of TensorFlow": tf.__version__,
    }
    for number, variable in enumerate(model.variables):
        values = hashlib.sha256(variable.numpy().reshape(-1).view(np.uint8)).hexdigest()[:16]
        facts[f"variable {number}"] = f"{variable.path} {variable.dtype} {variable.shape} {values}"
    return facts


def _digest_of_config(thing: Any) -> str:
    """The name of a Keras object, with a digest of its configuration if that is plain JSON."""
    if not hasattr(thing, "get_config"):
        return str(getattr(thing, "__name__", thing))
    name = type(thing).__name__
    try:
        config = json.dumps(thing.get_config(), sort_keys=True)
    except (NotImplementedError, TypeError):  # a subclassed model, or one that holds Python objects
        return name
    return f"{name} {hashlib.sha256(config.encode()).hexdigest()[:16]}"


class Progress(NamedTuple):
    """How far a round of a run has come.

    Attributes:
        done: Number of finished steps.
        losses: Loss of each batch so far.
        estimators: Curvature estimator that each weight got, by variable path.
    """

    done: int
    losses: list[float]
    estimators: dict[str, str]


class Round(NamedTuple):
    """What a round begins with.

    Attributes:
        number: Its number, from 0.
        batches: Number of batches that were drawn before it.
        losses: Losses of all rounds before it.
        kept: What these rounds kept: boolean array by path.
    """

    number: int = 0
    batches: int = 0
    losses: Sequence[float] = ()
    kept: Mapping[str, np.ndarray] = MappingProxyType({})


class Checkpoint:
    """The state of one run in one file: what is done, and what is needed to continue.

    Args:
        path: File of the checkpoint. If it exists, the run resumes from it.
        facts: The `description` of the run.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is truncated or damaged, holds something else, or belongs to another
            run; the message says what differs.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self._path = path
        # The same name in every run, so that the leftover of a killed run is removed by the next.
        self._unfinished = path.with_name(f".{path.name}.unfinished")
        self._facts = json.loads(json.dumps(facts))
        self._batches: Iterator[Batch] = iter(())
        self._drawn = 0
        self._digest = hashlib.sha256()
        self._due = 0.0
        self._round = Round()
        self._found: dict[str, Any] | None = None
        if path.exists():
            with path.open("rb") as file, self._opened(file) as (header, _):
                # Read one by one, so that a missing entry is found here.
                names = ("facts", "done", "batches", "digest", "losses", "estimators", "round")
                self._found = {name: header[name] for name in names}
            self._refuse_another(self._found["facts"])

    def _opened(self, file: Any) -> Any:
        return open_archive(file, f"{self._path} is no checkpoint", _FORMAT, _VERSION)

    def _refuse_another(self, facts: Mapping[str, Any]) -> None:
        differing = [
            f"{name} was {facts.get(name)!r} and is {self._facts.get(name)!r}"
            for name in sorted(facts.keys() | self._facts.keys())
            if facts.get(name) != self._facts.get(name)
        ]
        if differing:
            more = f"; and {len(differing) - 5} more" if len(differing) > 5 else ""
            msg = (
                f"{self._path} is the checkpoint of another run: {'; '.join(differing[:5])}{more}. "
                "Repeat that run, give another path or delete the file"
            )
            raise ValueError(msg)

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yields the batches and checks that they repeat those of the killed run.

        Raises:
            ValueError: A batch differs.
        """
        self._batches = self._watched(batches)
        return self._batches

    def _watched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            for tensor in keras.tree.flatten(tuple(batch)):
                if tensor is not None:
                    self._digest.update(tf.io.serialize_tensor(tensor).numpy())
            self._drawn += 1
            found = self._found
            if found and self._drawn == found["batches"] and self._seen() != found["digest"]:
                msg = (
                    f"the data's first {self._drawn} batches are not those that the run of the "
                    f"checkpoint {self._path} saw: it takes the same data in the same order to "
                    "resume (a tf.data.Dataset must be shuffled with a seed, if at all)"
                )
                raise ValueError(msg)
            yield batch

    def _seen(self) -> str:
        return self._digest.hexdigest()

    def resume_round(self) -> Round:
        """The round in which the killed run ended, or the first; draws the batches before it.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file is damaged, or the batches differ.
        """
        if self._found is None:
            return self._round
        with self._path.open("rb") as file, self._opened(file) as (_, arrays):
            number, batches, losses, shapes = self._found["round"]
            kept = {
                path: unpacked(arrays[f"kept/{index}"], shape)
                for index, (path, shape) in enumerate(shapes.items())
            }
        self._round = Round(number, batches, losses, kept)
        while self._drawn < batches:
            next(self._batches)
        return self._round

    def begin_round(
        self, number: int, losses: Sequence[float], kept: Mapping[str, np.ndarray]
    ) -> None:
        """Begins a round after the first, and writes what it begins with, as `save` would.

        Args:
            number: Number of the round, from 0.
            losses: Losses of all rounds before.
            kept: What they kept: boolean array by path.

        Raises:
            OSError: The file cannot be written; the previous one is unchanged.
        """
        self._round = Round(number, self._drawn, losses, kept)
        self.save(Progress(0, [], {}), [])

    def resume(self, state: Sequence[tf.Variable], losses: Sequence[float]) -> Progress | None:
        """Brings a round to the point that the killed run reached, if it ended in the same round.

        It also draws the batches that the killed run had drawn.

        Args:
            state: Variables to set to the values that `save` was given.
            losses: Losses of the round's batches so far; if there are any, those in the file must be
                equal.

        Returns:
            How far the killed run came; None if it had not finished a step of this round.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file is damaged or of another version, or the batches or losses differ.
        """
        found = self._found
        if found is None or found["round"][0] != self._round.number or not found["done"]:
            return None
        while self._drawn < found["batches"]:
            next(self._batches)
        if losses and losses != found["losses"]:
            msg = (
                f"the run of the checkpoint {self._path} cannot be repeated bit for bit: its losses "
                f"were {found['losses']} and are {losses}. Were the number of threads, the machine "
                "or the code of the model others?"
            )
            raise ValueError(msg)
        with self._path.open("rb") as file, self._opened(file) as (_, arrays):
            for number, variable in enumerate(state):
                # NumPy reads bfloat16 as raw bytes; the view restores the dtype.
                values = arrays[f"state/{number}"].view(variable.dtype.as_numpy_dtype)
                if values.shape != tuple(variable.shape):
                    msg = (
                        f"{self._path} is the checkpoint of another version of prospr_ops; finish the "
                        "run with that, give another path or delete the file"
                    )
                    raise ValueError(msg)
                variable.assign(values)
        return Progress(found["done"], list(found["losses"]), dict(found["estimators"]))

    def save(self, progress: Progress, state: Sequence[tf.Variable]) -> None:
        """Writes the state after a step of a round, unless it was written a short while ago.

        Writing takes at most a twentieth of the run's time, so a killed run loses at most the
        current step and twenty times the time of one write.

        Args:
            progress: How far the round has come.
            state: Variables from which the run can continue.

        Raises:
            OSError: The file cannot be written; the previous one is unchanged.
        """
        start = time.monotonic()
        if start < self._due:
            return
        header = {
            "format": _FORMAT,
            "version": _VERSION,
            "facts": self._facts,
            "batches": self._drawn,
            "digest": self._seen(),
            "round": [
                *self._round[:3],
                {path: list(mask.shape) for path, mask in self._round.kept.items()},
            ],
            **progress._asdict(),
        }
        masks = enumerate(self._round.kept.values())
        arrays = itertools.chain(
            ((f"kept/{number}", packed(mask)) for number, mask in masks),
            ((f"state/{number}", values.numpy()) for number, values in enumerate(state)),
        )
        with replacing(self._path, self._unfinished) as unfinished:
            write_archive(unfinished, header, arrays)
        end = time.monotonic()
        self._due = end + (end - start) * (1 / _SHARE - 1)

    def remove(self) -> None:
        """Deletes the file at the end of the run, or at the end of `held`; warns if that fails."""
        if (checkpoints := _held.get()) is not None:
            checkpoints.append(self)
            return
        try:
            self._path.unlink(missing_ok=True)
            self._unfinished.unlink(missing_ok=True)
        except OSError as error:
            warnings.warn(f"the checkpoint could not be deleted: {error}", stacklevel=2)
