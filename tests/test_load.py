from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

import prospr_ops as po
from prospr_ops import _load


def test_build_info():
    info = po.build_info()
    assert info["version"] == po.__version__
    assert info["tensorflow"] == tf.__version__ == info["running"]["tensorflow"]
    assert info["instruction_set"] in info["instruction_sets"]
    assert info["instruction_sets"][0] == "baseline"
    assert info["cuda"] is False


def test_another_tensorflow_is_refused_with_a_sentence():
    _load.check_tensorflow("2.21.0", "2.21.1")
    with pytest.raises(
        ImportError,
        match=r"built with TensorFlow 2\.21\.0, but TensorFlow 2\.22\.0 is running\. Re",
    ):
        _load.check_tensorflow("2.21.0", "2.22.0")


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


def test_source_folder_without_the_build_says_what_to_do(tmp_path):
    """As when Python starts in the repository and the package was never installed."""
    package = tmp_path / "prospr_ops"
    package.mkdir()
    (package / "__init__.py").write_text("from prospr_ops import _load")
    (package / "_load.py").write_text(Path(_load.__file__).read_text())
    # -S hides the installed package, and with it every dependency; those are stood in for.
    stand_ins = "import sys, types\nfor n in ('keras', 'numpy', 'tensorflow'): "
    code = stand_ins + "sys.modules[n] = types.ModuleType(n)\nimport prospr_ops"
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "prospr_ops is not built" in result.stderr
    assert "pip install -e ." in result.stderr
