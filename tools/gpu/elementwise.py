"""Batch normalisation and max-pooling against the CPU's kernels, how long each takes, and PyTorch's.

    python elementwise.py LIBRARY [--tiny]

Prints a line of JSON per result, as it is found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cases import REAL_SIZES, TINY_SIZES, Sizes
from compare import compare, missing, torch
from kernels import REAL, Array, Kernels, Type, address, pointers
from measure import check, emit, timing

# In the order of run_normalisation of kernels.cc. The last four are results.
NORMALISATION_ARRAYS = [
    *("x", "y_gradient", "u", "scale", "offset", "u_scale", "u_offset", "moments"),
    *("first", "second", "by_channel", "also_by_channel"),
]
WINDOW = 2
# Of the largest element, as in tests/cuda/normalisation.cc.
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


class Kernel(NamedTuple):
    """A kernel of these families.

    Attributes:
        name: The op's.
        results: The arrays that it writes.
        bytes: What it moves per element of an image, in float32.
        exact: Whether its results are the CPU's to the bit.
    """

    name: str
    results: list[str]
    bytes: float
    exact: bool


# Sums read what they are of once, and what is computed of the elements reads it once more.
NORMALISATION = [
    Kernel("BatchMoments", ["moments", "by_channel", "also_by_channel"], 4, False),
    Kernel("BatchNorm", ["first"], 8, False),
    Kernel("BatchNormGradient", ["first", "by_channel", "also_by_channel"], 20, False),
    Kernel("BatchNormSecondGradient", ["first", "second", "by_channel"], 32, False),
]
# A value and a byte per window of 2 × 2. GatherPooled reads all of an image, as channels side by side
# take different elements.
POOLING = [
    Kernel("MaxPool", ["values", "positions"], 4 + 5 / 4, True),
    Kernel("MaxUnpool", ["image"], 4 + 5 / 4, True),
    Kernel("GatherPooled", ["values"], 4 + 5 / 4, True),
]


class Images:
    """Images of channels, and all arrays of both families for them in a type."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: Type) -> None:
        self.shape, self.dtype = shape, dtype
        random = np.random.default_rng(6)
        n, height, width, channels = shape
        pooled = n * (height // WINDOW) * (width // WINDOW) * channels

        def normal(size: int) -> np.ndarray:
            return random.standard_normal(size).astype(dtype.storage)

        size = n * height * width * channels
        self.arrays = {name: normal(size) for name in ("x", "y_gradient", "u", "image")}
        self.arrays |= {
            name: normal(channels) for name in ("scale", "offset", "u_scale", "u_offset")
        }
        rows = self.arrays["x"].reshape(-1, channels).astype(np.float64)
        self.arrays["moments"] = np.stack([rows.mean(0), rows.var(0)])
        self.arrays |= dict.fromkeys(("first", "second"), np.zeros(size, dtype.storage))
        self.arrays |= dict.fromkeys(
            ("by_channel", "also_by_channel"), np.zeros(channels, dtype.storage)
        )
        self.arrays["values"] = normal(pooled)
        self.arrays["positions"] = random.integers(0, WINDOW**2, pooled, np.uint8)

    @property
    def name(self) -> str:
        """As in a table."""
        n, height, width, channels = self.shape
        return f"{n} × {height}×{width} pixels × {channels}"

    def run(self, kernels: Kernels, kernel: Kernel, arrays: dict[str, Any], **on: Any) -> None:
        """Runs a kernel on the arrays of a device."""
        device = (self.dtype.number, on.get("gpu", True), on.get("times", 1))
        name = kernel.name.encode()
        if kernel in NORMALISATION:
            rows, channels = int(np.prod(self.shape[:3])), self.shape[3]
            given = pointers([arrays[name] for name in NORMALISATION_ARRAYS])
            kernels.call("run_normalisation", name, *device, rows, channels, given)
            return
        windows = np.array([*self.shape, WINDOW, WINDOW], np.int64)
        given = [address(arrays[name]) for name in ("image", "positions", "values")]
        kernels.call("run_pooling", name, *device, windows.ctypes.data, *given)

    def on_gpu(self, kernels: Kernels) -> dict[str, Array]:
        """The arrays on the device."""
        return {name: kernels.array(values) for name, values in self.arrays.items()}


def differences(images: Images, kernels: Kernels, kernel: Kernel) -> str:
    """What differs from the CPU's results, or between two runs."""
    wanted = {name: values.copy() for name, values in images.arrays.items()}
    images.run(kernels, kernel, wanted, gpu=False)
    found: list[dict[str, np.ndarray]] = []
    for _ in range(2):
        arrays = images.on_gpu(kernels)
        images.run(kernels, kernel, arrays)
        found.append({name: arrays[name].read(wanted[name].dtype) for name in kernel.results})
    for name in kernel.results:
        got, again, right = (values[name].ravel() for values in (*found, wanted))
        if got.tobytes() != again.tobytes():
            return f"{name}: not the same bits twice"
        if kernel.exact and got.tobytes() != right.tobytes():
            return f"{name}: not the CPU's bits"
        tolerance = TOLERANCE[images.dtype.name] * np.abs(right).max(initial=1)
        if not np.all(np.abs(got - right) <= tolerance):
            return f"{name}: differs by {np.abs(got - right).max()}, more than {tolerance}"
    return ""


def in_pytorch(images: Images, kernels: Kernels, sizes: Sizes, ours: dict[str, float],
               device: str) -> None:  # fmt: skip
    """PyTorch's normalisation and pooling in the same layout, forwards, and both ways."""
    x = torch.from_numpy(images.arrays["x"]).to(device).reshape(images.shape)
    x = x.permute(0, 3, 1, 2).requires_grad_()  # channels last in memory
    gradient = torch.ones_like(x)
    few = torch.ones_like(x[:, :, WINDOW - 1 :: WINDOW, WINDOW - 1 :: WINDOW])

    def normalised() -> Any:
        return torch.nn.functional.batch_norm(x, None, None, training=True)

    def pooled() -> Any:
        return torch.nn.functional.max_pool2d(x, WINDOW)

    def both_ways(forward: Callable[[], Any], by: Any) -> Callable[[], Callable[[], str]]:
        return lambda: lambda: torch.autograd.grad(forward(), x, by) is None or ""

    def forwards(forward: Callable[[], Any]) -> Callable[[], Callable[[], str]]:
        @torch.no_grad()
        def run() -> str:
            return forward() is None or ""

        return lambda: run

    norm, pool = ours["BatchMoments"] + ours["BatchNorm"], ours["MaxPool"]
    size = int(np.prod(images.shape))
    for work, milliseconds, other, run, moved in (
        ("BatchMoments, BatchNorm", norm, "PyTorch, batch_norm", forwards(normalised), 12),
        ("the same and BatchNormGradient", norm + ours["BatchNormGradient"],
         "PyTorch, batch_norm and its gradient", both_ways(normalised, gradient), 32),
        ("MaxPool", pool, "PyTorch, max_pool2d", forwards(pooled), 5.25),
        ("MaxPool, MaxUnpool", pool + ours["MaxUnpool"],
         "PyTorch, max_pool2d and its gradient", both_ways(pooled, few), 10.5),
    ):  # fmt: skip
        compare(f"{work}, float32", images.name, milliseconds, other, run, kernels=kernels,
                sizes=sizes, bytes=moved * size)  # fmt: skip


def main() -> None:
    """All of both families."""
    library, *tiny = sys.argv[1:]
    sizes, kernels = TINY_SIZES if tiny else REAL_SIZES, Kernels(Path(library))
    for shape in sizes.images:
        for dtype in REAL:
            images = Images(shape, dtype)
            ours = {}
            for kernel in (*NORMALISATION, *POOLING):
                check(
                    kernel.name, dtype.name, images.name,
                    lambda i=images, k=kernel: differences(i, kernels, k),
                )  # fmt: skip
                arrays = images.on_gpu(kernels)
                ours[kernel.name] = timing(
                    kernels, sizes,
                    lambda n, i=images, k=kernel, a=arrays: i.run(kernels, k, a, times=n),
                )  # fmt: skip
                moved = kernel.bytes * np.prod(shape) * dtype.storage.itemsize / 4
                emit("timing", kernel=kernel.name, dtype=dtype.name, case=images.name,
                     milliseconds=ours[kernel.name], bytes=moved, flop=0)  # fmt: skip
            if dtype.name == "float32" and torch is not None:
                in_pytorch(images, kernels, sizes, ours, "cpu" if tiny else "cuda")
    if torch is None:
        missing("normalisation and pooling", "PyTorch")


if __name__ == "__main__":
    main()
