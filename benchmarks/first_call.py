"""The first call of a process: how long until there are masks, on the networks that people bring?

Pruning at initialisation calls a model a few times, once. What steady state hides is all there is then:
tracing, optimising graphs, first allocations. Each row is a process of its own, which has built its model
and its data when the clock starts, and ends with it; of the package's methods it is `po.score` with three
steps. Beside them:

* TensorFlow's own gradient, traced and run once: the unit, as nobody who trains the model can do without;
* the paper's path in TensorFlow: one tape through all steps, eager and traced;
* the same in PyTorch, with the mask that the paper differentiates by, where it and torchvision are installed: it
  computes what `exact` does, of another implementation of the network, with other initial weights, so seconds are
  all that is compared.

Where the time goes: "tracing" is what TensorFlow spent making graphs, by its own count. "Later" is the same call
once more in the same process, for sides that trace nothing then, if the first took less than ten seconds or its
graph is kept; TensorFlow's is its steady gradient. "Once" is what is left: graphs are optimised, memory is
allocated, libraries are loaded.

Memory is the peak over that of the process with model and data alone; in a first call it includes what
libraries load when they are first used.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import applications, layers
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tensorflow.python.eager.polymorphic_function import tracing_compilation

import prospr_ops as po
from benchmarks.harness import (
    environment,
    forget_peak_memory,
    fresh_processes,
    on_gpu,
    peak_megabytes,
    write_json,
)
from benchmarks.pytorch_first_call import Problem
from benchmarks.summary import Comparison
from prospr_ops.network.loss import Batch, Objective
from prospr_ops.network.weights import prunable_weights

STEPS = 3
LEARNING_RATE = 0.01
METHODS = ("first_order", "exact", "diagonal", "snip")
UNIT = "TensorFlow's first gradient"
UNROLLED = {"unrolled tape, eager": False, "unrolled tape, traced": True}
TORCH = "the paper's method, PyTorch"
SIDES = (UNIT, *METHODS, *UNROLLED, TORCH)


class Network(NamedTuple):
    """A model, how many samples a step gets, and its name in `pytorch_networks`, if it is there."""

    build: Callable[[], keras.Model]
    batch: int
    in_torch: str | None = None


def _application(name: str, pixels: int) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        make = getattr(applications, name)
        return make(weights=None, input_shape=(pixels, pixels, 3), classifier_activation=None)

    return build


def _transformer(
    blocks: int = 4, width: int = 64, tokens: int = 32, words: int = 1000
) -> keras.Model:
    """Encoder blocks, with the normalisation first, over vectors of words."""
    inputs = keras.Input((tokens,), dtype="int32")
    x = layers.Embedding(words, width)(inputs)
    for _ in range(blocks):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, width // 4)(y, y)])
        y = layers.Dense(4 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(y)])
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


NETWORKS = {
    "LeNet-5": Network(po.models.lenet5, 128, "lenet5"),
    "ResNet-20": Network(po.models.resnet20, 128, "resnet20"),
    "VGG-16": Network(po.models.vgg16, 128, "vgg16"),
    "MobileNetV2": Network(_application("MobileNetV2", 96), 8, "mobilenet_v2"),
    "ResNet50": Network(_application("ResNet50", 128), 8, "resnet50"),
    "EfficientNetB0": Network(_application("EfficientNetB0", 96), 8, "efficientnet_b0"),
    "DenseNet121": Network(_application("DenseNet121", 96), 8, "densenet121"),
    "Transformer, 4 blocks": Network(_transformer, 32, "transformer"),
}
# What a run of all benchmarks has time for.
SHORT = (("LeNet-5", "ResNet-20", "MobileNetV2"), (UNIT, "first_order", "exact", "snip"))


# Seconds of a first call that is made once more, if it may be long.
PATIENCE = 10.0


class Measured(NamedTuple):
    """What one process found.

    Attributes:
        network: Of `NETWORKS`.
        side: Of `SIDES`.
        seconds: Of the first call.
        tracing: Those of them in which TensorFlow made graphs.
        later: Seconds of the same call once more; None if it traces again, or was not made.
        megabytes: The peak over model and data, in 10⁶ bytes.
    """

    network: str
    side: str
    seconds: float
    tracing: float
    later: float | None
    megabytes: float


def _measure(network: str, side: str) -> Measured:
    if side == TORCH:
        return _in_torch(network)
    call = _in_tensorflow(network, side)
    forget_peak_memory()
    before = peak_megabytes()
    seconds, tracing = _timed(call)
    megabytes = peak_megabytes() - before
    later = None
    if seconds < PATIENCE or side == UNIT or UNROLLED.get(side):
        again, traced = _timed(call)
        later = None if traced else again
    return Measured(network, side, seconds, tracing, later, megabytes)


def _timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of a call, and those of them in which TensorFlow made graphs."""
    cell = tracing_compilation._graph_building_time_counter.get_cell()
    traced, start = cell.value(), time.perf_counter()
    call()
    if on_gpu():
        tf.test.experimental.sync_devices()
    return time.perf_counter() - start, (cell.value() - traced) / 1e6


