"""Delivered files, run in a process where prospr_ops cannot be imported."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

_CODE = """
import pickle, sys
sys.modules["prospr_ops"] = None  # any import of it fails
import keras, numpy as np, tensorflow as tf

def run(path, x):
    if path.endswith(".keras"):
        model = keras.saving.load_model(path, safe_mode=False)
        return model(keras.tree.map_structure(tf.convert_to_tensor, x))
    if path.endswith(".tflite"):
        from ai_edge_litert.interpreter import Interpreter
        runner = Interpreter(path).get_signature_runner()
        names = list(runner.get_input_details())
        (output,) = runner(**(x if isinstance(x, dict) else {names[0]: x})).values()
        return output
    if path.endswith(".onnx"):
        import onnxruntime
        session = onnxruntime.InferenceSession(path)
        names = [given.name for given in session.get_inputs()]
        return session.run(None, x if isinstance(x, dict) else {names[0]: x})[0]
    loaded = tf.saved_model.load(path)
    return loaded.serve(keras.tree.map_structure(tf.convert_to_tensor, x))

with open(sys.argv[1], "rb") as file:
    x = pickle.load(file)
outputs = {path: np.asarray(run(path, x)) for path in sys.argv[3:]}
with open(sys.argv[2], "wb") as file:
    pickle.dump(outputs, file)
"""


def predictions(folder: Path, x: Any, paths: list[Path]) -> dict[Path, np.ndarray]:
    """What each file predicts; `folder` takes the arrays on their way."""
    given, found = folder / "given.pickle", folder / "found.pickle"
    given.write_bytes(pickle.dumps(x))
    command = [sys.executable, "-c", _CODE, str(given), str(found), *map(str, paths)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    outputs = pickle.loads(found.read_bytes())
    return {path: outputs[str(path)] for path in paths}
