"""Writes docs/what_can_be_pruned.md from the cases of tests/support/pruning_cases.py.

python tools/what_can_be_pruned.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from pruning_cases import page

(ROOT / "docs" / "what_can_be_pruned.md").write_text(page(), "utf-8")
