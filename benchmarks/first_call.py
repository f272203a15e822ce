"""The first call of a process: how long until there are masks, on the networks that people bring?

Pruning at initialisation calls a model a few times, once. What steady state hides is all there is then:
tracing, optimising graphs, first allocations. Each row is a process of its own, which has built its model
and its data when the clock starts, and ends with it; of the package's methods it is `po.score` with three
steps. Beside them:

* TensorFlow's own gradient, traced and run once: the unit, as nobody who trains the model can do without;
* the paper's path in TensorFlow: one tape through all steps, eager and traced;
* the same in PyTorch, with torchvision's networks, where both are installed: it computes what `exact` does,
  of another implementation of the network, with other initial weights, so seconds are all that is compared.

Memory is the peak over that of the process with model and data alone; in a first call it includes what
libraries load when they are first used.
"""

from __future__ import annotations

import importlib
import importlib.util
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

import prospr_ops as po
from benchmarks.harness import (
    environment,
    forget_peak_memory,
    fresh_processes,
    peak_megabytes,
    write_json,
)
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
    """A model, how many samples a step gets, and its name in torchvision, if it is there."""

    build: Callable[[], keras.Model]
    batch: int
    in_torchvision: str | None = None


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
    "LeNet-5": Network(po.models.lenet5, 128),
    "ResNet-20": Network(po.models.resnet20, 128),
    "VGG-16": Network(po.models.vgg16, 128),
    "MobileNetV2": Network(_application("MobileNetV2", 96), 8, "mobilenet_v2"),
    "ResNet50": Network(_application("ResNet50", 128), 8, "resnet50"),
    "EfficientNetB0": Network(_application("EfficientNetB0", 96), 8, "efficientnet_b0"),
    "DenseNet121": Network(_application("DenseNet121", 96), 8, "densenet121"),
    "Transformer, 4 blocks": Network(_transformer, 32),
}
# What a run of all benchmarks has time for.
SHORT = (("LeNet-5", "ResNet-20", "MobileNetV2"), (UNIT, "first_order", "exact", "snip"))


class Measured(NamedTuple):
    """What one process found: seconds of the call, and its peak over model and data in 10⁶ bytes."""

    network: str
    side: str
    seconds: float
    megabytes: float


def _measure(network: str, side: str) -> Measured:
    call = _in_torch(network) if side == TORCH else _in_tensorflow(network, side)
    forget_peak_memory()
    before, start = peak_megabytes(), time.perf_counter()
    call()
    return Measured(network, side, time.perf_counter() - start, peak_megabytes() - before)


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


def _in_torch(network: str) -> Callable[[], Any]:
    """The paper's path in PyTorch: `create_graph` through the steps, whose weights are functional."""
    torch, torchvision = (importlib.import_module(name) for name in ("torch", "torchvision"))
    _, batch, name = NETWORKS[network]
    torch.manual_seed(0)
    torch.set_num_threads(environment()["threads"])
    model = getattr(torchvision.models, name)()
    model.train()
    pixels = NETWORKS[network].build().input_shape[1]
    x, y = _data((3, pixels, pixels), 1000, (STEPS + 1) * batch, None)
    images, labels = torch.from_numpy(x).split(batch), torch.from_numpy(y).split(batch)
    initial = {key: value.detach().requires_grad_() for key, value in model.named_parameters()}
    scored = [value for value in initial.values() if value.ndim > 1]

    def meta_gradient() -> Any:
        weights = dict(initial)

        def loss_of(number: int) -> Any:
            outputs = torch.func.functional_call(model, weights, (images[number],))
            return torch.nn.functional.cross_entropy(outputs, labels[number])

        for number in range(STEPS):
            gradients = torch.autograd.grad(loss_of(number), [*weights.values()], create_graph=True)
            weights = {
                key: value - LEARNING_RATE * gradient
                for (key, value), gradient in zip(weights.items(), gradients, strict=True)
            }
        derivatives = torch.autograd.grad(loss_of(STEPS), scored)
        return [value.detach() * d for value, d in zip(scored, derivatives, strict=True)]

    return meta_gradient


def run(out: Path, *, full: bool = True, only: Sequence[str] = ()) -> list[Comparison]:
    """Runs the benchmark; prints a table and writes first_call.json.

    Args:
        out: Folder for the record.
        full: All networks and sides.
        only: Rows to run: words, each of which must be in "network, side"; all where there are none.

    Returns:
        Each method beside TensorFlow's first gradient, and `exact` beside the paper's path.
    """
    networks, sides = (NETWORKS, SIDES) if full else SHORT
    rows = [
        (network, side)
        for network in networks
        for side in sides
        if (side != TORCH or (NETWORKS[network].in_torchvision and _has_torch()))
        and all(word.lower() in f"{network}, {side}".lower() for word in only)
    ]
    with fresh_processes() as pool:
        found = [pool.apply(_measure, row) for row in track(rows, "first calls", transient=True)]
    console = Console()
    console.print(_table(found))
    record = {"benchmark": "first_call", "steps": STEPS, "rows": [row._asdict() for row in found]}
    write_json(out / "first_call.json", record)
    console.print(f"[dim]{out / 'first_call.json'}[/dim]")
    return _comparisons(found)


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


def _table(found: Sequence[Measured]) -> Table:
    table = Table(
        title=f"The first call of a process, {STEPS} steps",
        caption=f"10⁶ bytes over model and data; {environment()['threads']} threads.",
    )
    for heading in ("network", "batch", "side", "s", "in the unit", "MB"):
        table.add_column(heading, justify="left" if heading in ("network", "side") else "right")
    units = {row.network: row.seconds for row in found if row.side == UNIT}
    for row in found:
        unit = units.get(row.network)
        table.add_row(
            row.network,
            str(NETWORKS[row.network].batch),
            row.side,
            f"{row.seconds:.2f}",
            f"{row.seconds / unit:.2f}" if unit else "–",
            f"{row.megabytes:,.0f}",
        )
    return table
