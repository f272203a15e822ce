"""Build information. Imports no TensorFlow."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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
    """Compares the TensorFlow that the ops were built against with the running one.

    Raises:
        ImportError: The major or minor versions differ, and so the C++ interfaces.
    """
    if built.split(".")[:2] != running.split(".")[:2]:
        msg = (
            f"prospr_ops was built with TensorFlow {built}, but TensorFlow {running} is running. "
            "Rebuild it against this one ('pip install --no-build-isolation --force-reinstall "
            "--no-deps .' in its source folder), or install the TensorFlow it was built with "
            f"('pip install tensorflow~={built}')."
        )
        raise ImportError(msg)


def check_installed_tensorflow() -> None:
    """`check_tensorflow` on the installed version, without importing TensorFlow.

    Raises:
        ImportError: The major or minor versions differ, and so the C++ interfaces.
    """
    try:
        installed = version("tensorflow")
    except PackageNotFoundError:
        return  # maybe under another name; the running one is checked when the ops are loaded
    check_tensorflow(_native.build_info()["tensorflow"], installed)


def build_info() -> dict[str, Any]:
    """What this installation was built with and what it runs on.

    Returns:
        A dictionary: "version" of prospr_ops; "tensorflow", the version built against; "compiler";
        "cuda", whether CUDA kernels were built in; "cuda_architectures", their targets ("sm_90" is
        machine code for compute capability 9.0, "compute_90" is PTX for it and newer ones);
        "cuda_compiler"; "instruction_sets", those available here; "instruction_set", the one in
        use; and "running", the installed versions of Python and its packages.

    Examples:
        >>> import prospr_ops as po
        >>> po.build_info()["version"] == po.__version__
        True
    """
    running = {"python": platform.python_version()}
    for package in ("tensorflow", "keras", "numpy"):
        try:
            running[package] = version(package)
        except PackageNotFoundError:
            running[package] = "not installed under this name"
    return {**_native.build_info(), "running": running}
