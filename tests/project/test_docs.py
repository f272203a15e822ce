"""What the documents speak of is there. Links among the pages are the strict build's to check."""

from __future__ import annotations

import operator
import re
from pathlib import Path

import pytest

import prospr_ops as po

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_exist(page):
    for name in found(r"\bpo((?:\.[A-Za-z_]\w*)+)", page):
        operator.attrgetter(name.removeprefix("."))(po)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_exist(page):
    for name in found(r"`((?:\w+/)+\w+\.(?:py|pyi|cc|cu|h))`", page):
        assert any((folder / name).exists() for folder in FOLDERS), name
    for name in found(r"`(test_\w+\.py|\w+\.(?:cc|cu|h))`", page):
        assert [*ROOT.glob(f"*/{name}"), *ROOT.glob(f"*/*/{name}")], name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_benchmarks_exist(page):
    for name in found(r"python -m benchmarks ([a-z]\w*)", page):
        assert (ROOT / f"benchmarks/{name}.py").exists(), name
