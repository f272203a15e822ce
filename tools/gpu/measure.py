"""Every kernel against the CPU's, on layers and beyond 2³¹ elements, and how long each takes.

    python measure.py LIBRARY layers | times | large [--tiny]

Prints a line of JSON per result, as it is found.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from cases import COLUMNS, GAMMA_BYTES, REAL_SIZES, SELECT_BYTES, TINY_SIZES, Layer, Sizes
from kernels import REAL, TYPES, Array, KernelError, Kernels, Type, address, pointers

RATE, MOMENTUM = 0.1, 0.9
# As in run_gamma of kernels.cc.
GAMMA_ARRAYS = ["weight", "velocity", "log", "p", "q", "gradient", "curvature", "sign", "finite"]
GAMMA_USES = {
    "GammaUpdate": ["log", "curvature", "sign"],
    "GammaStep": ["weight", "log", "gradient", "curvature", "sign", "finite"],
    "GammaMomentumStep": [name for name in GAMMA_ARRAYS if name != "sign"],
}
# Of the sum without cancellations.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def emit(kind: str, **fields: Any) -> None:
    """Prints a result."""
    print(json.dumps({"result": kind, **fields}, ensure_ascii=False), flush=True)


def check(kernel: str, dtype: str, case: str, test: Callable[[], str]) -> None:
    """Emits whether `test` found nothing wrong; what does not fit into memory is skipped."""
    try:
        wrong = test()
    except KernelError as error:
        if "out of memory" in str(error):
            emit("check", kernel=kernel, dtype=dtype, case=case, status="skipped", note=str(error))
            return
        wrong = str(error)
    status = "failed" if wrong else "passed"
    emit("check", kernel=kernel, dtype=dtype, case=case, status=status, note=wrong)


def timing(kernels: Kernels, sizes: Sizes, run: Callable[[int], Any], *, most: int = 200) -> float:
    """Milliseconds of a run, in rounds that are long enough for the clock."""
    once = kernels.milliseconds(run, rounds=1, warmup=min(1, sizes.rounds - 1))
    times = max(1, min(most, int(sizes.milliseconds / max(once, 1e-6))))
    warmup = min(2, sizes.rounds - 1)
    return kernels.milliseconds(run, times=times, rounds=sizes.rounds, warmup=warmup)


def gamma_state(kernel: str, dtype: Type, size: int) -> dict[str, np.ndarray]:
    """What a γ step reads and writes."""
    random = np.random.default_rng(size)
    state = {
        name: (9 * random.standard_normal(size)).astype(dtype.storage)
        for name in GAMMA_USES[kernel]
    }
    if "sign" in state:
        state["sign"] = random.choice(np.array([-1, 1], np.int8), size)
    if "finite" in state:
        state["finite"] = np.zeros(1, np.uint8)
    return state


def run_gamma(
    kernels: Kernels, kernel: str, dtype: Type, size: int, state: dict[str, Any], **on: Any
) -> None:
    """Runs a γ step on the arrays of a device."""
    kernels.call(
        "run_gamma", kernel.encode(), dtype.number, on.get("gpu", True), on.get("times", 1), size,
        pointers([state.get(name) for name in GAMMA_ARRAYS]), RATE, MOMENTUM,
    )  # fmt: skip


def gamma_on_gpu(kernels: Kernels, pattern: dict[str, np.ndarray], size: int) -> dict[str, Array]:
    """A state of so many weights that repeats a smaller one."""
    arrays = {}
    for name, values in pattern.items():
        arrays[name] = Array(kernels, values.itemsize * (1 if name == "finite" else size))
        arrays[name].write(values, repeat=True)
    return arrays


def large_gamma(kernels: Kernels, sizes: Sizes) -> None:
    """Every weight of large arrays, which repeat, against the CPU's, twice."""
    for kernel in GAMMA_USES:
        for dtype in REAL:

            def test(kernel: str = kernel, dtype: Type = dtype) -> str:
                pattern = gamma_state(kernel, dtype, sizes.period)
                wanted = {name: values.copy() for name, values in pattern.items()}
                run_gamma(kernels, kernel, dtype, sizes.period, wanted, gpu=False)
                arrays = gamma_on_gpu(kernels, pattern, sizes.large)
                for _ in range(2):
                    for name, values in pattern.items():
                        arrays[name].write(values, repeat=True)
                    run_gamma(kernels, kernel, dtype, sizes.large, arrays)
                    for name, values in wanted.items():
                        if count := arrays[name].differences(values):
                            return f"{name}: {count} bytes are not the CPU's"
                return ""

            check(kernel, dtype.name, f"{sizes.large:,} weights, to the bit, twice", test)


