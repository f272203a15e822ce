"""Prune Keras 3 models at initialisation, by Prospect Pruning with compiled TensorFlow ops.

    import prospr_ops as po

    result = po.prune(model, (x, y), sparsity=0.95)
    model.fit(x, y)  # the pruned weights stay zero

Names are imported on first use, so that the shell command answers at once and the native kernels
can be tested without TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from prospr_ops.network.registration import register_with_keras
from prospr_ops.utils.build import build_info, check_installed_tensorflow

if TYPE_CHECKING:
    from prospr_ops import callbacks, curvature, data, models, ops, reference
    from prospr_ops.data.loading import load_data
    from prospr_ops.delivery.exporting import export
    from prospr_ops.delivery.saving import load_model, save_model
    from prospr_ops.delivery.shrinking import shrink
    from prospr_ops.delivery.sparsifying import densify, sparsify
    from prospr_ops.delivery.stripping import strip
    from prospr_ops.pruning.api import prune, score
    from prospr_ops.pruning.channels.groups import channel_masks
    from prospr_ops.pruning.masks import apply_masks
    from prospr_ops.pruning.patterns import Block, NByM
    from prospr_ops.pruning.result import PruneResult
    from prospr_ops.pruning.selection import select
    from prospr_ops.reporting.html_report import report

check_installed_tensorflow()
register_with_keras(
    "prospr_ops.pruning.masks",
    "prospr_ops.pruning.channels.normalisation",
    "prospr_ops.sparse.layers",
    "prospr_ops.sparse.rewriting",
)

__version__ = build_info()["version"]

__all__ = [
    "Block",
    "NByM",
    "PruneResult",
    "__version__",
    "apply_masks",
    "build_info",
    "callbacks",
    "channel_masks",
    "curvature",
    "data",
    "densify",
    "export",
    "load_data",
    "load_model",
    "models",
    "ops",
    "prune",
    "reference",
    "report",
    "save_model",
    "score",
    "select",
    "shrink",
    "sparsify",
    "strip",
]

_HOMES = {
    "Block": "pruning.patterns",
    "NByM": "pruning.patterns",
    "PruneResult": "pruning.result",
    "apply_masks": "pruning.masks",
    "channel_masks": "pruning.channels.groups",
    "densify": "delivery.sparsifying",
    "export": "delivery.exporting",
    "load_data": "data.loading",
    "load_model": "delivery.saving",
    "prune": "pruning.api",
    "report": "reporting.html_report",
    "save_model": "delivery.saving",
    "score": "pruning.api",
    "select": "pruning.selection",
    "shrink": "delivery.shrinking",
    "sparsify": "delivery.sparsifying",
    "strip": "delivery.stripping",
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
