"""The kernels of the CPU and of the GPU on arrays: libkernels.so (kernels.cc) through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

_POINTER, _COUNT, _TIMES = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_ON = [ctypes.c_int, ctypes.c_bool, _TIMES]  # type, on_gpu, times
_ARGUMENTS = {
    "gpu_allocate": [_POINTER, _COUNT],
    "gpu_release": [_POINTER],
    "gpu_transfer": [_POINTER, _POINTER, _COUNT],
    "gpu_copy": [_TIMES, _POINTER, _POINTER, _COUNT],
    "gpu_synchronise": [],
    "gpu_repeat_pattern": [_POINTER, _COUNT, _COUNT],
    "gpu_differences": [_POINTER, _POINTER, _COUNT, _COUNT, _POINTER],
    "run_gamma": [ctypes.c_char_p, *_ON, _COUNT, _POINTER, ctypes.c_double, ctypes.c_double],
    "run_select": [*_ON, _COUNT, _POINTER, _POINTER, _COUNT, ctypes.c_bool],
    "run_normalisation": [ctypes.c_char_p, *_ON, _COUNT, _COUNT, _POINTER],
    "run_pooling": [ctypes.c_char_p, *_ON, *[_POINTER] * 4],
    "run_contraction": [*_ON, *[_POINTER] * 6],
    "run_input_gradient": [*_ON, *[_POINTER] * 6],
    "run_embedding": [*_ON, _POINTER, ctypes.c_bool, *[_POINTER] * 3],
}


class KernelError(RuntimeError):
    """What a kernel, or the CUDA runtime, said."""


class Type(NamedTuple):
    """A dtype of the kernels.

    Attributes:
        name: As in TensorFlow.
        number: As in kernels.cc.
        storage: NumPy's dtype; bfloat16 is kept as the upper half of a float32.
        sums: The dtype of sums.
    """

    name: str
    number: int
    storage: np.dtype
    sums: np.dtype

    def narrow(self, values: np.ndarray) -> np.ndarray:
        """Values that this type represents exactly, in this type."""
        if self.name == "bfloat16":
            return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return values.astype(self.storage)


def _type(name: str, number: int, storage: str, sums: str) -> Type:
    return Type(name, number, np.dtype(storage), np.dtype(sums))


TYPES = [
    _type("float32", 0, "float32", "float32"),
    _type("float64", 1, "float64", "float64"),
    _type("float16", 2, "float16", "float32"),
    _type("bfloat16", 3, "uint16", "float32"),
]
REAL = TYPES[:2]


class Kernels:
    """The library."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        for name, types in _ARGUMENTS.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = ctypes.c_char_p, types
        self._library.gpu_free_bytes.restype = ctypes.c_int64
        self._library.gpu_milliseconds.restype = ctypes.c_float

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function by its name.

        Raises:
            KernelError: It returned what went wrong.
        """
        if wrong := getattr(self._library, name)(*arguments):
            message = f"{name}: {wrong.decode()}"
            raise KernelError(message)

    def free_bytes(self) -> int:
        """The device's free memory."""
        return self._library.gpu_free_bytes()

    def milliseconds(
        self, run: Callable[[int], Any], *, times: int = 1, rounds: int = 9, warmup: int = 3
    ) -> float:
        """The median time of one of `times` runs that follow one another; `run` starts them all."""
        for _ in range(warmup):
            run(times)
        self.call("gpu_synchronise")
        found = []
        for _ in range(rounds):
            self._library.gpu_start()
            run(times)
            found.append(self._library.gpu_milliseconds() / times)
        return median(found)

    def array(self, values: np.ndarray) -> Array:
        """A copy in the device's memory."""
        array = Array(self, values.nbytes)
        array.write(values)
        return array


class Array:
    """Memory of the device, freed with this object."""

    def __init__(self, kernels: Kernels, size: int) -> None:
        self._kernels, self.bytes = kernels, size
        pointer = ctypes.c_void_p()
        kernels.call("gpu_allocate", ctypes.byref(pointer), max(size, 1))
        self.pointer = pointer.value

    def __del__(self) -> None:  # noqa: D105 - what the class says
        if pointer := getattr(self, "pointer", None):
            self._kernels.call("gpu_release", pointer)

    def write(self, values: np.ndarray, *, repeat: bool = False) -> None:
        """Writes values to its beginning, and where asked again and again until its end."""
        values = np.ascontiguousarray(values)
        count = min(values.nbytes, self.bytes)
        self._kernels.call("gpu_transfer", self.pointer, values.ctypes.data, count)
        if repeat:
            self._kernels.call("gpu_repeat_pattern", self.pointer, count, self.bytes)

    def read(self, dtype: np.dtype | type = np.uint8) -> np.ndarray:
        """A copy in the host's memory."""
        values = np.empty(self.bytes // np.dtype(dtype).itemsize, dtype)
        self._kernels.call("gpu_transfer", values.ctypes.data, self.pointer, self.bytes)
        return values

    def differences(self, pattern: np.ndarray, begin: int = 0, end: int | None = None) -> int:
        """How many bytes of [begin, end) differ from a pattern that is repeated from begin on."""
        size = (self.bytes if end is None else end) - begin
        if size <= 0:
            return 0
        wanted, count = self._kernels.array(pattern), self._kernels.array(np.zeros(1, np.uint64))
        self._kernels.call(
            "gpu_differences",
            self.pointer + begin, wanted.pointer, wanted.bytes, size, count.pointer,
        )  # fmt: skip
        return int(count.read(np.uint64)[0])


def pointers(arrays: list[Array | np.ndarray | None]) -> Any:
    """Their addresses as an array of C; None is a null pointer."""
    return (ctypes.c_void_p * len(arrays))(*[address(array) for array in arrays])


def address(array: Array | np.ndarray | None) -> int | None:
    """Of the device's memory or the host's."""
    if array is None:
        return None
    return array.pointer if isinstance(array, Array) else array.ctypes.data
