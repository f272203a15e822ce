"""The meta-gradient: for how many gradients, and how much memory, as the steps grow?

The unit is one plain gradient step, forward and backward, of the same model and batch, timed in the
same process right after each pass: TensorFlow's own, without what this package lets a model call
instead. "exact" goes back through the steps with one Hessian-vector product each; "unrolled" is the
path of the paper: one tape through all steps. diagonal and first_order compute something else, and
are there for their price. Each figure comes from a process of its own. Times are those of passes
in steady state: of a run of M steps the passes of a kind are alike but for the first, which is traced
where they are many (see `EAGER_PASSES`), and is replaced by the median of the others; batches are drawn
before. Memory is the peak
over that of the process with model and data alone.

Another table has the Hessian-vector product alone, on the same batch, both ways round: reverse over
reverse, which is what "exact" does, and forward over reverse through TensorFlow's own operations.

All is timed in float32. Exact and unrolled, after three steps, and the two products must agree in
float64, with few samples: in float32 what lies behind batch statistics can be rounding for the
greater part (VGG-16), whichever way it is computed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

import prospr_ops as po
from benchmarks.harness import (
    environment,
    forget_peak_memory,
    fresh_processes,
    interleaved_seconds,
    median,
    peak_megabytes,
    write_json,
)
from benchmarks.summary import Comparison
from prospr_ops.data.batches import endless_batches
from prospr_ops.methods import METHODS
from prospr_ops.methods.engine.passes import gradients_by, hessian_products_by
from prospr_ops.methods.engine.problem import Problem
from prospr_ops.network.loss import Batch, Objective
from prospr_ops.network.tracing import traced
from prospr_ops.network.weights import prunable_weights
from prospr_ops.utils.settings import Settings

LEARNING_RATE = 0.01
LABELS = {
    "exact": "exact",
    "unrolled": "unrolled tape",
    "diagonal": "diagonal",
    "first_order": "first_order",
}
OURS = "exact"
# Two ways to the same are compared in float64, with so many samples, and may be so far apart in
# relative norm.
_SAMPLES = 8
_APART = 1e-6


class Network(NamedTuple):
    """A model, how many samples it gets, and for which numbers of steps a side is run."""

    build: Callable[[], keras.Model]
    batch: int
    steps: tuple[int, ...]
    unrolled_steps: tuple[int, ...]  # fewer: its memory and tracing grow with them


NETWORKS = {
    "LeNet-300-100": Network(po.models.lenet_300_100, 512, (3, 20, 100), (3, 20)),
    "LeNet-5": Network(po.models.lenet5, 512, (3, 20, 100), (3, 20)),
    "ResNet-20": Network(po.models.resnet20, 128, (3, 20), (3,)),
    "VGG-16": Network(po.models.vgg16, 128, (3, 20), (3,)),
}


# Steps that a run of all benchmarks has time for.
SHORT = (3,)


class Measured(NamedTuple):
    """What one process found.

    Attributes:
        seconds: Of the run, tracing apart.
        tracing: Seconds of tracing.
        gradients: The run in plain gradients.
        megabytes: Peak memory over the model and the data.
    """

    seconds: float
    tracing: float
    gradients: float
    megabytes: float


def _problem(
    network: str, steps: int, *, samples: int | None = None, dtype: str = "float32"
) -> Problem:
    keras.config.set_dtype_policy(dtype)
    keras.utils.set_random_seed(0)
    model, samples = NETWORKS[network].build(), samples or NETWORKS[network].batch
    random = np.random.default_rng(0)
    x = random.standard_normal((4 * samples, *model.input_shape[1:])).astype(dtype)
    y = random.integers(model.output_shape[-1], size=len(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype)
    settings = Settings.of(steps=steps, learning_rate=LEARNING_RATE, batch_size=samples, seed=0)
    return Problem(
        objective=Objective.of(model, loss),
        weights=prunable_weights(model),
        batches=itertools.cycle(
            list(itertools.islice(endless_batches((x, y), samples, seed=0), 4))
        ),
        settings=settings,
        advance=lambda: None,
    )


def _plain_gradient(problem: Problem) -> Callable[[], Any]:
    """A call that computes one, and is traced."""
    variables, batch = [*problem.prunable(), *problem.others()], next(problem.batches)

    @traced
    def plain(batch: Batch) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = problem.objective(batch)
        return tape.gradient(loss, variables)

    plain(batch)
    return lambda: plain(batch)


def _call_seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _measure(network: str, side: str, steps: int) -> Measured:
    problem = _problem(network, steps)
    forget_peak_memory()
    before = peak_megabytes()
    measure = _unrolled if side == "unrolled" else partial(_method, side)
    seconds, tracing, gradients = measure(problem, _plain_gradient(problem))
    return Measured(seconds, tracing, gradients, peak_megabytes() - before)


def _method(
    method: str, problem: Problem, plain_gradient: Callable[[], Any]
) -> tuple[float, float, float]:
    """The first three of `Measured`, of one of the package's methods."""
    passes, units = [], []
    began = time.perf_counter()

    def advance() -> None:
        nonlocal began
        passes.append(time.perf_counter() - began)
        units.append(_call_seconds(plain_gradient))
        began = time.perf_counter()

    METHODS[method].scorer(Problem(**{**vars(problem), "advance": advance}))(0)
    total = sum(passes) + time.perf_counter() - began
    steps = problem.settings.steps
    # On the way there and on the way back; the last gradient, between them, is a plain one.
    kinds = [kind for kind in (slice(1, steps), slice(steps + 2, None)) if passes[kind]]
    seconds = median(units) + sum(steps * median(passes[kind]) for kind in kinds)
    ratios = [a / b for a, b in zip(passes, units, strict=True)]
    gradients = 1 + sum(steps * median(ratios[kind]) for kind in kinds)
    return seconds, total - seconds, gradients


