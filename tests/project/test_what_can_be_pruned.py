"""The page says what the cases do."""

from __future__ import annotations

from pathlib import Path

import pytest
from pruning_cases import CASES, outcome, page

PAGE = Path(__file__).parents[2] / "docs" / "what_can_be_pruned.md"


@pytest.mark.parametrize("group", CASES)
def test_the_column_of_snip_is_what_the_cases_say(group):
    lines = PAGE.read_text("utf-8").splitlines()
    column = [cell.strip() for cell in lines[lines.index(f"## {group}") + 2].split("|")]
    for name, case in CASES[group].items():
        (line,) = [line for line in lines if line.startswith(f"| {name} |")]
        cell = line.split("|")[column.index("`snip`")].strip()
        assert (cell == "yes") == (outcome(case, "snip") == ""), name


@pytest.mark.slow
def test_the_page_is_what_the_cases_say():
    assert PAGE.read_text("utf-8") == page(), "run python tools/what_can_be_pruned.py"
