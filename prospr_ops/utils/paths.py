"""Patterns of variable paths, in which only `*` and `?` are wildcards."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def path_matches(path: str, pattern: str) -> bool:
    """Whether a path is what a pattern says; brackets, which Keras allows in names, are literal."""
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, path, re.DOTALL) is not None


def nearest_paths(pattern: str, paths: Iterable[str]) -> list[str]:
    """The three paths that are most like a pattern, the likest first."""
    return difflib.get_close_matches(re.sub("[*?]", "", pattern), list(paths), n=3, cutoff=0.0)
