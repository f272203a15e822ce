"""Worth: what the networks of the accuracy study cost, dense, masked and sparse, and what that buys.

Seconds of a step as the study trains (batches of 100, all threads), of inference on batches of 1 and 128,
and bytes of the file. With the errors in `accuracy.jsonl` beside them this becomes a figure per network: test
error against training time, against inference time and against size. Five minutes.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import prospr_ops as po
from benchmarks import accuracy
from benchmarks.harness import write_json
from benchmarks.sparse_layers import medians
from benchmarks.sparse_networks import called_on, inference
from prospr_ops.cli.comparison import Pruning, Training, results
from prospr_ops.cli.comparison.training import train
from prospr_ops.reporting.figures.style import COLOURS, FAINT, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = 20  # of an epoch
BATCH = Training().batch_size
# What is kept of each network, as in the study.
_SPARSITIES = (0.9, 0.95, 0.98, 0.99, 0.995)
_FLOPS = (0.2, 0.1, 0.05)
NETWORKS: dict[str, tuple[dict[str, float], ...]] = {
    "lenet_300_100": tuple({"sparsity": s} for s in _SPARSITIES),
    "lenet5_caffe": tuple({"sparsity": s} for s in _SPARSITIES),
    "vgg7": (*({"sparsity": s} for s in (0.9, 0.95, 0.98)), *({"flops": f} for f in _FLOPS)),
    "resnet20": (*({"sparsity": s} for s in (0.9, 0.98)), {"flops": 0.1}),
}
# By what they are pruned, and whose errors are drawn.
METHOD, ROUNDS, DATASET = "exact", 5, "fashion_mnist"
_DENSE = results.Budget(0.0)


def run(out: Path, *, full: bool = True) -> list[object]:
    """Measures, prints a table, and writes worth.json and the figures.

    Returns:
        Nothing for the summary: what is dense and what is sparse is compared in `sparse`.
    """
    del full  # there is no short form of it
    console = Console()
    record: dict[str, Any] = {"benchmark": "worth", "rows": []}
    for name, budgets in NETWORKS.items():
        record["rows"] += rows_of(name, budgets)
        write_json(out / "worth.json", record)
    record = json.loads((out / "worth.json").read_text())
    console.print(_table(record))
    study = out / "accuracy.jsonl"
    if study.exists():
        journal = [json.loads(line) for line in study.read_text().splitlines()]
        for name, drawn in figures(record, journal).items():
            drawn.savefig(out / f"worth_{name}.png", dpi=150)
    return []


def rows_of(name: str, budgets: Sequence[Mapping[str, float]]) -> Iterator[dict[str, Any]]:
    """The dense network, and what it costs by each budget."""
    make = getattr(po.models, name)
    data = po.data.fashion_mnist()
    x, y = data.x_train[: STEPS * BATCH], data.y_train[: STEPS * BATCH]
    keras.utils.set_random_seed(0)
    model = make(x.shape[1:])
    initial = model.get_weights()
    yield {"network": name, "budget": {}, "dense": _costs(model, x, y)}
    for budget in budgets:
        row: dict[str, Any] = {"network": name, "budget": dict(budget)}
        pruned = make(x.shape[1:])
        pruned.set_weights(initial)
        po.prune(
            pruned, (data.x_train, data.y_train), method=METHOD, rounds=ROUNDS, **budget,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            batch_size=Pruning().batch_size, seed=0, verbose=0,
        )  # fmt: skip
        sparse = po.sparsify(pruned, batch_size=BATCH, verbose=0)
        row["sparse"] = _costs(sparse, x, y)
        row["masked"] = {"step": _step(pruned, x, y)}
        yield row


def _costs(model: keras.Model, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        po.save_model(model, file)
        size = file.stat().st_size
    calls = {str(batch): called_on(x[:batch], inference(model)) for batch in (1, 128)}
    seconds = medians(calls, 0.4, 5)
    return {
        "step": _step(model, x, y), "inference 1": seconds["1"], "inference 128": seconds["128"],
        "bytes": size,
    }  # fmt: skip


def _step(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """Seconds of a step of the study's training: of the epochs after the first, which is traced, the median."""
    ends: list[float] = []
    train(
        model,
        x,
        y,
        Training(epochs=6),
        seed=0,
        after_epoch=lambda: ends.append(time.perf_counter()),
    )
    return float(np.median(np.diff(ends))) / STEPS


