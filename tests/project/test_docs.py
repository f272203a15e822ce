"""What the documents speak of is there. Links among the pages are the strict build's to check."""

from __future__ import annotations

import importlib
import inspect
import operator
import re
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

import prospr_ops as po
from prospr_ops.methods import METHODS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted(ROOT.glob("docs/*.md"))]
FOLDERS = [ROOT, ROOT / "prospr_ops"]


def found(pattern: str, page: Path) -> set[str]:
    return set(re.findall(pattern, page.read_text("utf-8")))


def test_links_of_the_readme_lead_somewhere():
    links = found(r"\]\((?!https?:)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_is_short():
    assert len(README.read_text("utf-8").splitlines()) <= 120


@pytest.mark.parametrize("name", ["first_call", "sparse"])
def test_the_readme_has_what_the_record_says(name, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "tools")])
    tool = importlib.import_module("record_table")
    assert tool.BLOCKS[name].findall(README.read_text("utf-8")) == [tool.block(name)]


def test_the_readme_has_a_row_for_each_method():
    text = README.read_text("utf-8")
    table = text[text.index("start:methods") : text.index("end:methods")]
    rows = re.findall(r"(?m)^\| `(\w+)` \| ((?:\\\||[^|])+) \|", table)
    found = [(name, summary.replace(r"\|", "|")) for name, summary in rows]
    assert found == [(method.name, method.summary) for method in METHODS.values()]


def test_the_readme_has_the_studys_errors(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "tools")])
    tool = importlib.import_module("record_table")
    text = README.read_text("utf-8")
    assert len(tool.METHOD.findall(text)) == len(METHODS) + len(tool.VARIANTS)
    assert tool.with_errors(text) == text
    assert tool.with_errors(re.sub(r"\d\d\.\d\d ± ", "99.99 ± ", text)) == text


def test_the_default_method_is_the_one_that_the_page_names():
    page = (ROOT / "docs" / "methods.md").read_text("utf-8")
    for function in (po.prune, po.score):
        default = inspect.signature(function).parameters["method"].default
        assert f'The default is `method="{default}"`' in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_exist(page):
    for name in found(r"\bpo((?:\.[A-Za-z_]\w*)+)", page):
        operator.attrgetter(name.removeprefix("."))(po)
    for name in found(r"\bprospr_ops(?:\.[a-z]\w*)+", page):
        resolve_name(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_exist(page):
    for name in found(r"`((?:[\w.]+/)+\w*\.?\w+)`", page):
        assert any((folder / name).exists() for folder in FOLDERS), name
    for name in found(r"`(test_\w+\.py|\w+\.(?:cc|cu|h))`", page):
        assert [*ROOT.glob(f"*/{name}"), *ROOT.glob(f"*/*/{name}")], name
    # Python's modules are named with their folders, since those say which of a name is meant.
    assert found(r"`((?!test_)\w+\.py)`", page) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_benchmarks_exist(page):
    for name in found(r"python -m benchmarks ([a-z]\w*)", page):
        assert (ROOT / f"benchmarks/{name}.py").exists(), name
