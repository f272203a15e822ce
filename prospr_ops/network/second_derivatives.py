"""Second derivatives that TensorFlow does not have, or takes as zero without a word."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import tensorflow as tf
from tensorflow.python.eager import record
from tensorflow.python.framework import ops, registry

# The registry of gradients is one for all threads, so one at a time changes it.
_registry_lock = threading.RLock()

# What TensorFlow says of an operation without a gradient: eagerly, in a graph, and of one that
# forbids it.
_UNKNOWN = re.compile(
    r"registry has no entry for: (?P<eager>\w+)"
    r"|No gradient defined for operation *'(?P<name>[^']+)' \(op type: (?P<graph>\w+)\)"
    r"|Gradient explicitly disabled"
)
# Types of operations that are gradients of others.
_GRADIENT = re.compile("(Grad|Gradient|Backprop)(V[0-9]+)?$")


class NoSecondDerivative(ValueError):
    """TensorFlow cannot differentiate a gradient.

    Args:
        operation: Type of the operation that has no derivative.
        name: Name of the operation in its graph, which holds that of its layer; empty if it ran
            eagerly.
    """

    def __init__(self, operation: str, name: str = "") -> None:
        where = f" ({name})" if name else ""
        super().__init__(f"TensorFlow has no derivative of {operation}{where}")


class _Operation(NamedTuple):
    """What a gradient function needs to know of an operation."""

    type: str
    inputs: list[tf.Tensor]
    get_attr: Callable[[str], Any]


# Gradients of gradients, as TensorFlow would register them: functions of the operation and of the
# gradients v by its outputs. What is linear in an image is undone by itself.


def _resize(op: Any, v: tf.Tensor) -> list[tf.Tensor | None]:
    g, resize = op.inputs[0], getattr(tf.raw_ops, op.type.removesuffix("Grad"))
    options = _attributes(op, "align_corners", "half_pixel_centers")
    return [tf.cast(resize(images=v, size=tf.shape(g)[1:3], **options), g.dtype), None]


def _scale_and_translate(op: Any, v: tf.Tensor) -> list[tf.Tensor | None]:
    g, _, scale, translation = op.inputs
    found = tf.raw_ops.ScaleAndTranslate(
        images=v,
        size=tf.shape(g)[1:3],
        scale=scale,
        translation=translation,
        **_attributes(op, "kernel_type", "antialias"),
    )
    return [found, None, None, None]


def _crop_and_resize(op: Any, v: tf.Tensor) -> list[tf.Tensor | None]:
    """The boxes count as constant: where they depend on weights, CropAndResizeGradBoxes refuses."""
    g, boxes, of_image, _ = op.inputs
    found = tf.raw_ops.CropAndResize(
        image=v,
        boxes=boxes,
        box_ind=of_image,
        crop_size=tf.shape(g)[1:3],
        **_attributes(op, "method"),
    )
    return [found, None, None, None]


def _fake_quant(op: Any, *v: tf.Tensor) -> list[tf.Tensor | None]:
    """The gradient g goes to the input where that is in range, else to the end that it is cut to.

    Where that is changes by steps: the derivative is by g alone, as with the rounding left out.
    """
    g, x, *ends = op.inputs
    names = ("min", "max")
    options = _attributes(op, "num_bits", "narrow_range", *(() if ends else names))
    options |= dict(zip(names, ends, strict=False))
    passed = getattr(tf.raw_ops, op.type)(gradients=tf.ones_like(g), inputs=x, **options)
    if not ends:
        return [passed * v[0], None]
    cut = getattr(tf.raw_ops, op.type.removesuffix("Gradient"))(inputs=x, **options)
    outside = tf.where(cut > x, v[1], v[2])
    return [tf.where(passed[0] > 0, v[0], outside), None, None, None]


def _softsign(op: Any, v: tf.Tensor) -> list[tf.Tensor]:
    g, x = op.inputs
    by_g = tf.raw_ops.SoftsignGrad(gradients=v, features=x)
    return [by_g, -2.0 * by_g * g * tf.sign(x) / (1.0 + tf.abs(x))]


def _attributes(op: Any, *names: str) -> dict[str, Any]:
    found = {name: op.get_attr(name) for name in names}
    return {
        name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()
    }


_FAKE_QUANT = [f"FakeQuantWithMinMax{kind}Gradient" for kind in ("Args", "Vars", "VarsPerChannel")]
_SECOND: dict[str, Callable[..., Any]] = {
    "CropAndResizeGradImage": _crop_and_resize,
    "ResizeBicubicGrad": _resize,
    "ResizeBilinearGrad": _resize,
    "ResizeNearestNeighborGrad": _resize,
    "ScaleAndTranslateGrad": _scale_and_translate,
    "SoftsignGrad": _softsign,
    **dict.fromkeys(_FAKE_QUANT, _fake_quant),
}


def _with_derivative(kind: str, stock: Callable[..., Any]) -> Callable[..., Any]:
    """The gradient of an operation, by one of this type, that a tape can differentiate.

    A tape keeps no inputs of an operation that TensorFlow takes for constant.
    """

    def gradient(op: Any, g: tf.Tensor) -> Any:
        def second(*v: tf.Tensor) -> list[tf.Tensor]:
            inputs = [g, *(x for x in op.inputs if x is not None)]
            return _SECOND[kind](_Operation(kind, inputs, op.get_attr), *v)[:1]

        with record.stop_recording():
            found = stock(op, g)
        outputs = [one for one in tf.nest.flatten(found) if one is not None]
        record.record_operation(kind, outputs, [g], second)
        return found

    return gradient


@contextmanager
def _registered(gradients: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Registers gradients of operations, by type, while the context is open."""
    entries = ops.gradient_registry._registry
    with _registry_lock:
        before = {name: entries.get(name) for name in gradients}
        tags = {registry._LOCATION_TAG: None}
        for name, gradient in gradients.items():
            entries[name] = (before[name] or tags) | {registry._TYPE_TAG: gradient}
        try:
            yield
        finally:
            for name, entry in before.items():
                if entry is None:
                    del entries[name]
                else:
                    entries[name] = entry