def _table(record: Mapping[str, Any]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        title="A step of training on 100 images, inference on 128 and on 1, files",
    )
    table.caption = f"Medians, ms; {record['environment']['threads']} threads"
    headings = ("network", "pruned", "dense", "masked", "sparse", "on 128", "on 1", "MB")
    for heading in headings:
        left = heading in ("network", "pruned")
        table.add_column(heading, justify="left" if left else "right", no_wrap=left)
    for name in NETWORKS:
        dense = None
        for row in (row for row in record["rows"] if row["network"] == name):
            dense = dense or row["dense"]
            side = row.get("sparse", dense)
            table.add_row(
                name, _pruned(row["budget"]), f"{1e3 * dense['step']:.2f}",
                f"{1e3 * row['masked']['step']:.2f}" if "masked" in row else "",
                f"{1e3 * side['step']:.2f}" if "sparse" in row else "",
                f"{1e3 * side['inference 128']:.2f}", f"{1e3 * side['inference 1']:.2f}",
                f"{side['bytes'] / 1e6:.3f}",
            )  # fmt: skip
    return table


def _pruned(budget: Mapping[str, float]) -> str:
    return str(results.Budget.of({"sparsity": None, **budget})) if budget else "dense"


def figures(record: Mapping[str, Any], journal: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """Test error against training time, inference time and size, of each network on Fashion-MNIST.

    Args:
        record: worth.json.
        journal: Records of the accuracy study.

    Returns:
        A figure by the network's name, of those that the study has.
    """
    return {
        name: figure
        for name in NETWORKS
        if (figure := _figure(name, record["rows"], journal)) is not None
    }


def _figure(
    name: str, rows: Sequence[Mapping[str, Any]], journal: Sequence[Mapping[str, Any]]
) -> Figure | None:
    errors, epochs = _errors(name, journal), _epochs(name)
    if (_DENSE, epochs) not in errors:
        return None
    steps = accuracy.SAMPLES // BATCH
    dense, costs = _costs_of(name, rows)
    found = {b: [*of.values()] for (b, n), of in errors.items() if n == epochs and b in costs}
    dense_errors = [*errors[_DENSE, epochs].values()]
    figure = new_figure(figsize=(12, 4.5))
    panels = figure.subplots(1, 3, sharey=True)
    axes_of = (
        ("training, seconds", lambda c: c["step"] * steps * epochs),
        ("inference of 128 images, ms", lambda c: 1e3 * c["inference 128"]),
        ("file, kB", lambda c: c["bytes"] / 1e3),
    )
    for axes, (label, cost) in zip(panels, axes_of, strict=True):
        axes.plot(cost(dense), np.mean(dense_errors), "s", color=INK, label="dense")
        if label.startswith("training"):
            short = [n for b, n in errors if b == _DENSE and n < epochs]
            xs = [dense["step"] * steps * n for n in short]
            means = [np.mean([*errors[_DENSE, n].values()]) for n in short]
            if short:
                axes.plot(xs, means, "s", color=INK, mfc="none", label="dense, trained shorter")
        for flops, marker, shade in ((False, "o", COLOURS[0]), (True, "^", COLOURS[1])):
            budgets = sorted((b for b in found if b.flops == flops), key=lambda b: b.pruned)
            if not budgets:
                continue
            kind = "of multiply-adds" if flops else "of weights"
            means = [np.mean(found[b]) for b in budgets]
            xs = [cost(costs[b]["sparse"]) for b in budgets]
            axes.plot(xs, means, f"-{marker}", color=shade, label=f"sparse, budget {kind}")
            for b, at, mean in zip(budgets, xs, means, strict=True):
                axes.annotate(
                    str(b), (at, mean), textcoords="offset points", xytext=(4, 5), fontsize=7
                )
            if label.startswith("training"):
                xs = [costs[b]["masked"]["step"] * steps * epochs for b in budgets]
                axes.plot(
                    xs, means, marker, color=shade, alpha=0.35, label=f"masked, budget {kind}"
                )
                long = [(b, n) for b, n in errors if b in costs and b.flops == flops and n > epochs]
                xs = [costs[b]["sparse"]["step"] * steps * n for b, n in long]
                means = [np.mean([*errors[key].values()]) for key in long]
                if long:
                    axes.plot(
                        xs, means, marker, color=shade, mfc="none",
                        label=f"sparse, trained longer, budget {kind}",
                    )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(label)
        axes.grid(color=FAINT)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("test error, %")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4,
        frameon=False, fontsize=7,
    )  # fmt: skip
    for axes in panels:
        low, high = axes.get_xlim()
        marks = _marks(low, high, (1, 1.5, 2, 3, 5, 7) if high < 10 * low else (1, 2, 5))
        axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
        axes.minorticks_off()
    marks = _marks(*panels[0].get_ylim(), (1, 1.1, 1.2, 1.4, 1.7, 2, 2.5, 3, 4, 5, 6, 7, 8, 9))
    panels[0].set_yticks(marks, [f"{mark:g}" for mark in marks])
    figure.suptitle(f"{name} on Fashion-MNIST, {epochs} epochs, pruned by exact in {ROUNDS} rounds")
    return figure


