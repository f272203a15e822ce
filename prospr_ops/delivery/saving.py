"""Keras's own files, with the masks of any model in a member that Keras ignores."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from prospr_ops.delivery.comparing import check_copy
from prospr_ops.delivery.copying import check_built, described, own_objects
from prospr_ops.network.weights import owned_weights
from prospr_ops.pruning.masks import hold_masks, masked_weights, masks_lifted, masks_of_zeros
from prospr_ops.utils.archives import open_archive, packed, unpacked, write_archive
from prospr_ops.utils.files import replacing

_MEMBER = "prospr_ops_masks.npz"
_FORMAT = "prospr_ops masks of a model"
_VERSION = 1

# Where fewer weights of a kernel are nonzero, it was pruned: training leaves hardly any at zero.
_DENSE = 0.9


def save_model(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Writes a .keras file that keeps the masks of any model.

    Keras reads it like a file of `model.save`, also where `prospr_ops` is not installed, and only
    lacks the masks; `load_model` brings them back. Within layers that rebuild their parts from
    their own configuration (MultiHeadAttention, KerasHub's backbones), in subclassed models and in
    frozen layers too. The file is loaded again and compared with the model, on sampled inputs,
    before this returns.

    Args:
        model: A built Keras model, masked or not; it is not changed.
        path: File to write, which must end in .keras; one that exists is replaced, at the end.

    Raises:
        OSError: It cannot be written. What was there before is as it was.
        TypeError: `model` is no Keras model.
        ValueError: The model is not built, the path does not end in .keras, Keras cannot write the
            model or not load it again, what is loaded computes something else, or pruned weights
            are not zero. What was there before is unchanged.

    Examples:
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> result = po.prune(model, None, sparsity=0.9, method="magnitude", verbose=0)
        >>> po.save_model(model, "pruned.keras")
        >>> loaded = po.load_model("pruned.keras")  # fit keeps its pruned weights at zero
        >>> sum((layer.kernel.numpy() != 0).sum() for layer in loaded.layers[1:]) == result.kept
        np.True_
    """
    check_built(model)
    path = _keras_path(path)
    masks = masked_weights(model)
    revived = [
        name
        for name, (_, variable, mask) in masks.items()
        if variable.numpy()[~mask.mask.numpy()].any()
    ]
    if revived:
        msg = f"weights that their masks prune are not zero in {revived}: call apply_masks again"
        raise ValueError(msg)
    with replacing(path) as unfinished:
        try:
            with masks_lifted(model):
                model.save(unfinished)
            _add_masks(unfinished, masks)
            with own_objects(model):
                again = load_model(unfinished, compile=False, safe_mode=False)
        except OSError:
            raise
        except Exception as error:  # of a layer's own code
            msg = f"Keras cannot write model {model.name!r} and load it again: {described(error)}"
            raise ValueError(msg) from error
        check_copy(model, again, "save_model")


def load_model(
    path: str | os.PathLike[str],
    custom_objects: Mapping[str, Any] | None = None,
    compile: bool = True,
    safe_mode: bool = True,
) -> keras.Model:
    """Loads a .keras file with the masks that `save_model` has put into it.

    Any other .keras file is loaded as Keras does, with the masks that its configuration holds. If
    kernels of it have many zeros and no mask is there, a warning says how to get masks from them.

    Args:
        path: File to read, which must end in .keras.
        custom_objects: Classes and functions by the name that the file knows them by.
        compile: Whether to compile the model as it was when it was saved.
        safe_mode: Whether to refuse Python lambdas, which could do anything.

    Returns:
        The model.

    Raises:
        OSError: The file cannot be read.
        TypeError: Keras does not know a class or function in the file.
        ValueError: It is no .keras file or a damaged one, or its masks are damaged, of another
            model or of a newer version; also what `keras.saving.load_model` raises.

    Examples:
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> result = po.prune(model, None, sparsity=0.9, method="magnitude", verbose=0)
        >>> po.save_model(model, "pruned.keras")
        >>> loaded = po.load_model("pruned.keras")  # fit keeps its pruned weights at zero
        >>> sum((layer.kernel.numpy() != 0).sum() for layer in loaded.layers[1:]) == result.kept
        np.True_
    """
    path = _keras_path(path)
    found = _read_masks(path)
    model = keras.saving.load_model(path, custom_objects, compile=compile, safe_mode=safe_mode)
    if found:
        hold_masks(model, _matched(path, found, model))
    elif model.variables and not masked_weights(model):
        _warn_of_zeros(path, model)
    return model


