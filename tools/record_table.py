"""Puts a benchmark's record into docs/benchmarks, and what the README says of it into the README.

python tools/record_table.py benchmarks/results/first_call.json
python tools/record_table.py benchmarks/results/sparse.json
python tools/record_table.py benchmarks/results/accuracy.jsonl   # stays where it is; its figures, too
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # the benchmarks are no part of what is installed
RECORDS = ROOT / "docs" / "benchmarks"
IMAGES = ROOT / "docs" / "images"
JOURNAL = ROOT / "benchmarks" / "results" / "accuracy.jsonl"
# What the README has of each benchmark.
BLOCKS = {
    "first_call": re.compile(r"(?s)(?<=<!-- first_call -->\n).*?(?=<!-- end -->\n)"),
    "sparse": re.compile(r"(?s)(?<=<!-- sparse -->).*?(?=<!-- end of sparse -->)"),
}


def block(name: str) -> str:
    """What the README is to have of a benchmark's record."""
    record = json.loads((RECORDS / f"{name}.json").read_text())
    return importlib.import_module(f"benchmarks.{name}").headline(record)


# A method's row in the README: its name, its score, its errors at three sparsities, and the rest. Two methods have
# a second row.
VARIANTS = {"… `rounds=5`": "exact@5", '… `scope="erk"`': "random_erk"}
METHOD = re.compile(
    rf"(?m)^(\| (`\w+`|{'|'.join(VARIANTS)}) \| (?:\\\||[^|])+ \|)"
    r"(?:[^|]+\|){3}([^|]+\|[^|]+\|)$"
)
SPARSITIES = (0.9, 0.98, 0.995)


def with_errors(readme: str) -> str:
    """The README with the errors of the accuracy study, LeNet-300-100 on Fashion-MNIST, in its table of methods."""
    from benchmarks import accuracy  # noqa: PLC0415 - loads TensorFlow
    from prospr_ops.cli.comparison import journal, results  # noqa: PLC0415 - loads TensorFlow

    records = accuracy.records_of(
        journal.read(JOURNAL),
        "lenet_300_100",
        "fashion_mnist",
        20,
    )

    def errors(contender: str) -> list[str]:
        by_budget: dict[results.Budget, list[float]] = {}
        for record in accuracy.of_contender(records, contender):
            by_budget.setdefault(results.Budget.of(record), []).append(record["test_error"])
        budgets = [results.Budget(0.0 if contender == "dense" else s) for s in SPARSITIES]
        return [str(results.Error.of(by_budget[budget])) for budget in budgets]

    def row(found: re.Match[str]) -> str:
        first, name, rest = found.groups()
        cells = errors(VARIANTS.get(name, name.strip("`")))
        return f"{first} {' | '.join(cells)} |{rest}"

    dense = f"The dense network has {errors('dense')[0]}."
    return re.sub(r"The dense network has [\d.]+ ± [\d.]+\.", dense, METHOD.sub(row, readme))


def figures() -> Iterator[tuple[str, Figure]]:
    """The figures of the accuracy study, and of what its networks cost, by the names of their files."""
    from benchmarks import accuracy, worth  # noqa: PLC0415 - loads TensorFlow
    from prospr_ops.cli.comparison import journal  # noqa: PLC0415 - loads TensorFlow

    records = journal.read(JOURNAL)
    lengths: dict[tuple[str, str], int] = {}
    for study in accuracy.STUDIES:
        lengths.setdefault((study.model, study.dataset), study.training.epochs)
    for (model, dataset), epochs in lengths.items():
        data = "" if dataset == "mnist" else f"_{dataset}"
        found = accuracy.records_of(records, model, dataset, epochs)
        yield f"accuracy_{model}{data}.png", accuracy.drawn(found)
    costs = json.loads((RECORDS / "worth.json").read_text())
    for model, figure in worth.figures(costs, records).items():
        yield f"worth_{model}.png", figure


def main() -> None:
    """Copies the record that is named, and writes the README and the figures."""
    given = Path(sys.argv[1])
    name = given.stem
    readme = ROOT / "README.md"
    if name == "accuracy":
        readme.write_text(with_errors(readme.read_text()))
        for file, figure in figures():
            figure.savefig(IMAGES / file, dpi=110)
        return
    if name not in BLOCKS:
        sys.exit(f"the README has a block for {', '.join(BLOCKS)}, and none for {name!r}")
    (RECORDS / given.name).write_text(given.read_text())
    text, count = BLOCKS[name].subn(lambda _: block(name), readme.read_text())
    if count != 1:
        sys.exit(f"README.md has no block for {name}: {BLOCKS[name].pattern}")
    readme.write_text(text)


if __name__ == "__main__":
    main()
