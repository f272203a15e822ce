"""Every public function and class has an example in its docstring, and every example runs."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import prospr_ops as po

_MODULES = [po, po.ops, po.reference, po.models, po.curvature, po.callbacks, po.data]


def _public() -> dict[str, Any]:
    """Every public function and class once, and the public methods of result classes, by name."""
    found = {}
    for module in _MODULES:
        prefix = module.__name__.replace("prospr_ops", "po", 1)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isroutine(value) or inspect.isclass(value):
                found[f"{prefix}.{name}"] = value
    for name in ("save", "load"):
        found[f"po.PruneResult.{name}"] = getattr(po.PruneResult, name)
    return found


_PUBLIC = _public()


def _run(name: str, docstring: str) -> str:
    """Runs the examples of a docstring, with no names but their own; returns what went wrong."""
    test = doctest.DocTestParser().get_doctest(docstring, {}, name, None, None)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    failures: list[str] = []
    runner.run(test, out=failures.append)
    return "".join(failures)


@pytest.mark.parametrize("name", _PUBLIC)
def test_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where examples write their files
    docstring = inspect.getdoc(_PUBLIC[name]) or ""
    assert "\nExamples:\n    >>> " in docstring, f"{name} has no example in its docstring"
    assert not (failures := _run(name, docstring)), failures


def test_every_public_module_is_looked_into() -> None:
    modules = [getattr(po, name) for name in po.__all__]
    assert [m for m in modules if isinstance(m, ModuleType) and m not in _MODULES] == []


def test_a_wrong_example_is_found() -> None:
    assert "Expected:\n    3" in _run("wrong", "Examples:\n    >>> 1 + 1\n    3\n")
    assert "NameError" in _run("unknown", "Examples:\n    >>> np.pi\n    3\n")