def _registered_gradient(name: str) -> Callable[..., Any] | None:
    """The gradient of an operation, None where TensorFlow knows none or has it as zero."""
    return ops.gradient_registry._registry.get(name, {}).get(registry._TYPE_TAG)


@contextmanager
def differentiable_gradients() -> Iterator[None]:
    """Lets gradients that are taken within be differentiated by `differentiating_gradients`.

    No gradient changes its value.
    """
    mended = {}
    for kind in ("ResizeBilinearGrad", *_FAKE_QUANT):
        name = kind.removesuffix("ient").removesuffix("Grad")
        stock = _registered_gradient(name)
        if stock is not None and _registered_gradient(kind) in (None, _SECOND[kind]):
            mended[name] = _with_derivative(kind, stock)
    with _registered(mended):
        yield


def _refuse(op: Any, *_: Any) -> NoReturn:
    raise NoSecondDerivative(op.type, getattr(op, "name", ""))


@contextmanager
def differentiating_gradients() -> Iterator[None]:
    """Differentiates gradients within as far as they can be, and refuses those that cannot.

    Resizing, cropping, FakeQuant and softsign get the second derivative that TensorFlow lacks. Of
    other operations it takes some as zero, and does not know some.

    Raises:
        NoSecondDerivative: There is no derivative of an operation that was to be differentiated.
    """
    names = list(ops.gradient_registry.list())
    silent = [n for n in names if _GRADIENT.search(n) and _registered_gradient(n) is None]
    mended = {n: second for n, second in _SECOND.items() if _registered_gradient(n) is None}
    try:
        with _registered(dict.fromkeys(silent, _refuse) | mended):
            yield
    except LookupError as error:
        found = _UNKNOWN.search(str(error))
        if found is None:
            raise
        kind = found["eager"] or found["graph"] or "an operation that forbids it"
        raise NoSecondDerivative(kind, found["name"] or "") from error
