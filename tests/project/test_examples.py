"""Runs the Python of the README and of the pages, on a small model."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from problems import LOGITS

import prospr_ops as po
from prospr_ops.data import datasets

ROOT = Path(__file__).parents[2]
# Tests of their own run the first two; the others need several machines, or a fresh process.
ELSEWHERE = {"tutorial.md", "contributing.md", "distribution.md", "long_runs.md"}
BLOCKS = {
    page.name: re.findall(r"(?s)```python\n(.*?)```", page.read_text("utf-8"))
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
    if page.name not in ELSEWHERE
}


def small_model() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(3, name="logits"),
        ],
        name="small",
    )
    model.compile("sgd", LOGITS, metrics=["accuracy"])
    return model


@pytest.mark.filterwarnings("ignore:model.save will not write the masks")  # of attention
@pytest.mark.parametrize("page", [page for page, blocks in BLOCKS.items() if blocks])
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROSPR_DATA", str(datasets._MNIST_SAMPLE))
    random = np.random.default_rng(0)
    data = random.standard_normal((32, 8, 8, 1), "float32"), random.integers(0, 3, 32)
    for method in ("exact", "snip"):  # what the shell commands of a page leave
        result = po.prune(small_model(), data, sparsity=0.5, method=method, verbose=0)
        result.save(f"{method}.npz")
    for block in BLOCKS[page]:
        model = small_model()
        result = po.prune(model, data, sparsity=0.5, seed=0, verbose=0)
        names = {"model": model, "result": result, "data": data, "x": data[0], "y": data[1]}
        names |= {"po": po, "keras": keras}
        exec(block, names)  # noqa: S102 - it is what this is about
