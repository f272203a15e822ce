"""Masks on a model: pruned weights are zero, and stay zero under training."""

from __future__ import annotations

import base64
import math
import os
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from prospr_ops.network import keras_private
from prospr_ops.network.weights import is_kernel, owned_weights
from prospr_ops.pruning.mask_files import read_masks
from prospr_ops.utils.archives import packed, unpacked


@keras.saving.register_keras_serializable(package="prospr_ops")
class MaskConstraint(keras.constraints.Constraint):
    """Zeroes the pruned elements of a weight after every update.

    An optimizer runs its variables' constraints inside the compiled training step, after momentum
    and weight decay, so a pruned weight is exactly zero between any two steps. Plain Keras
    operations: it works under `jit_compile=True`. The mask is part of the layer's configuration,
    and so of a .keras file and of a clone. There it warns, when it is trained, of the masks that
    stayed behind.

    Args:
        mask: Boolean array in the weight's shape, True for an element that is kept.
        inner: A constraint that the weight had before, which runs first, or None.
        path: Of the weight that the mask was made for, to be named in messages.
    """

    def __init__(
        self, mask: np.ndarray, inner: Callable[[Any], Any] | None = None, path: str = ""
    ) -> None:
        # A variable and not a constant: constants are copied into every compiled graph.
        self.mask = keras.Variable(mask, dtype="bool", trainable=False, name="mask")
        self.inner = inner
        self.path = path
        # Paths of the model's other masks: those that no configuration carries, and those that none
        # has carried to here.
        self.unsaved: list[str] = []
        self.missing: list[str] = []

    def __call__(self, value: Any) -> Any:
        """Returns `value` with the pruned elements set to zero."""
        if self.missing:
            warnings.warn(
                f"the masks of {self.missing} were lost on the way by model.save or clone_model, so "
                "their zeros are trained away: apply them again by prospr_ops.apply_masks (from "
                'the zeros by apply_masks(model, "zeros")), and save by prospr_ops.save_model',
                stacklevel=2,
            )
        average = keras_private.moving_average(value)
        if average is not None:
            average.assign(self._masked(average))
        return self._masked(value if self.inner is None else self.inner(value))

    def _masked(self, value: Any) -> Any:
        value = keras.ops.convert_to_tensor(value)
        return keras.ops.where(self.mask, value, keras.ops.zeros_like(value))

    def get_config(self) -> dict[str, Any]:
        """Returns the constraint as JSON can hold it, the mask packed and compressed."""
        bits = packed(self.mask.numpy())
        behind = sorted({*self.unsaved, *self.missing})
        return {
            **({"unsaved": behind} if behind else {}),
            "path": self.path,
            "inner": keras.saving.serialize_keras_object(self.inner),
            "shape": list(self.mask.shape),
            "mask": base64.b64encode(zlib.compress(bits.tobytes())).decode("ascii"),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MaskConstraint:
        """Makes the constraint that `get_config` described.

        Raises:
            ValueError: The mask is damaged.
        """
        try:
            shape = config["shape"]
            # No more than the shape needs, whatever a damaged or forged file would expand to.
            data = zlib.decompressobj().decompress(
                base64.b64decode(config["mask"]), math.prod(shape) // 8 + 2
            )
            mask = unpacked(np.frombuffer(data, np.uint8), shape)
            missing = [str(path) for path in config.get("unsaved", ())]
        except (KeyError, OverflowError, TypeError, ValueError, zlib.error) as error:
            msg = f"the mask of {config.get('path')} is damaged: {error!r}"
            raise ValueError(msg) from error
        made = cls(mask, keras.constraints.get(config.get("inner")), config.get("path", ""))
        made.missing = missing
        return made


def mask_of(variable: keras.Variable) -> np.ndarray | None:
    """The mask that was applied to a variable, or None."""
    constraint = variable.constraint
    return constraint.mask.numpy() if isinstance(constraint, MaskConstraint) else None


def apply_masks(model: keras.Model, masks: Mapping[str, Any] | str | os.PathLike[str]) -> None:
    """Zeroes the pruned weights of a model and keeps them zero under training.

    The masks hold under `model.fit` and `optimizer.apply`, with any Keras optimizer, weight decay,
    moving averages (`use_ema`), gradient accumulation, mixed precision and `jit_compile=True`. A
    training step of your own that was compiled before has to be compiled again. A constraint that a
    weight already has goes on to work, before the mask. Masks applied earlier to the same weight
    are replaced.

    `prospr_ops.save_model` writes the masks of any model into its .keras file, and
    `prospr_ops.load_model` brings them back. `model.save` and `keras.models.clone_model` keep those
    that the layers' configurations carry, which are not those within MultiHeadAttention and most
    subclassed models: a warning names these weights. A model whose zeros came through a plain file
    or a checkpoint gets its masks back by `apply_masks(model, "zeros")`. `set_weights`,
    `load_weights` and `assign` write whatever they are given, until the next step or `apply_masks`.

    Args:
        model: A built Keras model.
        masks: Boolean array by variable path, True for a weight that is kept, in the variable's
            shape, as `prospr_ops.select` returns them; or a file that `PruneResult.save` wrote; or
            "zeros" for masks that prune what is zero now in each kernel (a file of that name is
            "./zeros"). The model's own name may lead a path or not. Layers may have been frozen or
            unfrozen since the masks were made. The names of layers, which are in all paths,
            Keras counts up (dense, dense_1, …) within a process: give names, or call
            `keras.utils.clear_session()` before building.

    Raises:
        OSError: The file cannot be read.
        TypeError: `model` is no Keras model, or a mask is not boolean.
        ValueError: The file holds no masks, a path is not one of the model's, a shape differs, or
            no kernel has a zero. On these, as on any error and on Ctrl-C, the model is as it was.

    Examples:
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> kernel = model.layers[-1].kernel
        >>> mask = np.ones(kernel.shape, bool)
        >>> mask[:, 0] = False
        >>> po.apply_masks(model, {kernel.path: mask})
        >>> kernel.numpy()[:, 0].any()
        np.False_
    """
    weights = owned_weights(model, frozen=True)
    if isinstance(masks, str) and masks == "zeros":
        masks = masks_of_zeros(model)
        if not masks:
            msg = f"no kernel of model {model.name!r} has a zero to make a mask of"
            raise ValueError(msg)
    elif not isinstance(masks, Mapping):
        masks = read_masks(masks)[0]
    # The model's own name is in the paths of a Sequential model, unless Keras has loaded it.
    prefix = f"{model.name}/"
    bare = {path.removeprefix(prefix): path for path in weights}
    arrays = {
        path if path in weights else bare.get(path.removeprefix(prefix), path): np.asarray(mask)
        for path, mask in masks.items()
    }
    _check_fit(arrays, {path: variable for path, (_, variable) in weights.items()})
    unsaved = sorted(arrays.keys() & hold_masks(model, arrays))
    if unsaved:
        warnings.warn(
            f"model.save will not write the masks of {unsaved}, since no configuration carries the "
            "constraint; prospr_ops.save_model will",
            stacklevel=2,
        )


def hold_masks(model: keras.Model, masks: Mapping[str, np.ndarray]) -> set[str]:
    """Zeroes what masks prune and keeps it zero: `apply_masks` for masks that are known to fit.

    Returns:
        Paths of the masks in the model that `model.save` would not write.
    """
    weights = owned_weights(model, frozen=True)
    with ExitStack() as undo:
        for path, mask in masks.items():
            _hold(*weights[path], mask, path, undo)
        # A training step that was compiled before knows nothing of the new constraints, be it that
        # of a model which this one is a part of.
        model.train_function = None
        for outer in keras_private.compiled_steps_with(weights[path][1] for path in masks):
            outer.make_train_function(force=True)
            for path, mask in masks.items():
                _mask_average(outer.optimizer, weights[path][1], mask, undo)
        for path, mask in masks.items():
            _mask_average(getattr(model, "optimizer", None), weights[path][1], mask, undo)

        saved, held = _saved_paths(model), masked_weights(model)
        unsaved = {path for path, (*_, mask) in held.items() if mask.path not in saved}
        for *_, constraint in held.values():
            constraint.unsaved = sorted(unsaved)
            constraint.missing = []  # whoever applies masks now knows which
        undo.pop_all()  # all went well
    return unsaved


def masks_of_zeros(model: keras.Model) -> dict[str, np.ndarray]:
    """Masks of the kernels of a built model that have zeros, which they prune."""
    kernels = {
        path: variable.numpy() != 0
        for path, (layer, variable) in owned_weights(model, frozen=True).items()
        if is_kernel(layer, variable) or variable.name.endswith("kernel")
    }
    return {path: mask for path, mask in kernels.items() if not mask.all()}


def _hold(
    layer: keras.layers.Layer,
    variable: keras.Variable,
    mask: np.ndarray,
    path: str,
    undo: ExitStack,
) -> None:
    """Zeroes what a mask prunes of a weight and keeps it zero, unless `undo` is closed."""
    inner = variable.constraint
    if isinstance(inner, MaskConstraint):
        inner = inner.inner
    constraint = MaskConstraint(mask, inner, path)
    undo.callback(variable.assign, tf.identity(variable.value))
    variable.assign(keras.ops.where(constraint.mask, variable, 0))
    _constrain(layer, variable, constraint, undo)


def _mask_average(
    optimizer: Any, variable: keras.Variable, mask: np.ndarray, undo: ExitStack
) -> None:
    """Zeroes what a mask prunes of the moving average that may overwrite a weight."""
    average = keras_private.average_of(optimizer, variable)
    if average is not None:
        undo.callback(average.assign, tf.identity(average.value))
        average.assign(keras.ops.where(mask, average, 0))


def _constrain(
    layer: keras.layers.Layer, variable: keras.Variable, constraint: Any, undo: ExitStack
) -> None:
    """Sets the constraint of a weight, also where the layer's configuration takes it from."""
    undo.callback(setattr, variable, "constraint", variable.constraint)
    variable.constraint = constraint
    attribute = _constraint_attribute(layer, variable)
    if attribute:
        undo.callback(setattr, layer, attribute, getattr(layer, attribute))
        setattr(layer, attribute, constraint)


def masked_weights(
    model: keras.Model,
) -> dict[str, tuple[keras.layers.Layer, keras.Variable, MaskConstraint]]:
    """The weights of a built model that have a mask, by path, with owner and mask."""
    if not model.variables:
        return {}
    return {
        path: (layer, variable, variable.constraint)
        for path, (layer, variable) in owned_weights(model, frozen=True).items()
        if isinstance(variable.constraint, MaskConstraint)
    }


@contextmanager
def masks_lifted(model: keras.Model) -> Iterator[None]:
    """Takes the masks off a model for the moment of writing it: they are back on exit.

    Meanwhile it is a stock Keras model, whose weights have the constraints that they had before the
    masks. No value changes.
    """
    with ExitStack() as undo:
        for layer, variable, mask in masked_weights(model).values():
            _constrain(layer, variable, mask.inner, undo)
        yield


def _check_fit(masks: Mapping[str, np.ndarray], weights: Mapping[str, keras.Variable]) -> None:
    for path, mask in masks.items():
        if mask.dtype != np.bool_:
            msg = f"the mask of {path} must be boolean, not {mask.dtype}"
            raise TypeError(msg)
    unknown = [path for path in masks if path not in weights]
    misshapen = [
        f"the mask of {path} has shape {mask.shape}; the variable has {tuple(weights[path].shape)}"
        for path, mask in masks.items()
        if path in weights and mask.shape != tuple(weights[path].shape)
    ]
    if unknown:
        others = [path for path in weights if path not in masks]
        misshapen.insert(0, f"the model has no {unknown}; it has, without a mask, {others}")
    if misshapen:
        msg = f"the masks do not fit model's weights: {'; '.join(misshapen)}"
        raise ValueError(msg)


def _constraint_attribute(layer: keras.layers.Layer, variable: keras.Variable) -> str | None:
    """The attribute by which a layer's configuration knows the constraint of a weight."""
    candidates = [f"{variable.name}_constraint"]
    if variable.name.endswith("kernel"):  # "pointwise_kernel", and "kernel" of depthwise layers
        prefix = variable.name.removesuffix("kernel") or "depthwise_"
        candidates.append(f"{prefix}constraint")
    return next((name for name in candidates if hasattr(layer, name)), None)


def _saved_paths(model: keras.Model) -> set[str]:
    """Paths of the masks in the model's configuration."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras's, of lambdas
            config = model.get_config()
    except NotImplementedError:  # of a subclassed model that does not say how to make it again
        return set()
    return {mask["path"] for mask in _mask_configs(config)}


def _mask_configs(config: Any) -> Iterator[dict[str, Any]]:
    """The configurations of all masks within a configuration of a layer or model."""
    if isinstance(config, dict):
        if config.get("registered_name") == keras.saving.get_registered_name(MaskConstraint):
            yield config["config"]
        else:
            for value in config.values():
                yield from _mask_configs(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _mask_configs(value)