def _warn_of_zeros(path: Path, model: keras.Model) -> None:
    """Says that a model looks pruned and has no masks."""
    weights = owned_weights(model, frozen=True)
    pruned = [
        name
        for name, mask in masks_of_zeros(model).items()
        if mask.any() and mask.mean() < _DENSE and weights[name][1].constraint is None
    ]
    if pruned:
        warnings.warn(
            f"{path} holds no masks, and many zeros in {pruned}, which training makes nonzero: "
            'apply_masks(model, "zeros") keeps them',
            stacklevel=3,
        )


def _keras_path(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix != ".keras":
        msg = f"the name of the file must end in .keras, got {path}"
        raise ValueError(msg)
    return path


def _add_masks(path: Path, masks: Mapping[str, tuple[Any, keras.Variable, Any]]) -> None:
    bits = [mask.mask.numpy() for *_, mask in masks.values()]
    entries = [
        {"path": name, "shape": values.shape, "values": _checksum(variable)}
        for (name, (_, variable, _)), values in zip(masks.items(), bits, strict=True)
    ]
    header = {"format": _FORMAT, "version": _VERSION, "masks": entries}
    member = io.BytesIO()
    write_archive(member, header, ((str(i), packed(mask)) for i, mask in enumerate(bits)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_MEMBER, member.getvalue())


def _checksum(variable: keras.Variable) -> int:
    """Of a weight's values, by which a mask is known to be its own."""
    return zlib.crc32(np.ascontiguousarray(variable.numpy()).tobytes())


def _read_masks(path: Path) -> list[tuple[dict[str, Any], np.ndarray]]:
    """What `save_model` noted of each masked weight, and its mask; empty for a file of Keras's."""
    try:
        with zipfile.ZipFile(path) as archive:
            if _MEMBER not in archive.namelist():
                return []
            member = archive.read(_MEMBER)
    except OSError:
        raise
    except Exception as error:  # zipfile and zlib raise nearly anything about damaged files
        msg = f"{path} is no .keras file, or a damaged one: {error}"
        raise ValueError(msg) from error
    otherwise = f"the masks in {path} are none of prospr_ops"
    with open_archive(io.BytesIO(member), otherwise, _FORMAT, _VERSION) as (header, arrays):
        return [
            (
                {"path": str(entry["path"]), "values": int(entry["values"])},
                unpacked(arrays[str(number)], [int(size) for size in entry["shape"]]),
            )
            for number, entry in enumerate(header["masks"])
        ]


def _matched(
    path: Path, found: list[tuple[dict[str, Any], np.ndarray]], model: keras.Model
) -> dict[str, np.ndarray]:
    """The masks by path in a loaded model.

    A path may differ there (Keras leaves out the model's name), so the values tell a weight. Where
    they are the same too, the path does, or else the order.

    Raises:
        ValueError: A mask is of no weight of the model.
    """
    weights = {name: variable for name, (_, variable) in owned_weights(model, frozen=True).items()}
    sums = {name: _checksum(variable) for name, variable in weights.items()}
    masks: dict[str, np.ndarray] = {}
    for entry, mask in found:
        alike = [
            name
            for name, variable in weights.items()
            if sums[name] == entry["values"]
            and tuple(variable.shape) == mask.shape
            and name not in masks
        ]
        if not alike or weights[alike[0]].numpy()[~mask].any():
            msg = f"the masks in {path} are not of the model in it: no weight fits {entry['path']}"
            raise ValueError(msg)
        masks[entry["path"] if entry["path"] in alike else alike[0]] = mask
    return masks
