"""Hooks of MkDocs, which write what is known elsewhere: two references, and runs of the benchmarks.

The Python reference lists every public name, for mkdocstrings to fill in. The op reference is what
each op was registered with (`.Doc`), and the types that TensorFlow has for its arguments. The runs are
in `docs/benchmarks`.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

MARKER = "<!-- reference -->"
FIRST_CALL = "<!-- first_call -->"
# Model, data set and epochs of a part of the accuracy study.
STUDY = re.compile(r"<!-- study: (\w+) (\w+) (\d+) -->")
LONGER = "<!-- trained for as long -->"
ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # the benchmarks are no part of what is installed


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Puts a reference in the place of the marker of a page."""
    references = {
        "api.md": _names,
        "ops.md": _ops,
        "benchmarks.md": _benchmarks,
        "meta_gradient.md": _meta_gradient,
        "cuda.md": _cuda,
        "sparse.md": _sparse,
    }
    if page.file.src_uri == "accuracy.md":
        markdown = markdown.replace(LONGER, "\n".join(_longer()))
        return STUDY.sub(lambda found: "\n".join(_study(*found.groups())), markdown)
    if page.file.src_uri not in references:
        return markdown
    if FIRST_CALL in markdown:
        markdown = markdown.replace(FIRST_CALL, "\n".join(_first_call()))
    return markdown.replace(MARKER, "\n".join(references[page.file.src_uri]()))


def _names() -> Iterator[str]:
    """Functions and classes of `prospr_ops`, then of each of its public modules."""
    # Here and not above: every command of MkDocs reads this file, and TensorFlow takes seconds.
    import prospr_ops  # noqa: PLC0415 - loads TensorFlow

    values = [getattr(prospr_ops, name) for name in prospr_ops.__all__]
    for module in [prospr_ops, *(value for value in values if isinstance(value, ModuleType))]:
        yield f"## {module.__name__}\n"
        # Its docstring.
        yield f"::: {module.__name__}\n    options: {{ members: false, show_root_heading: false }}\n"
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                path = f"{module.__name__}.{name}"
                # To mkdocstrings a file hides the function of the same name that is imported from it.
                yield f"::: {path}.{name}\n" if path in sys.modules else f"::: {path}\n"


def _ops() -> Iterator[str]:
    """A section for every op of the library."""
    from prospr_ops import ops  # noqa: PLC0415 - loads TensorFlow
    from prospr_ops.ops._library import library  # noqa: PLC0415 - loads TensorFlow

    names = [name.removeprefix("Prospr_") for name in dir(library) if name.startswith("Prospr_")]
    for name in names:
        function = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
        contract = inspect.cleandoc(getattr(library, f"prospr_{function}").__doc__).strip()
        home = getattr(ops, function).__module__
        yield f"## {name}\n"
        yield f"`Prospr>{name}`; from Python [`po.ops.{function}`][{home}.{function}].\n"
        yield f"```text\n{contract}\n```\n"


def _benchmarks() -> Iterator[str]:
    """Where and when the reference run was, and its tables."""
    from benchmarks import summary  # noqa: PLC0415 - loads TensorFlow

    record = _record("reference.json")
    yield f"{_where(record)}, {sum(record['minutes'].values()):.1f} minutes in all."
    yield summary.markdown(record)


def _meta_gradient() -> Iterator[str]:
    """Where and when this benchmark was run in full, and its tables."""
    from benchmarks import meta_gradient  # noqa: PLC0415 - loads TensorFlow

    record = _record("meta_gradient.json")
    yield f"{_where(record)}:\n"
    yield from meta_gradient.markdown(record)


def _first_call() -> Iterator[str]:
    """Where and when this benchmark was run in full, and its table, once there is one."""
    from benchmarks import first_call  # noqa: PLC0415 - loads TensorFlow

    if not (ROOT / "docs" / "benchmarks" / "first_call.json").exists():
        yield "It was not run in full yet."
        return
    record = _record("first_call.json")
    yield f"{_where(record)}:\n"
    yield from first_call.markdown(record)


def _sparse() -> Iterator[str]:
    """Where and when this benchmark was run in full, and its tables."""
    from benchmarks import sparse  # noqa: PLC0415 - loads TensorFlow

    record = _record("sparse.json")
    if "networks" not in record:
        yield "It was not run in full yet."
        return
    yield f"{_where(record)}.\n"
    yield from sparse.markdown(record)


def _study(model: str, dataset: str, epochs: str) -> Iterator[str]:
    """The tables of one network in the accuracy study, from its journal."""
    from benchmarks import accuracy  # noqa: PLC0415 - loads TensorFlow

    yield from accuracy.markdown(_journal(), model, dataset, int(epochs))


def _longer() -> Iterator[str]:
    """The table of sparse networks that were trained in the dense one's time."""
    from benchmarks import worth  # noqa: PLC0415 - loads TensorFlow

    yield from worth.longer(_record("worth.json"), _journal())


def _journal() -> list[dict[str, Any]]:
    """The records of the accuracy study."""
    from prospr_ops.cli.comparison import journal  # noqa: PLC0415 - loads TensorFlow

    return journal.read(ROOT / "benchmarks/results/accuracy.jsonl")


def _cuda() -> Iterator[str]:
    """What tools/gpu found on a card, if it ever ran on one: its results.json."""
    from tools.gpu import tables  # noqa: PLC0415 - beside the benchmarks, no part of what is installed

    if (ROOT / "docs" / "benchmarks" / "cuda.json").exists():
        yield from tables.markdown(_record("cuda.json"))
    else:
        yield "Not measured: no kernel has run on a card yet."


def _record(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "docs" / "benchmarks" / name).read_text())


def _where(record: dict[str, Any]) -> str:
    environment = record["environment"]
    return (
        f"{environment['date'][:10]}, {environment['processor']}, {environment['threads']} threads, "
        f"TensorFlow {environment['tensorflow']}"
    )
