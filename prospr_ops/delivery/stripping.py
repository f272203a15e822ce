"""A stock Keras model of a pruned one."""

from __future__ import annotations

import keras

from prospr_ops.network import keras_private
from prospr_ops.pruning.masks import without_masks


def strip(model: keras.Model) -> keras.Model:
    """Makes a stock Keras model of a pruned one.

    Nothing of `prospr_ops` is left in it: it can be saved, loaded and exported where this package
    is not installed. Weights, and so the zeros and predictions, are those of `model`, which is not
    changed; constraints that its weights had before the masks are back. Masks are gone: training
    the copy makes pruned weights nonzero.

    Args:
        model: A built Keras model, pruned or not. A subclassed one must have `get_config`.

    Returns:
        A new model, which is not compiled.

    Raises:
        TypeError: `model` is no Keras model, or a subclassed one that Keras cannot make again.
        ValueError: The model is not built.

    Example:
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> result = po.prune(model, None, sparsity=0.9, method="magnitude", verbose=0)
        >>> plain = po.strip(model)
        >>> [layer.kernel_constraint for layer in plain.layers[1:]]
        [None, None, None]
    """
    if not isinstance(model, keras.Model):
        msg = f"model must be a keras.Model, not {type(model).__name__}"
        raise TypeError(msg)
    if not model.built:
        msg = f"model {model.name!r} is not built; call it on a batch first"
        raise ValueError(msg)
    if isinstance(model, (keras_private.Functional, keras.Sequential)):
        plain = keras.models.clone_model(model, clone_function=_plain, recursive=True)
    else:
        plain = _plain(model)
        plain.build_from_config(model.get_build_config())
        plain.built = True  # as keras.saving does it
    plain.set_weights(model.get_weights())
    return plain


def _plain(layer: keras.layers.Layer) -> keras.layers.Layer:
    return type(layer).from_config(without_masks(layer.get_config()))
