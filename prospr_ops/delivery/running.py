"""Written files, opened and run as their receivers will run them."""

from __future__ import annotations

import importlib
import importlib.util
import re
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from prospr_ops.delivery.comparing import FILE, Pass, arrays, difference, outputs_of, rounding
from prospr_ops.delivery.copying import described, own_objects
from prospr_ops.network import keras_private


def check_file(model: keras.Model, file: Path, format: str, sample: Pass | None) -> None:
    """Opens a written file, runs it, and compares it with its model.

    A LiteRT file that needs TensorFlow's own operations is not run: a warning says what it needs.

    Args:
        model: The model that was written.
        file: The file, or the folder of a SavedModel.
        format: One of `FORMATS` of `prospr_ops.delivery.exporting`.
        sample: A forward pass of the model; None to open the file and no more.

    Raises:
        ValueError: It does not open or run, or computes something else.
    """
    if format == "litert" and (flex := flex_operations(file)):
        warnings.warn(f"export: {_about_flex(model, flex)}", stacklevel=4)
        return
    try:
        found = _RUNTIMES[format](model, file, sample)
    except Exception as error:  # from another library's runtime
        msg = f"model {model.name!r} cannot be exported to {format}: the file does not run: "
        raise ValueError(msg + described(error).replace(str(file), "the file")) from error
    if sample is None or found is None:
        return
    want = sample.outputs
    if sample.draws:  # and a runtime draws something else: no more than shapes is compared
        want, found = ([np.zeros_like(values) for values in outputs] for outputs in (want, found))
    different = difference(want, found, rounding(model, FILE))
    if different:
        msg = f"model {model.name!r} cannot be exported to {format}: in the file {different}"
        raise ValueError(msg)


def _run_keras(model: keras.Model, file: Path, sample: Pass | None) -> list[np.ndarray] | None:
    with own_objects(model):
        loaded = keras.saving.load_model(file, compile=False, safe_mode=False)
    return outputs_of(loaded, sample.inputs) if sample else None


def _run_saved_model(_: keras.Model, file: Path, sample: Pass | None) -> list[np.ndarray] | None:
    loaded = tf.saved_model.load(file)  # held on to while it runs
    if sample is None:
        return None
    return arrays(loaded.serve(*keras.tree.map_structure(tf.convert_to_tensor, sample.inputs)))


def _run_litert(model: keras.Model, file: Path, sample: Pass | None) -> list[np.ndarray] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf.lite tells of its successor
        found = importlib.util.find_spec("ai_edge_litert") is not None
        lite: Any = importlib.import_module("ai_edge_litert.interpreter") if found else tf.lite
        runner = lite.Interpreter(str(file)).get_signature_runner()
    if sample is None:
        return None
    values = keras.tree.flatten(sample.inputs)
    structure = keras_private.input_structure(model)
    names = [] if structure is None else [tensor.name for tensor in keras.tree.flatten(structure)]
    given = runner.get_input_details()
    if set(names) != set(given):  # those of a subclassed model are counted
        names = sorted(given, key=_counted)
    outputs = runner(
        **{
            name: value.astype(given[name]["dtype"])
            for name, value in zip(names, values, strict=True)
        }
    )
    return [outputs[name] for name in sorted(outputs, key=_counted)]


def _run_onnx(_: keras.Model, file: Path, sample: Pass | None) -> list[np.ndarray] | None:
    if importlib.util.find_spec("onnxruntime") is None:
        importlib.import_module("onnx").checker.check_model(str(file))
        warnings.warn("export: onnxruntime is not installed, so the file was not run", stacklevel=5)
        return None
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    if sample is None:
        return None
    values = keras.tree.flatten(sample.inputs)
    names = [given.name for given in session.get_inputs()]
    if len(names) != len(values):
        msg = f"it takes the inputs {names}, and the model {len(values)}"
        raise ValueError(msg)
    return session.run(None, dict(zip(names, values, strict=True)))


_RUNTIMES = {
    "keras": _run_keras,
    "saved_model": _run_saved_model,
    "litert": _run_litert,
    "onnx": _run_onnx,
}


def _counted(name: str) -> list[Any]:
    """Orders output_2 before output_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def flex_operations(file: Path) -> dict[str, list[str]]:
    """Operations of a LiteRT file that only TensorFlow has: the names of their tensors by name."""
    schema = importlib.import_module("tensorflow.lite.python.schema_py_generated")
    model = schema.Model.GetRootAs(file.read_bytes(), 0)
    found: dict[str, list[str]] = {}
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for operator in map(graph.Operators, range(graph.OperatorsLength())):
            custom = model.OperatorCodes(operator.OpcodeIndex()).CustomCode()
            if custom and custom.startswith(b"Flex"):
                tensors = found.setdefault(custom.decode(), [])
                tensors += [
                    graph.Tensors(operator.Outputs(number)).Name().decode()
                    for number in range(operator.OutputsLength())
                ]
    return found


def _about_flex(model: keras.Model, flex: dict[str, list[str]]) -> str:
    parts = {part for tensors in flex.values() for tensor in tensors for part in tensor.split("/")}
    layers = [
        layer
        for layer in keras_private.all_layers(model)
        if not isinstance(layer, keras.Model)
        and any(re.fullmatch(rf"{re.escape(layer.name)}(_\d+)?", part) for part in parts)
    ]
    names = ", ".join(dict.fromkeys(repr(layer.name) for layer in layers)) or "its layers"
    recurrent = any(hasattr(layer, "unroll") for layer in layers)
    way_out = (
        "make them with unroll=True and a fixed number of time steps, or " if recurrent else ""
    )
    return (
        f"the LiteRT file of model {model.name!r} needs the Flex delegate, which a plain interpreter "
        f"lacks, for {', '.join(sorted(flex))} (of {names}), and was not run: {way_out}export to "
        "another format"
    )
