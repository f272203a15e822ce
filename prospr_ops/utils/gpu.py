"""Whether a GPU will be used, and if not, why."""

from __future__ import annotations

import ctypes
import os
import re
from typing import NamedTuple

import tensorflow as tf

from prospr_ops import _native


class Driver(NamedTuple):
    """What NVIDIA's driver says.

    Attributes:
        cuda: The major version of the newest CUDA that it runs.
        gpus: How many GPUs it sees.
    """

    cuda: int
    gpus: int


def find_driver() -> Driver | None:
    """Asks NVIDIA's driver, if there is one."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version, gpus = ctypes.c_int(0), ctypes.c_int(0)
    library.cuDriverGetVersion(ctypes.byref(version))
    if library.cuInit(0) == 0:
        library.cuDeviceGetCount(ctypes.byref(gpus))
    return Driver(version.value // 1000, gpus.value)


def gpu_use() -> str:
    """Says whether a GPU will be used: "yes" and which, or "no" and everything in the way.

    Examples:
        >>> from prospr_ops.utils.gpu import gpu_use
        >>> gpu_use().split(":")[0] in ("yes", "no")
        True
    """
    build = _native.build_info()
    tensorflow_has_cuda = tf.test.is_built_with_cuda()
    driver = find_driver()
    gpus = tf.config.list_physical_devices("GPU")
    reasons = []
    if not build["cuda"]:
        reasons.append(
            "prospr_ops was built without CUDA kernels (where nvcc is found, it has them)"
        )
    if not tensorflow_has_cuda:
        reasons.append("TensorFlow was built without CUDA (pip install 'tensorflow[and-cuda]')")
    if driver is None:
        reasons.append("there is no NVIDIA driver (libcuda.so.1 was not found)")
    elif not driver.gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
        reasons.append(f"the NVIDIA driver sees no GPU{hidden}")
    else:
        if tensorflow_has_cuda and not gpus:
            reasons.append(
                "the NVIDIA driver sees a GPU, but TensorFlow does not: it may lack CUDA's libraries "
                "(pip install 'tensorflow[and-cuda]')"
            )
        if build["cuda"] and driver.cuda < _major(build["cuda_compiler"]):
            reasons.append(
                f"the NVIDIA driver runs CUDA {driver.cuda}, but the kernels were built with CUDA "
                f"{_major(build['cuda_compiler'])} (install a newer driver)"
            )
    if reasons:
        return f"no: {'; '.join(reasons)}"
    details = tf.config.experimental.get_device_details(gpus[0])
    name, capability = details.get("device_name", gpus[0].name), details.get("compute_capability")
    if capability is not None:
        name = f"{name}, compute capability {'.'.join(map(str, capability))}"
        if not any(_runs_on(capability, target) for target in build["cuda_architectures"]):
            return f"no: the kernels were built for {', '.join(build['cuda_architectures'])}, not for {name}"
    return f"yes: {name}"


def _major(compiler: str) -> int:
    """Of "NVIDIA 13.0.88"."""
    found = re.search(r"(\d+)\.", compiler)
    return int(found[1]) if found else 0


def _runs_on(capability: tuple[int, int], target: str) -> bool:
    """Machine code runs within its generation, PTX on what is newer too."""
    kind, number = target.split("_")
    built = divmod(int(number.rstrip("abcdefghijklmnopqrstuvwxyz")), 10)
    return built <= capability and (kind == "compute" or built[0] == capability[0])
