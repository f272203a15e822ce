"""The layout: who may import whom, and what a module may be called."""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path

import pytest

import prospr_ops as po

PACKAGE = Path(po.__file__).parent
# From top to bottom: a room imports itself and what stands below it.
ROOMS = (
    *("cli", "reporting", "delivery", "sparse", "callbacks", "pruning", "methods", "curvature"),
    *("ops", "data", "reference", "models", "network", "utils", "_native"),
)
FILES = {file: ast.parse(file.read_text()) for file in sorted(PACKAGE.rglob("*.py"))}


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_of(file) for file in FILES} | {"_native"}


def imports_of(tree: ast.Module) -> set[str]:
    """Our own modules that a file imports anywhere, below `TYPE_CHECKING` and in functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            # `from prospr_ops import ops` imports a module, and so may any other.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "prospr_ops":
                inner = name.removeprefix("prospr_ops").removeprefix(".")
                while inner not in MODULES:
                    inner = inner.rpartition(".")[0]
                found.add(inner)
    return found


IMPORTS = {module_of(file): imports_of(tree) for file, tree in FILES.items()}
INSIDE = [module for module in IMPORTS if module not in ("", "__main__")]


@pytest.mark.parametrize("module", INSIDE)
def test_imports_go_downwards_only(module):
    room = ROOMS.index(module.split(".")[0])
    for imported in IMPORTS[module]:
        assert imported, f"{module} imports the package itself, which imports it"
        assert ROOMS.index(imported.split(".")[0]) >= room, f"{module} imports {imported}, above it"


def test_no_module_imports_itself_by_others():
    reached = {module: set(imported) for module, imported in IMPORTS.items()}
    for middle, beyond in reached.items():
        for modules in reached.values():
            if middle in modules:
                modules.update(beyond)
    # A package and its modules count as one here: the package's names come from them.
    circles = [module for module in INSIDE if module in reached[module]]
    assert not circles


def test_nothing_else_lies_beside_the_rooms():
    beside = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    rooms = {room for room in ROOMS if room != "_native"}
    assert beside - rooms == {"__init__.py", "__main__.py", "_native.pyi", "py.typed"}


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_no_module_is_named_like_what_it_defines(file):
    """Or `package.name` would be the one or the other, by what was imported last."""
    defined = {getattr(node, "name", None) for node in FILES[file].body}
    assert file.stem not in defined


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_private_parts_of_keras_are_used_in_one_file(file):
    if module_of(file) == "network.keras_private":
        return
    for node in ast.walk(FILES[file]):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            module = getattr(node, "module", None) or ""
            assert not any(name.startswith("keras.src") for name in [module, *names])
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            ours = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", "_native")
            assert ours or node.attr.startswith("__") or node.attr in NOT_OF_KERAS, node.attr


# Private by name, but Python's or TensorFlow's.
NOT_OF_KERAS = {
    "_LOCATION_TAG",
    "_TYPE_TAG",
    "_asdict",
    "_exit",
    "_native",
    "_omit_frequent_tracing_warning",
    "_policy",
    "_registry",
    "_replace",
}


def test_the_test_sees_an_upward_import():
    tree = ast.parse("def late():\n    from prospr_ops.pruning import api, masks")
    assert imports_of(tree) == {"pruning.api", "pruning.masks"}
    assert [a for a, b in pairwise(ROOMS) if ROOMS.index(a) > ROOMS.index(b)] == []
