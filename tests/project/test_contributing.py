"""The example of docs/contributing.md is a method that works, and its lists name files that exist."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tensorflow as tf
from problems import PROBLEMS

import prospr_ops as po
from prospr_ops import methods
from prospr_ops.methods import METHODS, Method
from prospr_ops.network.weights import prunable_weights

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "contributing.md").read_text("utf-8")


def section(title: str) -> str:
    return re.split(r"(?m)^## ", PAGE.split(f"\n## {title}\n")[1])[0]


def files_to_touch(title: str) -> list[str]:
    return re.findall(r"(?m)^\| `([\w./]+\.\w+)` \|", section(title))


@pytest.fixture
def example(monkeypatch) -> Method:
    """The method of the page, in `METHODS`."""
    file, row = re.findall(r"(?s)```python\n(.*?)```", section("A pruning method"))
    method = eval(row, {"Method": Method})
    assert method.name not in METHODS
    module = ModuleType(f"{methods.__name__}.{method.name}")
    exec(file, vars(module))  # noqa: S102 - it is what this is about
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(METHODS, method.name, method)
    return method


@pytest.mark.parametrize("structure", ["weight", "channel"])
def test_the_example_prunes(example, structure):
    problem = next(problem for problem in PROBLEMS if problem.name == "sequential")
    model, data = problem.model(), problem.data()
    result = po.prune(
        model,
        data,
        sparsity=0.4,
        method=example.name,
        structure=structure,
        loss=problem.loss,
        verbose=0,
    )
    assert len(result.losses) == example.passes(3)
    if structure == "channel":
        # Of 6 hidden units ⌈6 · 0.6⌉ stay, each with 5 weights and a bias.
        assert [result.kept, result.weights] == [4 * 6, 6 * 6]
        return
    assert result.kept == math.ceil(0.6 * result.weights)
    assert result.kept == sum(np.count_nonzero(mask) for mask in result.masks.values())


def test_the_example_computes_its_formula(example):
    problem = next(problem for problem in PROBLEMS if problem.name == "sequential")
    model, (x, y) = problem.model(), problem.data()
    scores = po.score(
        model, [(x, y)], method=example.name, loss=problem.loss, batch_size=len(x), verbose=0
    )
    weights = prunable_weights(model)
    with tf.GradientTape() as tape:
        loss = problem.loss(y, model(x, training=True))
    gradients = tape.gradient(loss, [weight.value for weight in weights.values()])
    for path, gradient in zip(weights, gradients, strict=True):
        np.testing.assert_allclose(np.exp(scores[path]), np.abs(gradient), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("title", "name", "most"),
    [("A pruning method", "grasp", 7), ("A curvature estimator", "row_sum", 6)],
)
def test_the_files_to_touch_exist_and_hold_the_example(title, name, most):
    files = files_to_touch(title)
    assert 0 < len(files) <= most
    for file in files:
        assert name in (ROOT / file).read_text("utf-8").lower(), file


def test_every_folder_of_the_package_has_its_row():
    named = set(re.findall(r"(?m)^\| `prospr_ops/(\w+)` \|", section("Where things are")))
    assert named == {path.parent.name for path in ROOT.glob("prospr_ops/*/__init__.py")}
