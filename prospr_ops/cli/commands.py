"""What the shell commands do; `prospr_ops.cli.parser` has their options and help."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from prospr_ops import models
from prospr_ops.cli import comparison
from prospr_ops.cli.demonstration import run_demo as demo
from prospr_ops.data.loading import Samples, load_data
from prospr_ops.delivery import exporting, saving, shrinking
from prospr_ops.delivery.exporting import export_table
from prospr_ops.delivery.sparsifying import densified, sparsify
from prospr_ops.methods.engine.checkpoint import held
from prospr_ops.network import keras_private
from prospr_ops.pruning import api
from prospr_ops.pruning.masks import apply_masks
from prospr_ops.pruning.result import PruneResult
from prospr_ops.reporting import html_report
from prospr_ops.utils.build import build_info
from prospr_ops.utils.files import check_output, replacing, write_json
from prospr_ops.utils.gpu import gpu_use

__all__ = ["compare", "demo", "export", "info", "prune", "report", "shrink", "train"]


def compare(
    *, out: Path = Path("compare.jsonl"), epochs: int | None = None, **options: Any
) -> None:
    """Runs a comparison, and shows and draws what came of it."""
    check_output(out, force=True)  # a comparison adds to its file
    pruning_options = {
        name: options.pop(name) for name in ("learning_rate", "batch_size") if name in options
    }
    training: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    console = Console(highlight=False)
    records = comparison.compare(
        out,
        pruning=comparison.Pruning(**pruning_options),
        training=comparison.Training(**training),
        console=console,
        **options,
    )
    console.print(comparison.comparison_table(records))
    figure = out.with_suffix(".png")
    try:
        drawn = comparison.comparison_figure(records)
    except ImportError as error:
        _say(f"No picture: {error}")
    else:
        with replacing(figure) as unfinished:
            drawn.savefig(unfinished, dpi=150)
        _say(f"Wrote {out} and {figure}.")


def prune(
    *,
    model: str,
    out: Sequence[Path],
    data: str | None = None,
    loss: str | None = None,
    seed: int = 0,
    imports: Sequence[str] = (),
    **options: Any,
) -> None:
    """Prunes a model and writes it, its masks, and a record of the run: what `out` names."""
    _import(imports)
    keras.utils.set_random_seed(seed)
    network = _open(model, loss=loss)
    samples = None if data is None else _read(data, network, seed, options)
    with held():  # until all is written
        with _unreadable_images_named(samples):
            result = api.prune(network, samples and samples.train, seed=seed, **options)
        for file in out:
            if file.suffix == ".keras":
                _save(network, file)
                continue
            if file.suffix == ".npz":
                result.save(file)
            else:
                _record(result, model, samples, file)
            _say(f"Wrote {file}.")


def train(
    *,
    model: str,
    data: str,
    epochs: int,
    out: Path,
    batch_size: int = 128,
    loss: str | None = None,
    optimizer: str | None = None,
    learning_rate: float | None = None,
    masks: Path | None = None,
    seed: int = 0,
    sparse: bool = False,
    imports: Sequence[str] = (),
) -> None:
    """Trains a model, tests it, and writes it; `sparse`, by the weights that its masks keep alone."""
    found = None if masks is None else PruneResult.load(masks).masks
    _import(imports)
    keras.utils.set_random_seed(seed)
    network = _open(model, loss=loss, optimizer=optimizer)
    if found is not None:
        apply_masks(network, found)
    if sparse:
        network = _sparse(network, batch_size)
    samples = _read(data, network, seed, {"batch_size": batch_size})
    if learning_rate is not None:
        network.optimizer.learning_rate = learning_rate
    with _unreadable_images_named(samples):
        history = network.fit(
            **_batches(samples.train, batch_size),
            shuffle=isinstance(samples.train, tuple),  # images come in random order
            epochs=epochs,
            verbose=1 if sys.stdout.isatty() else 2,
            callbacks=[keras.callbacks.TerminateOnNaN()],
        )
        if not math.isfinite(history.history["loss"][-1]):
            msg = f"training diverged: the loss is {history.history['loss'][-1]}; lower the learning rate"
            raise ValueError(msg)
        if samples.test is None:
            _say(f"There is no test set in {data}.")
        else:
            metrics = network.evaluate(
                **_batches(samples.test, batch_size), verbose=0, return_dict=True
            )
            _say("Test: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    _save(densified(network), out)


def shrink(*, model: str, out: Path, imports: Sequence[str] = ()) -> None:
    """Removes the channels that are zero and writes the smaller model."""
    _import(imports)
    whole = _load(Path(model))
    small = shrinking.shrink(whole)
    if whole.compiled:
        small.compile_from_config(whole.get_compile_config())
    if small.count_params() == whole.count_params():
        _say(f"No channel of {model} is zero: there is nothing to remove.")
    _say(f"Read {_described(whole, Path(model))}.")
    _save(small, out)


def export(*, model: str, out: Path, imports: Sequence[str] = (), **options: Any) -> None:
    """Writes a model, stripped of its masks, for inference."""
    _import(imports)
    exported = exporting.export(_load(Path(model), compile=False), out, **options)
    Console(highlight=False).print(export_table(exported))


def report(*, results: Sequence[Path], out: Path, png: Path | None = None) -> None:
    """Writes a page about results, and its figures if a folder for them is given."""
    written = html_report.report([PruneResult.load(file) for file in results], out, png_folder=png)
    _say(f"Wrote {', '.join(map(str, written))}.")


def info() -> None:
    """Prints what this installation was built with, what it runs on, and whether a GPU is used."""
    table = Table(title="prospr_ops", show_header=False)
    for name, value in build_info().items():
        if isinstance(value, dict):
            for package, version in value.items():
                table.add_row(f"{name}: {package}", str(version))
        else:
            table.add_row(name, ", ".join(value) if isinstance(value, list) else str(value))
    table.add_row("GPU", gpu_use())
    Console(highlight=False).print(table)


def _import(names: Sequence[str]) -> None:
    """Imports files and modules, and makes their classes and functions known to Keras by name.

    Raises:
        ValueError: One does not exist, or raises; the message says what.
    """
    for name in names:
        try:
            if name.endswith(".py"):
                spec = importlib.util.spec_from_file_location(Path(name).stem, name)
                assert spec is not None  # of a .py file there is one
                assert spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                sys.modules[spec.name] = module
                spec.loader.exec_module(module)
            else:
                module = importlib.import_module(name)
        except Exception as error:
            msg = f"--import {name}: {type(error).__name__}: {error}"
            raise ValueError(msg) from error
        keras.saving.get_custom_objects().update(
            {
                key: value
                for key, value in vars(module).items()
                if callable(value) and getattr(value, "__module__", None) == module.__name__
            }
        )


def _open(name: str, *, loss: str | None = None, optimizer: str | None = None) -> keras.Model:
    """A built-in model, or one in a file; with another loss or optimizer if they are given."""
    if name in models.__all__:
        model = getattr(models, name)()
        loss = loss or "sparse_categorical_crossentropy"
    else:
        model = _load(Path(name))
    if loss is None and optimizer is None:
        return model
    settings: dict[str, Any] = {"optimizer": "adam"}
    if model.compiled:
        settings = keras.saving.deserialize_keras_object(model.get_compile_config())
        settings["optimizer"] = model.optimizer  # with its state
    elif loss is not None and loss.lower().endswith("crossentropy"):
        settings["metrics"] = ["accuracy"]
    if loss is not None:
        settings["loss"] = _loss(loss, model)
    if optimizer is not None:
        settings["optimizer"] = optimizer
    model.compile(**settings)
    model.optimizer.build(model.trainable_variables)  # or Keras would miss its state in the file
    return model


def _sparse(model: keras.Model, batch_size: int) -> keras.Model:
    """The model that computes with the kept weights alone, with an optimizer of its own."""
    if model.compiled and model.optimizer.iterations.numpy() > 0:
        _say("The optimizer starts anew: its state is that of other variables.")
    fast = sparsify(model, batch_size=batch_size)
    fast.optimizer.build(fast.trainable_variables)
    return fast


def _load(file: Path, *, compile: bool = True) -> keras.Model:
    if not file.is_file():
        msg = f"there is no file {file}; a model is a .keras file or one of {', '.join(models.__all__)}"
        raise FileNotFoundError(msg)
    if file.suffix == ".keras" and not zipfile.is_zipfile(file):
        msg = f"{file} is no Keras model, or a truncated one"
        raise ValueError(msg)
    try:
        with warnings.catch_warnings():
            # It says that an optimizer has made no step before it was saved, which is not unusual.
            warnings.filterwarnings("ignore", ".* whereas the saved optimizer has 2 variables")
            return saving.load_model(file, compile=compile)
    except Exception as error:
        # Keras and what it reads by raise all kinds; the reason is last, among whole configurations.
        reason = str(error).rpartition("Exception encountered: ")[2] or repr(error)
        reason = re.sub(r"(?m)(^config=|Full object config: ).*$", "", reason)
        msg = f"{file} cannot be loaded as a Keras model: {' '.join(reason.split())}"
        if "Could not" in reason:
            msg += " (--import FILE imports layers, losses and metrics of your own)"
        raise ValueError(msg) from error


def _loss(name: str, model: keras.Model) -> Any:
    """A Keras loss by its name; cross-entropies of logits where the model ends in logits."""
    class_name = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    cross_entropy = getattr(keras.losses, class_name, None)
    if cross_entropy is None or not class_name.endswith("Crossentropy"):
        return keras.losses.get(name)
    return cross_entropy(from_logits=_ends_in_logits(model))


def _ends_in_logits(model: keras.Model) -> bool:
    last: Any = model
    while getattr(last, "outputs", None):  # a model, maybe within one
        last = keras_private.operation_of(last.outputs[0])
    if isinstance(last, keras.layers.Softmax):
        return False
    if not hasattr(last, "activation"):
        msg = (
            f"cannot tell whether {last.name!r}, where model {model.name!r} ends, gives logits or "
            "probabilities: compile the model with its loss and save it again"
        )
        raise ValueError(msg)
    return last.activation is keras.activations.linear


def _read(data: str, model: keras.Model, seed: int, options: dict[str, Any]) -> Samples:
    if not model.compiled or model.loss is None:
        msg = f"model {model.name!r} is not compiled with a loss: add --loss"
        raise ValueError(msg)
    batching = {name: value for name, value in options.items() if name == "batch_size"}
    samples = load_data(data, model, seed=seed, **batching)
    _say(f"Data: {samples.source}.")
    return samples


def _batches(samples: Any, batch_size: int) -> dict[str, Any]:
    """Arguments of `fit` and `evaluate`."""
    if isinstance(samples, tf.data.Dataset):
        return {"x": samples}
    return {"x": samples[0], "y": samples[1], "batch_size": batch_size}


@contextlib.contextmanager
def _unreadable_images_named(samples: Samples | None) -> Iterator[None]:
    """Names the file if an image cannot be read, which TensorFlow does not."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        for part in samples or ():
            for file in getattr(part, "file_paths", ()):
                try:
                    tf.io.decode_image(tf.io.read_file(file))
                except tf.errors.InvalidArgumentError:
                    msg = f"{file} is not an image that TensorFlow can read"
                    raise ValueError(msg) from error
        raise


def _save(model: keras.Model, file: Path) -> None:
    saving.save_model(model, file)
    _say(f"Wrote {_described(model, file)}.")


def _described(model: keras.Model, file: Path) -> str:
    nonzero = sum(int(np.count_nonzero(weight)) for weight in model.get_weights())
    size = file.stat().st_size
    return f"{file}: {model.count_params():,} weights, {nonzero:,} not zero; {size:,} bytes"


def _record(result: PruneResult, model: str, samples: Samples | None, file: Path) -> None:
    record = {
        "model": model,
        "data": samples and samples.source,
        "settings": result.settings,
        "weights": result.weights,
        "kept": {path: int(np.count_nonzero(mask)) for path, mask in result.masks.items()},
        "losses": result.losses,
        "estimators": result.estimators,
        "seconds": result.seconds,
        "build_info": build_info(),
    }
    write_json(file, record)


def _say(text: str) -> None:
    Console(highlight=False, soft_wrap=True).print(text, markup=False)
