"""Sparse: what do layers, training steps and inference cost by the weights that were kept alone?

Layers: forward and all gradients on a batch of 128, by TensorFlow's dense operation and by our op, on
blocks and with the changes of layout before and after. Products: the forward pass of a dense layer by
all that multiplies with a sparse matrix. Networks: a step of training and inference by the dense
model, the model with masks and what `prospr_ops.sparsify` makes of it, with its own choice of layers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import sparse_layers, sparse_networks
from benchmarks.harness import environment, on_gpu, write_json
from benchmarks.summary import Comparison

# The largest difference of a gradient, as a part of the largest of its array, and of an output.
_TOLERANCE = 1e-3
# What is left of each table in a run of all benchmarks.
SHORT_DENSITIES = (0.1, 0.02)
SHORT_MASKS = (("flops", 0.1),)
SHORT_NETWORKS = ("LeNet-5-Caffe", "ResNet-20")
# Take so long to be traced that they have few masks.
FEW_MASKS = (("sparsity", 0.98), ("flops", 0.1))
LARGE_NETWORKS = ("MobileNetV2, 96 pixels", "Transformer")

_Rows = list[dict[str, Any]]


def run(out: Path, *, full: bool = True) -> list[Comparison]:
    """Runs the benchmark; prints tables and writes sparse.json."""
    console = Console()
    if on_gpu():
        console.print("[dim]sparse: its ops are for CPUs[/dim]")
        return []
    densities = sparse_layers.DENSITIES if full else SHORT_DENSITIES
    masks = sparse_networks.MASKS if full else SHORT_MASKS
    batches = sparse_networks.BATCHES if full else sparse_networks.BATCHES[-1:]
    networks = [name for name in sparse_networks.NETWORKS if full or name in SHORT_NETWORKS]
    record: dict[str, Any] = {"benchmark": "sparse", "samples": sparse_layers.SAMPLES}
    record["bounds"] = sparse_layers.bounds()
    record["layers"] = sparse_layers.rows_of_layers(densities)
    console.print(_table("Forward and gradients of a layer", "layer", record["layers"]))
    console.print(_roofline(record))
    record["products"] = sparse_layers.rows_of_products(densities)
    console.print(_table("Forward pass of a dense layer", "layer", record["products"]))
    record["networks"] = []
    for name in networks:
        few = full and name in LARGE_NETWORKS
        rows = list(sparse_networks.rows_of(name, FEW_MASKS if few else masks, batches))
        record["networks"] += rows
        console.print(_table(name, "masks", rows))
        write_json(out / "sparse.json", record)  # what is there, should a later one fail
    console.print(f"[dim]{out / 'sparse.json'}[/dim]")
    rows = [*record["layers"], *record["products"], *record["networks"]]
    wrong = [row for row in rows if not row["difference"] <= _TOLERANCE]
    if wrong:
        msg = f"sparse: results are off by {wrong[0]['difference']:g}: {wrong[0]}"
        raise AssertionError(msg)
    return [
        Comparison(
            "sparse",
            _case(row),
            "dense",
            row["seconds"]["sparse"],
            row["seconds"]["dense"],
            "s",
            f"yes, {row['difference']:.0e}",
        )
        for row in rows
    ]


def _case(row: dict[str, Any]) -> str:
    if "network" in row:
        return f"{row['network']}, {row['masks']}, {row['what']}"
    what = "" if "gigaflops" in row else ", forward"
    return f"{row['layer']}, {row['kept']:.0%} kept{what}"


def _table(title: str, first: str, rows: _Rows) -> Table:
    sides = list(rows[0]["seconds"])
    caption = f"Medians of alternating calls in ms, {environment()['threads']} threads"
    table = Table(title=title, caption=caption)
    for heading in (first, "", *sides, "dense / sparse"):
        table.add_column(heading, justify="right" if heading in sides else "left")
    for row in rows:
        seconds = row["seconds"]
        table.add_row(
            row[first],
            row.get("what") or f"{row['kept']:.0%}",
            *(f"{1e3 * seconds[side]:.2f}" for side in sides),
            f"{seconds['dense'] / seconds['sparse']:.2f}",
        )
    return table


def _roofline(record: dict[str, Any]) -> str:
    """How fast the kept work goes, against what the machine could do."""
    bounds = record["bounds"]
    from_cache = bounds["second-level cache"] / 4 * 2
    rates = [row["gigaflops"] for row in record["layers"]]
    return (
        f"Kept work: {min(rates):.0f} to {max(rates):.0f} GFLOP/s. A matrix product: "
        f"{bounds['matrix product']:.0f}. One multiply-add per number from the second-level caches "
        f"({bounds['second-level cache']:.0f} GB/s): {from_cache:.0f}."
    )


def markdown(record: dict[str, Any]) -> Iterator[str]:
    """The tables of sparse.json in Markdown: multiples of the dense side."""
    densities = sorted({row["kept"] for row in record["layers"]}, reverse=True)
    yield "### Layers\n"
    yield (
        "Forward and both gradients, as a multiple of TensorFlow's dense layer; in brackets with the "
        "changes of layout before and after.\n"
    )
    yield f"| layer | {' | '.join(f'{density:.0%} kept' for density in densities)} |"
    yield f"| --- |{' ---: |' * len(densities)}"
    for name in dict.fromkeys(row["layer"] for row in record["layers"]):
        cells = [
            f"{row['seconds']['dense'] / row['seconds']['sparse']:.1f} "
            f"({row['seconds']['dense'] / row['seconds']['with borders']:.1f})"
            for row in record["layers"]
            if row["layer"] == name
        ]
        yield f"| {name} | {' | '.join(cells)} |"
    yield f"\n{_roofline(record)}\n"
    yield "### A dense layer's forward pass, by what multiplies with sparse matrices\n"
    sides = [side for side in record["products"][0]["seconds"] if side != "dense"]
    yield f"As a multiple of `tf.matmul`.\n\n| layer, kept | {' | '.join(sides)} |"
    yield f"| --- |{' ---: |' * len(sides)}"
    for row in record["products"]:
        ratios = [f"{row['seconds']['dense'] / row['seconds'][side]:.2f}" for side in sides]
        yield f"| {row['layer']}, {row['kept']:.0%} | {' | '.join(ratios)} |"
    yield from _of_networks(record["networks"])


def _of_networks(rows: _Rows) -> Iterator[str]:
    yield "\n### Networks\n"
    yield (
        "As a multiple of the dense, unpruned model; in brackets the masked one. Megabytes of trainable "
        "variables and of Adam's moments.\n"
    )
    whats = [what for what in dict.fromkeys(row["what"] for row in rows) if "inference" in what]
    yield f"| network | masks | step | {' | '.join(whats)} | MB, dense | MB, sparse |"
    yield f"| --- | --- |{' ---: |' * (len(whats) + 3)}"
    for key in dict.fromkeys((row["network"], row["masks"]) for row in rows):
        own = {row["what"]: row for row in rows if (row["network"], row["masks"]) == key}
        ((step, row),) = ((what, one) for what, one in own.items() if "bytes" in one)
        megabytes = [sum(row["bytes"][side].values()) / 1e6 for side in ("dense", "sparse")]
        cells = [_multiple(own[what]) for what in (step, *whats)]
        yield f"| {' | '.join([*key, *cells, *(f'{one:.2f}' for one in megabytes)])} |"


# Whose gains the README tells.
_HEADLINE = (
    *(("VGG-16", "flops=0.1"), ("ResNet-20", "flops=0.1")),
    *(("MLP 784-2048-2048-10", "sparsity=0.98"), ("LeNet-5-Caffe", "sparsity=0.98")),
    *(("MobileNetV2, 96 pixels", "flops=0.1"), ("Transformer", "sparsity=0.98")),
)


def headline(record: dict[str, Any]) -> str:
    """A clause on the steps of some networks, to go on with after a word."""
    rows = record["networks"]
    steps = {(row["network"], row["masks"]): row["seconds"] for row in rows if "bytes" in row}
    gains = []
    for network, masks in _HEADLINE:
        seconds = steps[network, masks]
        name = network.partition(",")[0]
        gains.append(f"{name} at `{masks}` {seconds['dense'] / seconds['sparse']:.1f} ×")
    return f"; a step is faster than a dense one, {', '.join(gains)}"


def _multiple(row: dict[str, Any]) -> str:
    seconds = row["seconds"]
    return (
        f"**{seconds['dense'] / seconds['sparse']:.2f}** "
        f"({seconds['dense'] / seconds['masked']:.2f})"
    )


if __name__ == "__main__":  # the tables of a record
    sys.stdout.write("\n".join(markdown(json.loads(Path(sys.argv[1]).read_text()))) + "\n")
