"""Prune Keras 3 models at initialisation, by Prospect Pruning with compiled TensorFlow ops.

import prospr_ops as po

result = po.prune(model, (x, y), sparsity=0.95)
model.fit(x, y)  # the pruned weights stay zero
"""

from __future__ import annotations

from prospr_ops import curvature, data, models, ops, reference
from prospr_ops._load import build_info
from prospr_ops.masking import apply_masks
from prospr_ops.prune import PruneResult, prune, score
from prospr_ops.select import select

__version__ = build_info()["version"]

__all__ = [
    "PruneResult",
    "__version__",
    "apply_masks",
    "build_info",
    "curvature",
    "data",
    "models",
    "ops",
    "prune",
    "reference",
    "score",
    "select",
]