def _data(shape: Sequence[int], classes: int, samples: int, words: int | None) -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    if words is None:
        x = random.standard_normal((samples, *shape), "float32")
    else:
        x = random.integers(0, words, (samples, *shape))
    return x, random.integers(0, classes, samples)


def _in_tensorflow(network: str, side: str) -> Callable[[], Any]:
    """A call that has not been made in this process yet."""
    keras.utils.set_random_seed(0)
    build, batch, _ = NETWORKS[network]
    model = build()
    lookups = [layer for layer in model.layers if isinstance(layer, layers.Embedding)]
    x, y = _data(
        model.input_shape[1:],
        model.output_shape[-1],
        (STEPS + 1) * batch,
        lookups[0].input_dim if lookups else None,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if side in METHODS:
        return lambda: po.score(
            model,
            (x, y),
            method=side,
            steps=STEPS,
            learning_rate=LEARNING_RATE,
            loss=loss,
            batch_size=batch,
            seed=0,
            verbose=0,
        )
    objective = Objective.of(model, loss)
    batches = [
        Batch(tf.constant(x[start : start + batch]), tf.constant(y[start : start + batch]))
        for start in range(0, len(x), batch)
    ]
    variables = [variable.value for variable in model.trainable_variables]

    def gradient() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            value = objective(batches[0])
        return tape.gradient(value, variables)

    def unrolled() -> list[tf.Tensor]:
        weights = [weight.value for weight in prunable_weights(model).values()]
        return po.reference.unrolled_meta_gradient(objective, batches, weights, LEARNING_RATE)

    if side == UNIT:
        return tf.function(gradient, autograph=False)
    return tf.function(unrolled, autograph=False) if UNROLLED[side] else unrolled


def _has_torch() -> bool:
    return all(importlib.util.find_spec(name) for name in ("torch", "torchvision"))


def _in_torch(network: str) -> Measured:
    """The paper's path in PyTorch, in a process of its own, on data of the same shape."""
    build, batch, name = NETWORKS[network]
    assert name is not None
    model = build()
    *pixels, last = model.input_shape[1:]
    problem = Problem(
        name,
        [last, *pixels],
        model.output_shape[-1],
        None if pixels else 1000,
        batch,
        STEPS,
        LEARNING_RATE,
        environment()["threads"],
        "cuda" if on_gpu() else "cpu",
    )
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.pytorch_first_call", json.dumps(problem._asdict())],
        check=True,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    return Measured(network, TORCH, tracing=0.0, **json.loads(found.stdout))


def run(
    out: Path, *, full: bool = True, only: Sequence[str] = (), resume: bool = False
) -> list[Comparison]:
    """Runs the benchmark; prints a table and writes first_call.json, after each row.

    Args:
        out: Folder for the record.
        full: All networks and sides.
        only: Rows to run: words, each of which must be in "network, side"; all where there are none.
        resume: Keeps the rows that the record in `out` has from this machine and these versions.

    Returns:
        Each method beside TensorFlow's first gradient, and `exact` beside the paper's path.
    """
    networks, sides = (NETWORKS, SIDES) if full else SHORT
    rows = [
        (network, side)
        for network in networks
        for side in sides
        if (side != TORCH or (NETWORKS[network].in_torch and _has_torch()))
        and all(word.lower() in f"{network}, {side}".lower() for word in only)
    ]
    file = out / "first_call.json"
    done = _finished(file) if resume and file.exists() else {}
    with fresh_processes() as pool:
        for row in track(rows, "first calls", transient=True):
            if row not in done:
                done[row] = pool.apply(_measure, row)
                _write(file, [*done.values()])
    found = _write(file, [*done.values()])
    console = Console()
    console.print(_table(found))
    console.print(f"[dim]{file}[/dim]")
    return _comparisons(found)


def _write(file: Path, found: Sequence[Measured]) -> list[Measured]:
    """Writes rows, and returns them in order."""
    order = [*NETWORKS], [*SIDES]
    rows = sorted(found, key=lambda row: (order[0].index(row.network), order[1].index(row.side)))
    record = {"benchmark": "first_call", "steps": STEPS, "rows": [row._asdict() for row in rows]}
    write_json(file, record)
    return rows


def _finished(file: Path) -> dict[tuple[str, str], Measured]:
    """The rows of a record, if it is of this machine and these versions."""
    record = json.loads(file.read_text())
    here = json.loads(json.dumps(environment(), default=float))
    if {**record["environment"], "date": ""} != {**here, "date": ""}:
        return {}
    rows = _rows(record)
    return {(row.network, row.side): row for row in rows}


def _rows(record: dict[str, Any]) -> list[Measured]:
    return [Measured(**row) for row in record["rows"]]


def _comparisons(found: Sequence[Measured]) -> list[Comparison]:
    seconds = {(row.network, row.side): row.seconds for row in found}
    others = [
        *((method, UNIT) for method in METHODS),
        *(("exact", side) for side in (*UNROLLED, TORCH)),
    ]
    return [
        Comparison(
            "first_call",
            f"{network}, batch {NETWORKS[network].batch}, {method}",
            other,
            seconds[network, method],
            seconds[network, other],
            "s",
            "–",
        )
        for network in dict.fromkeys(row.network for row in found)
        for method, other in others
        if {(network, method), (network, other)} <= seconds.keys()
    ]


_HEADINGS = ("network, batch", "side", "s", "× the unit", "tracing", "once", "later", "MB")


def _cells(found: Sequence[Measured]) -> list[list[str]]:
    units = {row.network: row.seconds for row in found if row.side == UNIT}
    return [
        [
            f"{row.network}, {NETWORKS[row.network].batch}",
            row.side,
            _seconds(row.seconds),
            f"{row.seconds / units[row.network]:.2f}" if row.network in units else "–",
            _seconds(row.tracing),
            _seconds(None if row.later is None else row.seconds - row.tracing - row.later),
            _seconds(row.later),
            f"{row.megabytes:,.0f}",
        ]
        for row in found
    ]


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{max(value, 0.0):.2f}"


def _table(found: Sequence[Measured]) -> Table:
    table = Table(
        title=f"The first call of a process, {STEPS} steps",
        caption=f"10⁶ bytes over model and data; {environment()['threads']} threads. The unit: {UNIT}.",
    )
    for number, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="left" if number < 2 else "right")
    for cells in _cells(found):
        table.add_row(*cells)
    return table


def markdown(record: dict[str, Any]) -> list[str]:
    """A record's rows as a table of Markdown."""
    lines = [f"| {' | '.join(_HEADINGS)} |", "| --- | --- " + "| ---: " * 6 + "|"]
    return lines + [f"| {' | '.join(cells)} |" for cells in _cells(_rows(record))]


_HEADLINE = """## How long the first call takes

`python -m benchmarks first_call`: a fresh process per number, M = 3 ([all rows, memory](docs/benchmarks.md#the-first-call)).

"""


def headline(record: dict[str, Any]) -> str:
    """The README's section: seconds of first calls, a row per side, as a table of Markdown."""
    seconds = {(row.side, row.network): _seconds(row.seconds) for row in _rows(record)}
    networks = list(dict.fromkeys(row.network for row in _rows(record)))
    lines = [f"| seconds | {' | '.join(networks)} |", "| --- " + "| ---: " * len(networks) + "|"]
    for side in (*METHODS, UNIT, TORCH):
        cells = [seconds.get((side, network), "–") for network in networks]
        if any(cell != "–" for cell in cells):
            name = f"`{side}`" if side in METHODS else side
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return _HEADLINE + "\n".join(lines) + "\n"
