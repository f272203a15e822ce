"""A second model of the same function, through the files in which Keras keeps all of a model."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

import keras

from prospr_ops.network import keras_private
from prospr_ops.pruning.masks import masks_lifted


def copied(model: keras.Model) -> keras.Model:
    """Makes an uncompiled stock copy of a built model, with all state that Keras's files keep.

    That is more than weights: statistics of Normalization, vocabularies, layers that share a
    weight. Classes and functions of the user's own need not be registered: the copy uses the very
    same.

    Raises:
        OSError: The temporary file cannot be written.
        TypeError: Keras cannot write the model to a file, or not make it again from there.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        own_objects(model, rename=True),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # Keras's, of the file
        file = Path(folder) / "model.keras"
        try:
            with masks_lifted(model), _uncompiled(model):
                model.save(file)
            return keras.saving.load_model(file, compile=False, safe_mode=False)
        except OSError:
            raise
        except Exception as error:  # from whatever a layer's own code raises
            quantised = [
                layer.name
                for layer in keras_private.all_layers(model)
                if getattr(layer, "quantization_mode", None) is not None
            ]
            if quantised:
                msg = (
                    f"Keras cannot make model {model.name!r} again from a file once it is quantised "
                    f"(layer {quantised[0]!r}): call prospr_ops.strip before model.quantize"
                )
                raise TypeError(msg) from error
            msg = (
                f"Keras cannot make the {type(model).__name__} {model.name!r} again from a file "
                f"({described(error)}); prospr_ops.export to a SavedModel, LiteRT or ONNX writes the "
                "model itself"
            )
            raise TypeError(msg) from error


def check_built(model: Any) -> None:
    """Refuses what is no built Keras model.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: It is not built.
    """
    if not isinstance(model, keras.Model):
        msg = f"model must be a keras.Model, not {type(model).__name__}"
        raise TypeError(msg)
    if not model.built:
        msg = f"model {model.name!r} is not built; call it on a batch first"
        raise ValueError(msg)


def described(error: BaseException) -> str:
    """An error of another library as a part of one sentence."""
    # Keras puts all of a configuration before what was wrong with it.
    text = str(error).rpartition("Exception encountered: ")[-1]
    # And around what a call raised, in bold, which call that was and on what.
    if text.startswith("Exception encountered when calling "):
        text = text.partition("\x1b[1m")[2].partition("\x1b[0m")[0] or text
    text = " ".join(text.partition(" Full object config:")[0].split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def own_objects(model: keras.Model, *, rename: bool = False) -> Iterator[None]:
    """Lets Keras find the classes and functions in a model that nobody has registered.

    Args:
        model: The model.
        rename: Whether to give functions names of their own meanwhile, so that lambdas, and several
            functions of one name, are told apart in what is written meanwhile.
    """
    found = keras_private.objects_in_scope()  # a scope within a scope hides it
    with ExitStack() as undo:
        for thing in _objects(model):
            if str(getattr(thing, "__module__", "")).partition(".")[0] == "keras":
                continue
            name = keras.saving.get_registered_name(thing)
            known = keras.saving.get_registered_object(name) is thing
            if rename and isinstance(thing, FunctionType) and not known:
                undo.callback(setattr, thing, "__name__", thing.__name__)
                name = thing.__name__ = f"function_{len(found)}_of_{model.name}"
            found[name] = thing
        undo.enter_context(keras.saving.custom_object_scope(found))
        yield


def _objects(model: keras.Model) -> list[Any]:
    """Functions in a model's layers, and classes of these and of what they hold; each once."""
    found: dict[int, Any] = {}
    for layer in keras_private.all_layers(model):
        for value in [layer, *_leaves(list(vars(layer).values()))]:
            thing = value if isinstance(value, FunctionType) else type(value)
            if isinstance(thing, FunctionType) or hasattr(thing, "get_config"):
                found[id(thing)] = thing
    return list(found.values())


def _leaves(value: Any) -> Iterator[Any]:
    """What is in lists, tuples and dictionaries, and in such within them."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


@contextmanager
def _uncompiled(model: keras.Model) -> Iterator[None]:
    """Has Keras write nothing of a model's loss, metrics and optimizer, nor of its parts'."""
    hidden: list[tuple[Any, Any]] = []
    parts = [part for part in keras_private.all_layers(model) if isinstance(part, keras.Model)]
    try:
        for part in parts:
            hidden.append((part, vars(part).pop("optimizer", None)))
            object.__setattr__(part, "get_compile_config", lambda: None)
        yield
    finally:
        for part, optimizer in hidden:
            vars(part).pop("get_compile_config", None)
            if optimizer is not None:
                vars(part)["optimizer"] = optimizer
