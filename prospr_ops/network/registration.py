"""Makes `import prospr_ops` enough for Keras to load pruned models, without importing Keras."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_with_keras(*modules: str) -> None:
    """Registers the classes that .keras files may hold: at once, or when Keras is imported.

    Importing Keras takes seconds, which a shell command that does not need it should not spend.

    Args:
        modules: Names of the modules that register the classes when they are imported.
    """
    if "keras" in sys.modules:
        for module in modules:
            importlib.import_module(module)
    elif not any(isinstance(finder, _KerasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _KerasFinder(modules))


class _KerasFinder(MetaPathFinder):
    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = modules

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the signature is Python's
        target: ModuleType | None = None,  # noqa: ARG002 - the signature is Python's
    ) -> ModuleSpec | None:
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("keras")
        if spec is not None and spec.loader is not None:
            spec.loader = _KerasLoader(spec.loader, self._modules)
        return spec


class _KerasLoader(Loader):
    def __init__(self, loader: Loader, modules: Sequence[str]) -> None:
        self._loader, self._modules = loader, modules

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        for name in self._modules:
            importlib.import_module(name)
