"""What a selection has to know of a model's kernels."""

from __future__ import annotations

import keras

from prospr_ops.network.orientation import kernel_axes
from prospr_ops.network.weights import owned_weights
from prospr_ops.pruning.arrays import Kernels, Shapes
from prospr_ops.pruning.flops import weight_uses
from prospr_ops.pruning.target import Target


def kernels_of(model: keras.Model, shapes: Shapes, target: Target) -> Kernels:
    """Axes and, if a target asks for them, uses of the weights that were scored.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: The model is not built, or the scores are not of its weights.
    """
    weights = owned_weights(model)
    for path, shape in shapes.items():
        found = tuple(weights[path][1].shape) if path in weights else None
        if found != shape:
            known = (
                "has no weight of that path" if found is None else f"has the shape {found} there"
            )
            msg = f"the scores of {path}, of shape {shape}, are not of model {model.name!r}: it {known}"
            raise ValueError(msg)
    return Kernels(
        axes={path: kernel_axes(*weights[path]) for path in shapes},
        uses={} if target.flops is None else weight_uses(model),
    )
