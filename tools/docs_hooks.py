"""Hooks of MkDocs, which write the two references from what is installed.

The Python reference lists every public name, for mkdocstrings to fill in. The op reference is what
each op was registered with (`.Doc`), and the types that TensorFlow has for its arguments.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

MARKER = "<!-- reference -->"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Puts a reference in the place of the marker of a page."""
    references = {"api.md": _names, "ops.md": _ops}
    if page.file.src_uri not in references:
        return markdown
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
