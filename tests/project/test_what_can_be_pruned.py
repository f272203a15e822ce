"""The page says what the cases do."""

from __future__ import annotations

from pathlib import Path

from pruning_cases import page

PAGE = Path(__file__).parents[2] / "docs" / "what_can_be_pruned.md"


def test_the_page_is_what_the_cases_say():
    assert PAGE.read_text("utf-8") == page(), "run python tools/what_can_be_pruned.py"
