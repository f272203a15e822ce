"""Results of pruning made by hand, to be shown."""

from __future__ import annotations

import numpy as np

from prospr_ops.pruning.mask_files import PackedMasks
from prospr_ops.pruning.result import PruneResult


def result(**changes) -> PruneResult:
    """40 of 1300 weights are kept in two arrays, ranked together."""
    random = np.random.default_rng(changes.pop("seed", 0))
    shapes = changes.pop("shapes", {"net/first/kernel": (40, 30), "net/second/kernel": (2, 5, 10)})
    scores = {path: random.normal(-9, 3, shape).astype("f") for path, shape in shapes.items()}
    flat = np.sort(np.concatenate([values.ravel() for values in scores.values()]))
    threshold = flat[-min(40, flat.size)]
    fields = {
        "masks": {path: values >= threshold for path, values in scores.items()},
        "scores": scores,
        "sparsity": 0.97,
        "settings": {"method": "diagonal", "scope": "global", "structure": "weight"},
        "losses": (2.3, 2.1, 2.05),
        "estimators": {"net/first/kernel": "ggn", "net/second/kernel": "hutchinson"},
        "seconds": 1.0,
        "uses": {"net/first/kernel": 1, "net/second/kernel": 1000},
        "input_shape": None,
    }
    fields |= changes
    return PruneResult(**{**fields, "masks": PackedMasks(fields["masks"])})
