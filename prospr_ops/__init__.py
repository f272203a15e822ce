"""Prune Keras 3 models at initialisation, by Prospect Pruning with compiled TensorFlow ops.

    import prospr_ops as po

    result = po.prune(model, (x, y), sparsity=0.95)
    model.fit(x, y)  # the pruned weights stay zero

Names are imported when they are first used, so that the shell command answers at once and the
native kernels can be tested without TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from prospr_ops._build import build_info, check_installed_tensorflow
from prospr_ops._registration import register_with_keras

if TYPE_CHECKING:
    from prospr_ops import callbacks, curvature, data, models, ops, reference
    from prospr_ops.exporting import export, strip
    from prospr_ops.masking import apply_masks
    from prospr_ops.pruning import prune, score
    from prospr_ops.reporting import report
    from prospr_ops.result import PruneResult
    from prospr_ops.samples import load_data
    from prospr_ops.selection import select
    from prospr_ops.shrinking import shrink
    from prospr_ops.structured import channel_masks

check_installed_tensorflow()
register_with_keras()

__version__ = build_info()["version"]

__all__ = [
    "PruneResult",
    "__version__",
    "apply_masks",
    "build_info",
    "callbacks",
    "channel_masks",
    "curvature",
    "data",
    "export",
    "load_data",
    "models",
    "ops",
    "prune",
    "reference",
    "report",
    "score",
    "select",
    "shrink",
    "strip",
]

_HOMES = {
    "PruneResult": "result",
    "apply_masks": "masking",
    "channel_masks": "structured",
    "export": "exporting",
    "load_data": "samples",
    "prune": "pruning",
    "report": "reporting",
    "score": "pruning",
    "select": "selection",
    "shrink": "shrinking",
    "strip": "exporting",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use."""
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    module = importlib.import_module(f"{__name__}.{_HOMES.get(name, name)}")
    value = getattr(module, name) if name in _HOMES else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
