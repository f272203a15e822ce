"""A stock Keras model of a pruned one."""

from __future__ import annotations

import keras

from prospr_ops.delivery.comparing import check_copy
from prospr_ops.delivery.copying import check_built, copied
from prospr_ops.delivery.sparsifying import densified


def strip(model: keras.Model) -> keras.Model:
    """Makes a stock Keras model of a pruned one.

    Nothing of `prospr_ops` is left in it: it can be saved, loaded and exported where this package
    is not installed. Weights, all other state that Keras saves, and so predictions are those of
    `model`, which is not changed; constraints that its weights had before the masks are back. Masks
    are gone: training the copy makes pruned weights nonzero. Both models are called once on sampled
    inputs, and compared.

        plain = po.strip(model)
        plain.save("plain.keras")

    Args:
        model: A built Keras model, pruned or not, or one of `sparsify`. A subclassed one must have `get_config`.

    Returns:
        A new model, which is not compiled.

    Raises:
        TypeError: `model` is no Keras model, or one that Keras cannot make again from a file.
        ValueError: The model is not built, or the copy would compute something else.

    Examples:
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> result = po.prune(model, None, sparsity=0.9, method="magnitude", verbose=0)
        >>> plain = po.strip(model)
        >>> [layer.kernel_constraint for layer in plain.layers[1:]]
        [None, None, None]
    """
    check_built(model)
    model = densified(model)
    plain = copied(model)
    check_copy(model, plain, "strip")
    return plain