def large_select(kernels: Kernels, sizes: Sizes) -> None:
    """A mask of large scores, which repeat: ties go to the lower index."""
    for dtype in TYPES:

        def test(dtype: Type = dtype) -> str:
            # So few that the 16-bit types have as many different ones, without infinity.
            period = min(sizes.period, 30_011)
            rank = np.random.default_rng(1).permutation(period)
            is_short = dtype.storage.itemsize == 2
            scores = rank.astype(np.uint16) if is_short else rank.astype(dtype.storage)
            size, keep = sizes.large, sizes.large // 3
            counts = size // period + (np.arange(period) < size % period)
            best_first = np.argsort(-rank)
            kept = np.cumsum(counts[best_first])
            last = int(np.searchsorted(kept, keep))
            tied = keep - (int(kept[last - 1]) if last else 0)
            least = rank[best_first[last]]
            on_gpu = Array(kernels, size * scores.itemsize)
            on_gpu.write(scores, repeat=True)
            mask = Array(kernels, size)
            for _ in range(2):
                mask.write(np.array([0xAA], np.uint8), repeat=True)
                kernels.call(
                    "run_select", dtype.number, True, 1, size, on_gpu.pointer, mask.pointer, keep,
                    False,
                )  # fmt: skip
                with_ties = min(tied * period, size)
                count = mask.differences((rank >= least).astype(np.uint8), 0, with_ties)
                count += mask.differences((rank > least).astype(np.uint8), with_ties)
                if count:
                    return f"{count} scores are not those that the CPU keeps"
            return ""

        check("Select", dtype.name, f"{sizes.large:,} scores, every mask, twice", test)


