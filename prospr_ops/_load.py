"""Finds and loads the compiled op library, and explains every way that can fail."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

try:
    from prospr_ops import _native
except ImportError as error:
    msg = (
        "prospr_ops is not built: its compiled part (prospr_ops._native) was not found beside "
        f"{Path(__file__).parent}, or does not load ({error}). Install it with 'pip install .' and "
        "start Python outside the source folder, or install it with 'pip install -e .'."
    )
    raise ImportError(msg) from error


def check_tensorflow(built: str, running: str) -> None:
    """Compares the TensorFlow that the ops were built against with the one that runs.

    Raises:
        ImportError: The two differ in their major or minor version: their C++ interfaces differ.
    """
    if built.split(".")[:2] != running.split(".")[:2]:
        msg = (
            f"prospr_ops was built with TensorFlow {built}, but TensorFlow {running} is running. "
            "Rebuild it against this one ('pip install --no-build-isolation --force-reinstall "
            "--no-deps .' in its source folder), or install the TensorFlow it was built with "
            f"('pip install tensorflow~={built}')."
        )
        raise ImportError(msg)


def load_ops() -> ModuleType:
    """Loads the op library that was installed beside the native module.

    Raises:
        ImportError: Another TensorFlow or Keras backend runs, or the library does not load.
    """
    check_tensorflow(_native.build_info()["tensorflow"], tf.__version__)
    if keras.backend.backend() != "tensorflow":
        msg = (
            f"prospr_ops needs Keras on TensorFlow, but its backend is {keras.backend.backend()!r}; "
            "set the environment variable KERAS_BACKEND=tensorflow before Keras is imported."
        )
        raise ImportError(msg)
    assert _native.__file__ is not None
    library = Path(_native.__file__).with_name("_prospr_ops.so")
    try:
        return tf.load_op_library(str(library))
    except (tf.errors.OpError, OSError) as error:
        msg = f"the op library {library} does not load into TensorFlow {tf.__version__}: {error}"
        raise ImportError(msg) from error


def build_info() -> dict[str, Any]:
    """Says what this installation was built with and what it runs on.

    Returns:
        A dictionary: "version" of prospr_ops; "tensorflow", the version built against; "compiler";
        "cuda", whether CUDA kernels were built in; "instruction_sets", those available here;
        "instruction_set", the one in use; and under "running" the versions found at run time.
    """
    return {
        **_native.build_info(),
        "running": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
            "rich": importlib.metadata.version("rich"),
        },
    }
