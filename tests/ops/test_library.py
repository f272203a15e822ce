from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

import prospr_ops as po
from prospr_ops.ops import _library
from prospr_ops.utils import build


def test_build_info():
    info = po.build_info()
    assert info["version"] == po.__version__
    assert info["tensorflow"] == tf.__version__ == info["running"]["tensorflow"]
    assert info["instruction_set"] in info["instruction_sets"]
    assert info["instruction_sets"][0] == "baseline"
    assert info["cuda"] is bool(info["cuda_architectures"]) is bool(info["cuda_compiler"])


# Where there is a GPU, batch normalisation and max-pooling are TensorFlow's own; sparse training is for
# CPUs.
CPU_ONLY = {
    "Prospr_BlockMoments",
    "Prospr_BlockNorm",
    "Prospr_BlockNormGradient",
    "Prospr_FromBlocks",
    "Prospr_GatherPooled",
    "Prospr_MaxPool",
    "Prospr_MaxUnpool",
    "Prospr_SparseConv",
    "Prospr_SparseConvFilterGradient",
    "Prospr_SparseConvInputGradient",
    "Prospr_ToBlocks",
}


def test_every_op_has_a_kernel_for_every_device_it_was_built_for():
    ops = [name for name in dir(_library.library) if name.startswith("Prospr_")]
    assert ops
    for op in ops:
        found = kernels.get_registered_kernels_for_op(op.replace("_", ">")).kernel
        types = {
            device: {str(kernel.constraint) for kernel in found if kernel.device_type == device}
            for device in ("CPU", "GPU")
        }
        assert types["CPU"]
        has_gpu = po.build_info()["cuda"] and op not in CPU_ONLY
        assert types["GPU"] == (types["CPU"] if has_gpu else set())


def test_another_tensorflow_is_refused_with_a_sentence():
    build.check_tensorflow("2.21.0", "2.21.1")
    with pytest.raises(
        ImportError,
        match=r"built with TensorFlow 2\.21\.0, but TensorFlow 2\.22\.0 is running\. Re",
    ):
        build.check_tensorflow("2.21.0", "2.22.0")


def _python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("wanted", ["baseline", "none-such"])
def test_instruction_set_can_be_lowered_from_outside(wanted):
    shown = _python(
        "from prospr_ops import _native; print(_native.build_info()['instruction_set'])",
        Path.cwd(),
        PROSPR_INSTRUCTION_SET=wanted,
    )
    best = po.build_info()["instruction_sets"][-1]
    assert shown.stdout.strip() == (wanted if wanted == "baseline" else best), shown.stderr


# What `import prospr_ops` imports.
NEEDED = [
    ("network", "__init__"),
    ("network", "registration"),
    ("utils", "__init__"),
    ("utils", "build"),
]


def test_source_folder_without_the_build_says_what_to_do(tmp_path):
    """As when Python starts in the repository and the package was never installed."""
    package = tmp_path / "prospr_ops"
    package.mkdir()
    source = Path(po.__file__).parent
    for name in ("__init__.py", *(f"{room}/{file}.py" for room, file in NEEDED)):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text((source / name).read_text())
    # -S hides the installed package.
    command = [sys.executable, "-S", "-c", "import prospr_ops"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "prospr_ops is not built" in result.stderr
    assert "pip install -e ." in result.stderr


def test_importing_does_not_import_tensorflow():
    code = "import sys, prospr_ops, prospr_ops.cli; print('tensorflow' in sys.modules)"
    result = _python(code, Path.cwd())
    assert result.stdout.strip() == "False", result.stderr


def test_every_public_name_is_there():
    for name in po.__all__:
        assert getattr(po, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        _ = po.prunes


def test_another_keras_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ImportError, match="needs Keras on TensorFlow, but its backend is 'jax'"):
        _library._load()
