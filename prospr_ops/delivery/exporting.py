"""Files for inference: stock Keras, SavedModel, LiteRT and ONNX."""

from __future__ import annotations

import importlib.util
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from rich import box
from rich.table import Table

from prospr_ops.delivery.comparing import forward_pass
from prospr_ops.delivery.copying import check_built
from prospr_ops.delivery.running import check_file
from prospr_ops.delivery.sparsifying import densified
from prospr_ops.delivery.writing import write
from prospr_ops.utils.checks import choose
from prospr_ops.utils.files import replacing
from prospr_ops.utils.tables import percent

# What the file's name has to end in; a SavedModel is a folder.
FORMATS = {"keras": ".keras", "saved_model": "", "litert": ".tflite", "onnx": ".onnx"}


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        path: The file, or the folder of a SavedModel.
        size: Bytes of it.
        compressed: Bytes of its files after DEFLATE, as in a .zip or .gz: what is stored or sent.
        nonzero: Number of weights that are not zero, biases and moving averages included.
        weights: Number of weights.
    """

    path: Path
    size: int
    compressed: int
    nonzero: int
    weights: int


def export(model: keras.Model, path: str | os.PathLike[str], format: str | None = None) -> Exported:
    """Writes a model without its masks, for inference elsewhere.

    The file is opened and run before this returns, on sampled inputs, and must compute what the
    model does: ONNX where onnxruntime is installed. Recurrent layers are unrolled in LiteRT where
    the number of time steps is fixed, as a plain interpreter cannot run them otherwise; a warning
    says where a file needs LiteRT's Flex delegate all the same. A .keras file with a Python lambda
    in it, Keras loads with `safe_mode=False` only.

        po.export(model, "model.tflite")

    Args:
        model: A built Keras model, pruned or not; it is not changed.
        path: What to write: a folder for a SavedModel, else a file. One that exists is replaced,
            at the end; a folder only if it holds a SavedModel or nothing.
        format: "keras" (ends in .keras), "saved_model", "litert" (.tflite) or "onnx" (.onnx); None
            for the one that the end of `path` tells, which is "saved_model" where it has none.

    Returns:
        Where it is and how large: plainly, and compressed, which is where zeros pay.

    Raises:
        FileExistsError: `path` is a folder that holds something else.
        ImportError: ONNX is asked for and the packages of prospr_ops[export] are missing.
        OSError: It cannot be written. What was there before is as it was.
        TypeError: `model` is no Keras model; for a .keras file also as for `strip`.
        ValueError: The model is not built, the format is unknown, the path does not end as it must,
            the model cannot be written in the format, or the file does not run or computes
            something else. What was there before is as it was.

    Examples:
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> result = po.prune(model, None, sparsity=0.9, method="magnitude", verbose=0)
        >>> exported = po.export(model, "model.keras")
        >>> exported.nonzero, exported.weights  # the biases are zero at initialisation
        (3270, 33103)
    """
    path = Path(path)
    if format is None:
        endings = {ending: name for name, ending in FORMATS.items()}
        if path.suffix not in endings:
            msg = f"the end of {path} tells no format; it can be {', '.join(filter(None, endings))}"
            raise ValueError(msg)
        format = endings[path.suffix]
    choose("format", format, FORMATS)
    if FORMATS[format] and path.suffix != FORMATS[format]:
        msg = f"the name of a file in the format {format} must end in {FORMATS[format]}, got {path}"
        raise ValueError(msg)
    if format == "onnx" and not importlib.util.find_spec("tf2onnx"):
        msg = "the format onnx needs tf2onnx: pip install 'prospr_ops[export]'"
        raise ImportError(msg)
    if path.is_dir() and any(path.iterdir()) and not (path / "saved_model.pb").is_file():
        msg = f"{path} is a folder that holds no SavedModel; it is left as it is"
        raise FileExistsError(msg)
    check_built(model)
    model = densified(model)
    sample = forward_pass(model, "export")
    with replacing(path) as unfinished:
        write(model, unfinished, format)
        check_file(model, unfinished, format, sample)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return Exported(
        path=path,
        size=sum(file.stat().st_size for file in files),
        compressed=sum(len(zlib.compress(file.read_bytes(), 9)) for file in files),
        nonzero=sum(int(np.count_nonzero(weight)) for weight in model.get_weights()),
        weights=model.count_params(),
    )


def export_table(exported: Exported) -> Table:
    """Tabulates how large an exported model is, plainly and compressed."""
    table = Table(title=str(exported.path), box=box.SIMPLE_HEAD, show_header=False, show_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("size", f"{exported.size:,} bytes")
    table.add_row("compressed", f"{exported.compressed:,} bytes")
    table.add_row("weights", f"{exported.weights:,}")
    share = percent(exported.nonzero / exported.weights)
    table.add_row("not zero", f"{exported.nonzero:,} ({share})")
    return table