def large_sums(kernels: Kernels, sizes: Sizes) -> None:
    """Contractions over large arrays, which repeat, against so many times the CPU's sum."""
    width, words = (64, 1000) if sizes.large > 1 << 30 else (8, 10)
    random = np.random.default_rng(2)
    rows, period = sizes.large // width + 1, min(sizes.period, 1009)
    left = random.integers(-31, 32, (period, width)) / 8
    right = random.integers(-31, 32, (period, width)) / 8
    index = random.integers(0, words, period)
    counts = (rows // period, rows % period)

    def dense(dtype: Type, gpu: bool, n: int, a: Any, s: Any, sums: Any) -> None:
        layer = Layer("", 1, 1, width, width, n, False, 0, 0, 0)
        kernels.call(
            "run_contraction", dtype.number, gpu, 1, layer.shape(1).ctypes.data, None, address(a),
            address(s), None, address(sums),
        )  # fmt: skip

    def embedding(wide: bool) -> Callable[..., None]:
        def run(dtype: Type, gpu: bool, n: int, a: Any, s: Any, sums: Any) -> None:
            shape = np.array([n, 1, 1, words, width], np.int64)
            kernels.call(
                "run_embedding", dtype.number, gpu, 1, shape.ctypes.data, wide, address(a),
                address(s), address(sums),
            )  # fmt: skip

        return run

    families: Iterator[tuple[str, Any, Any, int]] = iter([
        ("DenseCurvature", dense, None, width * width),
        ("EmbeddingCurvature, int32", embedding(False), index.astype(np.int32), words * width),
        ("EmbeddingCurvature, int64", embedding(True), index.astype(np.int64), words * width),
    ])  # fmt: skip
    for family, run, indices, size in families:
        # Sums of all periods, and of the part of one at the end.
        wanted = np.zeros(size)
        for n, factor in zip((period, counts[1]), (counts[0], 1), strict=True):
            sums = np.zeros(size)
            if n:
                first = left if indices is None else indices
                run(REAL[1], False, n, np.ascontiguousarray(first[:n]), right[:n].copy(), sums)
            wanted += factor * sums
        for dtype in TYPES:

            def test(
                dtype: Type = dtype, run: Any = run, indices: Any = indices,
                wanted: np.ndarray = wanted,
            ) -> str:  # fmt: skip
                a = dtype.narrow(left) if indices is None else indices
                first = Array(kernels, rows * (a.nbytes // period))
                first.write(a, repeat=True)
                factors = Array(kernels, rows * width * dtype.storage.itemsize)
                factors.write(dtype.narrow(right), repeat=True)
                found = []
                for _ in range(2):
                    sums = kernels.array(np.zeros(wanted.size, dtype.sums))
                    run(dtype, True, rows, first, factors, sums)
                    found.append(sums.read(dtype.sums))
                if found[0].tobytes() != found[1].tobytes():
                    return "not the same bits twice"
                # Roundings of so many positive terms, which partly cancel.
                tolerance = 8 * np.finfo(dtype.sums).eps * np.sqrt(rows)
                error = np.max(np.abs(found[0] - wanted) / np.maximum(wanted, 1))
                return (
                    "" if error <= tolerance else f"relative error {error}, more than {tolerance}"
                )

            check(family, dtype.name, f"{rows:,} × {width} factors, twice", test)


class Problem:
    """A layer with values that every type represents exactly, and the CPU's result in float64."""

    def __init__(self, kernels: Kernels, layer: Layer) -> None:
        self.kernels, self.layer = kernels, layer
        random = np.random.default_rng(3)

        def values(*shape: int) -> np.ndarray:
            return random.integers(-31, 32, shape) / 8

        pixels, taps = layer.size**2, layer.kernel**2
        windows = layer.size // 2 if layer.pooled else layer.size
        self.shape = layer.shape(COLUMNS)
        self.windows = np.array([1, windows, windows], np.int64) if layer.pooled else None
        kernel = taps * layer.channels // layer.groups * layer.outputs
        inputs = layer.samples * layer.input_size**2 * layer.channels
        self.size = COLUMNS * inputs if layer.gradient else kernel
        derivative = values(layer.samples * pixels * layer.outputs)
        derivative[random.random(derivative.size) < 0.75] = 0
        self.operands = [
            values(kernel if layer.gradient else inputs),
            values(COLUMNS * layer.samples * windows**2 * layer.outputs),
            derivative if layer.pooled else None,
        ]
        self.types = REAL if layer.gradient else TYPES

    @property
    def kernel(self) -> str:
        """The op's name."""
        if self.layer.gradient:
            return "PooledConvInputGradient"
        if self.layer.pooled:
            return "PooledConvCurvature"
        return "DenseCurvature" if self.layer.size == self.layer.kernel == 1 else "ConvCurvature"

    def run(self, dtype: Type, operands: list[Any], result: Any, **on: Any) -> None:
        """Runs it on the arrays of a device."""
        self.kernels.call(
            "run_input_gradient" if self.layer.gradient else "run_contraction",
            dtype.number, on.get("gpu", True), on.get("times", 1), address(self.shape),
            address(self.windows), *map(address, operands), address(result),
        )  # fmt: skip

    def reference(self) -> tuple[np.ndarray, np.ndarray]:
        """The CPU's result, and the sum without cancellations."""
        results = []
        for of in (np.asarray, np.abs):
            operands = [None if o is None else of(o) for o in self.operands]
            results.append(np.zeros(self.size))
            self.run(REAL[1], operands, results[-1], gpu=False)
        return results[0], results[1]

    def on_gpu(self, dtype: Type) -> list[Array | None]:
        """The operands on the device."""
        return [None if o is None else self.kernels.array(dtype.narrow(o)) for o in self.operands]


def layers(kernels: Kernels, sizes: Sizes) -> None:
    """Each layer in each type: right, the same bits twice, and how long it takes."""
    for layer in sizes.layers:
        problem = Problem(kernels, layer)
        wanted, scale = problem.reference()
        for dtype in problem.types:

            def test(
                dtype: Type = dtype, problem: Problem = problem, wanted: np.ndarray = wanted,
                scale: np.ndarray = scale,
            ) -> str:  # fmt: skip
                operands, found = problem.on_gpu(dtype), []
                for _ in range(2):
                    result = kernels.array(np.zeros(problem.size, dtype.sums))
                    problem.run(dtype, operands, result)
                    found.append(result.read(dtype.sums))
                if found[0].tobytes() != found[1].tobytes():
                    return "not the same bits twice"
                wrong = ~(np.abs(found[0] - wanted) <= TOLERANCE[dtype.sums.name] * scale)
                if wrong.any():
                    at = int(np.argmax(wrong))
                    return f"{wrong.sum()} differ; element {at} is {found[0][at]}, not {wanted[at]}"
                return ""

            check(problem.kernel, dtype.name, layer.name, test)


def time_copy(kernels: Kernels, sizes: Sizes, size: int) -> None:
    """Of so many float64, within the device's memory."""
    to, of = (Array(kernels, 8 * size) for _ in range(2))
    ms = timing(
        kernels, sizes, lambda n: kernels.call("gpu_copy", n, to.pointer, of.pointer, of.bytes)
    )
    emit("timing", kernel="device copy", dtype="float64", case=f"{size:,} values",
         milliseconds=ms, bytes=2 * of.bytes, flop=0)  # fmt: skip


def times(kernels: Kernels, sizes: Sizes) -> None:
    """The γ steps, Select and the layers."""
    for size in sizes.weights:
        time_copy(kernels, sizes, size)
        for kernel, moved in GAMMA_BYTES.items():
            for dtype in REAL:
                pattern = gamma_state(kernel, dtype, min(size, sizes.period))
                arrays = gamma_on_gpu(kernels, pattern, size)
                ms = timing(
                    kernels, sizes,
                    lambda n, k=kernel, d=dtype, s=size, a=arrays: run_gamma(
                        kernels, k, d, s, a, times=n
                    ),
                )  # fmt: skip
                emit("timing", kernel=kernel, dtype=dtype.name, case=f"{size:,} weights",
                     milliseconds=ms, bytes=moved * size * dtype.storage.itemsize // 4, flop=0)  # fmt: skip
    for size in sizes.scores:
        values = np.random.default_rng(4).standard_normal(size)
        for dtype in TYPES:
            scores, mask = kernels.array(dtype.narrow(values)), Array(kernels, size)
            ms = timing(
                kernels, sizes,
                lambda n, d=dtype, s=size, a=scores, m=mask: kernels.call(
                    "run_select", d.number, True, n, s, a.pointer, m.pointer, s // 10, False
                ),
            )  # fmt: skip
            moved = SELECT_BYTES if dtype.name == "float32" else None
            emit("timing", kernel="Select", dtype=dtype.name, case=f"{size:,} scores",
                 milliseconds=ms, bytes=moved and moved * size, flop=0)  # fmt: skip
    for layer in sizes.layers:
        problem = Problem(kernels, layer)
        for dtype in problem.types:
            operands = problem.on_gpu(dtype)
            result = kernels.array(np.zeros(problem.size, dtype.sums))
            ms = timing(
                kernels, sizes,
                lambda n, p=problem, d=dtype, o=operands, r=result: p.run(d, o, r, times=n),
            )  # fmt: skip
            single = dtype.name == "float32"
            emit("timing", kernel=problem.kernel, dtype=dtype.name, case=layer.name,
                 milliseconds=ms, bytes=layer.megabytes * 1e6 if single else None,
                 flop=layer.gflop * 1e9 if single else None,
                 expected_ms=layer.expected_us / 1e3 if single else None)  # fmt: skip
    time_embedding(kernels, sizes)


def time_embedding(kernels: Kernels, sizes: Sizes) -> None:
    """Each factor is read once."""
    words, random = sizes.words, np.random.default_rng(5)
    places = words.samples * words.positions
    shape = np.array([words.samples, words.positions, COLUMNS, words.vocabulary, words.outputs])
    indices = kernels.array(random.integers(0, words.vocabulary, places, np.int32))
    factors = random.standard_normal(COLUMNS * places * words.outputs)
    for dtype in TYPES:
        on_gpu = kernels.array(dtype.narrow(factors))
        result = kernels.array(np.zeros(words.vocabulary * words.outputs, dtype.sums))
        ms = timing(
            kernels, sizes,
            lambda n, d=dtype, f=on_gpu, r=result: kernels.call(
                "run_embedding", d.number, True, n, shape.ctypes.data, False, indices.pointer,
                f.pointer, r.pointer,
            ),
        )  # fmt: skip
        case = f"{places:,} places, {words.vocabulary:,} words, {words.outputs} outputs"
        emit("timing", kernel="EmbeddingCurvature", dtype=dtype.name, case=case, milliseconds=ms,
             bytes=on_gpu.bytes, flop=0)  # fmt: skip


def large(kernels: Kernels, sizes: Sizes) -> None:
    """Beyond what 32 bits count."""
    large_gamma(kernels, sizes)
    large_select(kernels, sizes)
    large_sums(kernels, sizes)


def main() -> None:
    """Runs one part."""
    library, part, *tiny = sys.argv[1:]
    sizes = TINY_SIZES if tiny else REAL_SIZES
    {"layers": layers, "times": times, "large": large}[part](Kernels(Path(library)), sizes)


if __name__ == "__main__":
    main()
