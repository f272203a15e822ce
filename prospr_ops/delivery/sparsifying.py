"""Models that compute with their kept weights alone, and back."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import keras
from rich.console import Console

from prospr_ops.delivery.comparing import SMALLER, check_copy
from prospr_ops.delivery.copying import check_built, described, own_objects
from prospr_ops.network import keras_private
from prospr_ops.pruning.channels.graph import is_graph
from prospr_ops.pruning.masks import masked_weights
from prospr_ops.sparse.layers import SparseLayer
from prospr_ops.sparse.planning import Choice, choices
from prospr_ops.sparse.rewriting import DenseCopy, SparseCopy, SparseModel
from prospr_ops.utils.tables import Rows, percent, rich_table


def sparsify(
    model: keras.Model,
    layers: str | Iterable[str] = "auto",
    *,
    batch_size: int = 128,
    verbose: int = 1,
) -> keras.Model:
    """Makes a model that computes with the kept weights of a masked model alone.

    Dense, EinsumDense, Conv1D, Conv2D and depthwise layers with a mask can go sparse, also those within
    attention and other layers: their trainable variables are then the kept weights, filter by filter,
    and the bias, and so are an optimizer's moments. What lies between them in the graph (batch
    normalisation, activations, pooling, sums, concatenations) works in their layout.
    Everything else stays as it is, masks included. The model trains like the masked one, to
    rounding, and is saved and loaded as every Keras model where `prospr_ops` is imported. Optimizers
    that look at a kernel's shape (Muon, Adafactor) take other steps. On a GPU it
    computes by TensorFlow's own operations on kernels written out in full: it saves memory there, and
    no time. Keras does not compile it by XLA. Both models are called once on sampled inputs, and
    compared.

    Args:
        model: A built functional or Sequential model with masks; it is not changed. If it is
            compiled, so is the result, with a fresh optimizer.
        layers: Which masked layers go sparse: "auto" for those that a cost model says are faster
            so, "all" for all that can, or names of layers, or paths of layers within others.
        batch_size: Samples per step that the cost model reckons with.
        verbose: Whether to print which layers go sparse and why.

    Returns:
        A new functional model.

    Raises:
        TypeError: `model` is no Keras model, or `batch_size` no whole number.
        ValueError: The model is not built, has no masks, is called by Python code, has pruned
            weights that are not zero, a named layer cannot go sparse, a layer of it cannot be made
            again, or the result would compute something else.

    Examples:
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> result = po.prune(model, None, sparsity=0.9, method="magnitude", verbose=0)
        >>> fast = po.sparsify(model, layers="all", verbose=0)
        >>> result.kept, fast.count_params()  # and the biases
        (3270, 3673)
    """
    check_built(model)
    _check_graph(model, "sparsify")
    if operator.index(batch_size) < 1:
        msg = f"batch_size must be at least 1, not {batch_size}"
        raise ValueError(msg)
    _check_masks(model)
    wanted = layers if isinstance(layers, str) else set(layers)
    if isinstance(wanted, str) and wanted not in ("auto", "all"):
        wanted = {wanted}
    found = choices(model, wanted, batch_size)
    copy = SparseCopy({key for key, choice in found.items() if choice.sparse})
    try:
        with own_objects(model):
            fast = copy.model(model)
            copy.finish(fast)
    except Exception as error:  # of a layer's own code
        msg = f"sparsify cannot make a layer of model {model.name!r} again: {described(error)}"
        raise ValueError(msg) from error
    notes = {}
    for key, cause in copy.refused.items():
        found[key] = replace(found[key], sparse=False, reason="its layer fails with a sparse one")
        notes[found[key].layer] = described(cause)
    _check_names(wanted, found.values(), notes)
    check_copy(model, fast, "sparsify", SMALLER)
    _compile_alike(model, fast)
    if verbose:
        Console().print(rich_table(_table(model, list(found.values()), notes)))
    return fast


def densify(model: keras.Model) -> keras.Model:
    """Makes the masked model of a model that `sparsify` made.

    Args:
        model: A model of `sparsify`, trained or not; it is not changed.

    Returns:
        A new model with masks, compiled like `model` with a fresh optimizer.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: No layer of it is sparse, or the result would compute something else.

    Examples:
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> result = po.prune(model, None, sparsity=0.9, method="magnitude", verbose=0)
        >>> fast = po.sparsify(model, layers="all", verbose=0)
        >>> po.densify(fast).count_params() == model.count_params()
        True
    """
    check_built(model)
    if not isinstance(model, SparseModel):
        msg = f"model {model.name!r} is none that sparsify made"
        raise ValueError(msg)  # noqa: TRY004 - it is a Keras model
    copy = DenseCopy()
    with own_objects(model):
        masked = copy.model(model)
        copy.finish(masked)
    check_copy(model, masked, "densify", SMALLER)
    _compile_alike(model, masked)
    return masked


def densified(model: keras.Model) -> keras.Model:
    """The masked model, if `sparsify` made this one; else the model."""
    return densify(model) if isinstance(model, SparseModel) else model


def _check_graph(model: keras.Model, what: str) -> None:
    if any(isinstance(layer, SparseLayer) for layer in keras_private.all_layers(model)):
        msg = f"{what}: model {model.name!r} is sparse already"
        raise ValueError(msg)
    if not is_graph(model):
        msg = (
            f"{what} takes functional and Sequential models: Python code calls the layers of model "
            f"{model.name!r}, so its graph is not known"
        )
        raise ValueError(msg)


def _check_masks(model: keras.Model) -> None:
    masks = masked_weights(model)
    if not masks:
        msg = f"model {model.name!r} has no masks; prune it, or call apply_masks, first"
        raise ValueError(msg)
    revived = [
        path
        for path, (_, variable, mask) in masks.items()
        if variable.numpy()[~mask.mask.numpy()].any()
    ]
    if revived:
        msg = f"weights that their masks prune are not zero in {revived}: call apply_masks again"
        raise ValueError(msg)


def _check_names(wanted: str | set[str], found: Iterable[Choice], notes: Mapping[str, str]) -> None:
    if isinstance(wanted, str):
        return
    unknown = set(wanted)
    why: dict[str, str] = {}
    for choice in found:
        if choice.sparse:
            unknown -= choice.names
        reason = (
            f"{choice.reason} ({notes[choice.layer]})" if choice.layer in notes else choice.reason
        )
        why |= dict.fromkeys(choice.names, reason)
    if unknown:
        missing = {name: why.get(name, "no masked layer of the graph") for name in sorted(unknown)}
        msg = f"layers cannot go sparse: {missing}"
        raise ValueError(msg)


def _compile_alike(model: keras.Model, copy: keras.Model) -> None:
    config: Any = model.get_compile_config() if model.compiled else None
    if not config:
        return
    try:
        copy.compile_from_config(config)
    except Exception as error:  # noqa: BLE001 - of the user's own loss or optimizer
        warnings.warn(
            f"model {copy.name!r} is not compiled, since what {model.name!r} was compiled with cannot "
            f"be made again ({described(error)}): call compile",
            stacklevel=3,
        )


def _table(model: keras.Model, found: list[Choice], notes: Mapping[str, str]) -> Rows:
    return Rows(
        f"sparsify: {model.name}",
        ("layer", "kept", "", "why"),
        [
            (
                choice.layer,
                percent(choice.kept / choice.weights),
                "sparse" if choice.sparse else "dense",
                choice.reason,
            )
            for choice in found
        ],
        notes=[f"{layer}: {note}" for layer, note in notes.items()],
    )