def longer(record: Mapping[str, Any], journal: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Sparse networks that were trained for as long as the dense one takes: a table in Markdown.

    Args:
        record: worth.json.
        journal: Records of the accuracy study.

    Yields:
        Lines; the errors of a line are means over the same seeds.
    """
    yield "| | dense, seconds | error | sparse, seconds | error | other epochs, seconds | error | than dense |"
    yield f"| --- |{' ---: |' * 7}"
    for name in NETWORKS:
        errors, usual = _errors(name, journal), _epochs(name)
        dense, costs = _costs_of(name, record["rows"])
        steps = {_DENSE: dense["step"], **{b: row["sparse"]["step"] for b, row in costs.items()}}
        found = [(b, n) for b, n in errors if b in steps and n != usual]
        for budget, epochs in sorted(found, key=lambda key: results.order(key[0])):
            keys = [(_DENSE, usual), (budget, usual), (budget, epochs)]
            seeds = sorted(set.intersection(*(set(errors.get(key, {})) for key in keys)))
            if not seeds:
                continue
            cells = [
                f"{n * accuracy.SAMPLES // BATCH * steps[b]:.1f} | {np.mean([errors[b, n][s] for s in seeds]):.2f}"
                for b, n in keys
            ]
            if budget == _DENSE:
                cells[1] = " | "
            gap = results.Error.of([errors[keys[2]][s] - errors[keys[0]][s] for s in seeds])
            spread = f" ± {gap.deviation / gap.seeds**0.5:.2f}" if gap.seeds > 1 else ""
            label = f"{name}, {'dense' if budget == _DENSE else budget}, {usual} or {epochs} epochs"
            yield f"| {label} | {' | '.join(cells)} | {gap.mean:+.2f}{spread} |"


def _epochs(name: str) -> int:
    """How long the study trains a network."""
    studies = (s for s in accuracy.STUDIES if (s.model, s.dataset) == (name, DATASET))
    return next(studies).training.epochs


def _errors(
    name: str, journal: Sequence[Mapping[str, Any]]
) -> dict[tuple[results.Budget, int], dict[int, float]]:
    """Test errors by seed, by budget and epochs: of the dense network, and of those that are drawn."""
    errors: dict[tuple[results.Budget, int], dict[int, float]] = {}
    lengths = {
        study.training.epochs
        for study in accuracy.STUDIES
        if (study.model, study.dataset) == (name, DATASET)
    }
    for epochs in lengths:
        records = accuracy.records_of(journal, name, DATASET, epochs)
        for contender in ("dense", f"{METHOD}@{ROUNDS}"):
            for r in accuracy.of_contender(records, contender):
                errors.setdefault((results.Budget.of(r), epochs), {})[r["seed"]] = r["test_error"]
    return errors


def _costs_of(
    name: str, rows: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, float], dict[results.Budget, Mapping[str, Any]]]:
    """What the dense network costs, and the pruned ones by budget."""
    of_network = [row for row in rows if row["network"] == name]
    dense = next(row["dense"] for row in of_network if not row["budget"])
    return dense, {
        results.Budget.of({"sparsity": None, **row["budget"]}): row
        for row in of_network
        if row["budget"]
    }


def _marks(lowest: float, highest: float, of_decade: Sequence[float]) -> list[float]:
    """Round numbers of a logarithmic axis."""
    decades = [10.0**power for power in range(-4, 5)]
    return [d * m for d in decades for m in of_decade if lowest <= d * m <= highest]