def _unrolled(problem: Problem, plain_gradient: Callable[[], Any]) -> tuple[float, float, float]:
    batches = [next(problem.batches) for _ in range(problem.settings.steps + 1)]
    meta_gradient = traced(partial(_unrolled_meta_gradient, problem))
    first, *calls = [
        (_call_seconds(lambda: meta_gradient(batches)), _call_seconds(plain_gradient))
        for _ in range(4)
    ]
    seconds = median([call for call, _ in calls])
    return seconds, first[0] - seconds, median([call / unit for call, unit in calls])


def _unrolled_meta_gradient(problem: Problem, batches: list[Batch]) -> list[tf.Tensor]:
    return po.reference.unrolled_meta_gradient(
        problem.objective, batches, problem.prunable(), LEARNING_RATE
    )


def _difference(network: str, steps: int = 3) -> float:
    """How far exact is from the unrolled tape."""
    first, problem = (_problem(network, steps, samples=_SAMPLES, dtype="float64") for _ in range(2))
    exact = METHODS[OURS].scorer(first)(0).scores
    unrolled = _unrolled_meta_gradient(problem, [next(problem.batches) for _ in range(steps + 1)])
    return _apart([*map(np.exp, exact.values())], [*map(np.abs, unrolled)])


def _apart(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """How far lists of arrays are from each other, in relative norm."""
    one, other = (np.concatenate([np.ravel(part) for part in parts]) for parts in (ours, theirs))
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


class Products(NamedTuple):
    """Seconds of one Hessian-vector product either way round, and how far the two are apart."""

    reverse: float
    forward: float
    difference: float


def _products(network: str) -> Products:
    """Times one product by all variables, with one vector."""
    times = interleaved_seconds(_either_way(_problem(network, 0)), seconds=2, warmup=1, rounds=3)
    compared = _either_way(_problem(network, 0, samples=_SAMPLES, dtype="float64"))
    return Products(
        median(times["reverse"]),
        median(times["forward"]),
        _apart(compared["reverse"](), compared["forward"]()),
    )


def _either_way(problem: Problem) -> dict[str, Callable[[], list[tf.Tensor]]]:
    """Computes a product on a batch, reverse over reverse or forward over reverse."""
    batch = next(problem.batches)
    variables = [*problem.prunable(), *problem.others()]
    seed = tf.constant([0, 0], tf.int64)
    vectors = [
        tf.random.stateless_normal(variable.shape, [1, number], dtype=variable.dtype)
        for number, variable in enumerate(variables)
    ]
    reverse = traced(
        hessian_products_by(problem, gradients_by(problem, variables), variables, lambda: vectors)
    )

    @traced
    def forward() -> list[tf.Tensor]:
        with tf.autodiff.ForwardAccumulator(variables, vectors) as accumulator:
            with tf.GradientTape() as tape:
                loss = problem.objective(batch)
            gradients = tape.gradient(loss, variables)
        return accumulator.jvp(gradients, tf.UnconnectedGradients.ZERO)

    return {"reverse": lambda: reverse(batch, seed)[1], "forward": forward}


def _cases(*, full: bool) -> list[tuple[str, str, int]]:
    """Network, side and number of steps of each row."""
    return [
        (name, side, steps)
        for name, network in NETWORKS.items()
        for side in LABELS
        for steps in (network.unrolled_steps if side == "unrolled" else network.steps)
        if full or steps in SHORT
    ]


def run(out: Path, *, full: bool = True) -> list[Comparison]:
    """Runs the benchmark, in full or not; prints tables, writes meta_gradient.json and .png."""
    console = Console()
    cases = _cases(full=full)
    rows = []
    with fresh_processes() as pool:
        products = {network: pool.apply(_products, (network,)) for network in NETWORKS}
        differences = {network: pool.apply(_difference, (network,)) for network in NETWORKS}
        for case in track(cases, "meta_gradient", console=console, transient=True):
            network, side, steps = case
            rows.append(
                {
                    "network": network,
                    "batch": NETWORKS[network].batch,
                    "side": side,
                    "steps": steps,
                    **pool.apply(_measure, case)._asdict(),
                }
            )
    _check(differences, products)
    console.print(_table(rows, differences))
    console.print(_products_table(products))
    write_json(
        out / "meta_gradient.json",
        {
            "benchmark": "meta_gradient",
            "rows": rows,
            "differences": differences,
            "products": {network: found._asdict() for network, found in products.items()},
        },
    )
    _plot(rows).savefig(out / "meta_gradient.png", dpi=150)
    console.print(f"[dim]{out / 'meta_gradient.json'}, {out / 'meta_gradient.png'}[/dim]")
    return _comparisons(rows, differences, products)


def _comparisons(
    rows: list[dict[str, Any]], differences: dict[str, float], products: dict[str, Products]
) -> list[Comparison]:
    """With the unrolled tape and with the goal of 3 M + 1; the products both ways round.

    In gradients, timed in the same process, for the sides ran in processes of their own.
    """
    by_case = {(row["network"], row["side"], row["steps"]): row for row in rows}
    found = []
    for (network, side, steps), ours in by_case.items():
        if side != OURS:
            continue
        sides = [("3 M + 1, the goal", 3 * steps + 1.0, "–")]
        unrolled = by_case.get((network, "unrolled", steps))
        if unrolled is not None:
            agrees = f"yes, {differences[network]:.0e}"
            sides.insert(0, (LABELS["unrolled"], unrolled["gradients"], agrees))
        case = f"{network}, batch {ours['batch']}, M = {steps}"
        found += [
            Comparison("meta_gradient", case, name, ours["gradients"], theirs, "gradients", agrees)
            for name, theirs, agrees in sides
        ]
    found += [
        Comparison(
            "meta_gradient",
            f"{network}, batch {NETWORKS[network].batch}, one Hu",
            "forward over reverse",
            product.reverse,
            product.forward,
            "s",
            f"yes, {product.difference:.0e}",
        )
        for network, product in products.items()
    ]
    return found


def _check(differences: dict[str, float], products: dict[str, Products]) -> None:
    """Raises an error if two ways to the same are far from each other."""
    for network, product in products.items():
        if not product.difference < _APART:
            msg = f"{network}: the two Hessian-vector products differ by {product.difference:.1e}"
            raise AssertionError(msg)
    for network, difference in differences.items():
        if not difference < _APART:
            msg = f"{network}: exact and unrolled differ by {difference:.1e}"
            raise AssertionError(msg)


def _table(rows: list[dict[str, Any]], differences: dict[str, float]) -> Table:
    threads = environment()["threads"]
    table = Table(
        title="Scores after M steps of gradient descent",
        caption=f"float32, {threads} threads. Gradients: the run over one plain gradient of the same "
        "model and batch;\nthe goal of exact is 3 M + 1. Memory: the peak over model and data, each "
        "in a process of its own. Difference: of exact from unrolled, in float64.",
    )
    for heading in _HEADINGS[:2]:
        table.add_column(heading, no_wrap=True)
    for heading in _HEADINGS[2:]:
        table.add_column(heading, justify="right", no_wrap=True)
    for cells in _cells(rows, differences, "[bold]{}[/bold]"):
        if cells[0]:
            table.add_section()
        table.add_row(*cells)
    return table


_HEADINGS = ("network, batch", "side", "M", "seconds", "gradients", "+ MB", "tracing", "difference")


def _cells(
    rows: list[dict[str, Any]], differences: dict[str, float], emphasis: str
) -> Iterator[list[str]]:
    """The table's rows; what is as in the row above is left out."""
    last = ("", "")
    for row in rows:
        label = LABELS[row["side"]]
        here = (row["network"], row["side"])
        first = row["network"] != last[0]
        yield [
            f"{row['network']}, {row['batch']}" if first else "",
            "" if here == last else emphasis.format(label) if row["side"] == OURS else label,
            str(row["steps"]),
            f"{row['seconds']:,.3f}",
            f"{row['gradients']:,.1f}",
            f"{row['megabytes']:,.0f}",
            f"{row['tracing']:.1f} s",
            f"{differences[row['network']]:.0e}" if first else "",
        ]
        last = here


def markdown(record: dict[str, Any]) -> Iterator[str]:
    """The tables of meta_gradient.json in Markdown."""
    yield f"| {' | '.join(_HEADINGS)} |\n| --- | --- |{' ---: |' * 6}"
    for cells in _cells(record["rows"], record["differences"], "**{}**"):
        yield f"| {' | '.join(cells)} |"
    yield "\n| network, batch | Hu, reverse over reverse | forward over reverse | ratio |"
    yield "| --- | ---: | ---: | ---: |"
    for network, product in record["products"].items():
        reverse, forward = product["reverse"], product["forward"]
        yield (
            f"| {network}, {NETWORKS[network].batch} | {1e3 * reverse:,.1f} ms | {1e3 * forward:,.1f} ms "
            f"| {forward / reverse:.2f} |"
        )


def _products_table(products: dict[str, Products]) -> Table:
    table = Table(
        title="One Hessian-vector product",
        caption="Medians of interleaved calls on the same batch. Difference: relative, in norm, in float64.",
    )
    table.add_column("network", no_wrap=True)
    for heading in ("reverse over reverse", "forward over reverse", "ratio", "difference"):
        table.add_column(heading, justify="right")
    for network, product in products.items():
        table.add_row(
            f"{network}, {NETWORKS[network].batch}",
            f"{1e3 * product.reverse:,.1f} ms",
            f"{1e3 * product.forward:,.1f} ms",
            f"{product.forward / product.reverse:.2f} ×",
            f"{product.difference:.0e}",
        )
    return table


def _plot(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    figure.suptitle("Scores after M steps: time and memory", fontsize=13)
    colours = dict(zip(LABELS, ("#c8553d", "#2f3e46", "#588b8b", "#9aa5b1"), strict=True))
    for column, axes in enumerate(figure.subplots(2, len(NETWORKS), sharex="col", squeeze=False).T):
        network = list(NETWORKS)[column]
        ticks = sorted({row["steps"] for row in rows if row["network"] == network})
        for side, label in LABELS.items():
            here = [row for row in rows if row["network"] == network and row["side"] == side]
            steps = [row["steps"] for row in here]
            for one, key in zip(axes, ("seconds", "megabytes"), strict=True):
                values = [row[key] for row in here]
                one.plot(steps, values, "o-", color=colours[side], label=label, markersize=4)
        axes[0].set_title(f"{network}, batch {NETWORKS[network].batch}", fontsize=11)
        axes[1].set_xlabel("steps M", fontsize=9)
        for one, heading in zip(axes, ("seconds", "peak, MB over the model"), strict=True):
            one.set_xscale("log")
            one.set_yscale("log")
            one.set_xticks(ticks, list(map(str, ticks)))
            one.minorticks_off()
            one.spines[["top", "right"]].set_visible(False)
            one.tick_params(labelsize=9)
            if column == 0:
                one.set_ylabel(heading, fontsize=9)
    figure.axes[0].legend(fontsize=8, frameon=False)
    return figure
