"""Our kernels and what PyTorch and CuPy have for the same work, on the same arrays.

    python compare.py LIBRARY gamma | select | contraction [--tiny]

Prints a line of JSON per comparison; a library that is not there is skipped with a note. `--tiny` is
for the emulation: PyTorch runs on the CPU, and nothing is compiled.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cases import COLUMNS, REAL_SIZES, SELECT_BYTES, TINY_SIZES, Sizes
from kernels import REAL, Kernels
from measure import GAMMA_ARRAYS, RATE, Problem, emit, run_gamma, timing

try:
    import torch
except ImportError:
    torch = None

FLOAT = REAL[0]
DIFFER = "the results differ"  # the note of a comparison; driver.py knows it


class Tensor:
    """As much of an array as `kernels.address` asks for, of a tensor of PyTorch."""

    def __init__(self, tensor: Any) -> None:
        self.ctypes, self.data = self, tensor.data_ptr()


def compare(
    work: str, case: str, ours_ms: float, other: str, run: Callable[[], Callable[[], str]], *,
    kernels: Kernels, sizes: Sizes, bytes: float = 0, flop: float = 0,
) -> None:  # fmt: skip
    """Times the other side, if it works: `run()` gives what is timed, which says what disagrees.

    `bytes` and `flop` are what the work cannot do without.
    """
    fields = {"work": work, "case": case, "ours_ms": ours_ms, "other": other, "bytes": bytes,
              "flop": flop}  # fmt: skip
    try:
        theirs = run()
        wrong = theirs()
        ms = timing(kernels, sizes, lambda n: [theirs() for _ in range(n)], most=20)
    except Exception as error:  # noqa: BLE001 - whatever a library raises, the others go on
        note = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        emit("comparison", **fields, other_ms=None, note=note)
        return
    emit("comparison", **fields, other_ms=ms, note=wrong)


def missing(work: str, library: str) -> None:
    """Notes that a library is not there."""
    emit("comparison", work=work, case="all", ours_ms=None, other=library, other_ms=None,
         note=f"{library} is not installed", bytes=0, flop=0)  # fmt: skip


def gamma(kernels: Kernels, sizes: Sizes, device: str) -> None:
    """One γ step: w −= αg, log += log|1 − αh|, and the sign. Only ours looks for infinities."""

    def step(w: Any, log: Any, sign: Any, g: Any, h: Any) -> None:
        factor = 1 - RATE * h
        w.sub_(RATE * g)
        log.add_(torch.log(torch.abs(factor)))
        sign.mul_(torch.where(factor < 0, -1, 1).to(torch.int8))

    for size in sizes.compared:
        case, work = f"{size:,} weights", "GammaStep, float32"
        w, log, g, h = (torch.randn(size, device=device) for _ in range(4))
        sign = torch.ones(size, dtype=torch.int8, device=device)
        finite = torch.zeros(1, dtype=torch.int8, device=device)
        arrays = {"weight": w, "log": log, "sign": sign, "gradient": g, "curvature": h,
                  "finite": finite}  # fmt: skip
        state = {name: Tensor(arrays[name]) for name in GAMMA_ARRAYS if name in arrays}
        wanted = [array.clone() for array in (w, log, sign)]
        step(*wanted, g, h)
        run_gamma(kernels, "GammaStep", FLOAT, size, state)
        kernels.call("gpu_synchronise")
        same = all(torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-5)
                   for a, b in zip((w, log, sign), wanted, strict=True))  # fmt: skip
        note = "" if same else DIFFER
        ours = timing(
            kernels, sizes,
            lambda n, s=size, a=state: run_gamma(kernels, "GammaStep", FLOAT, s, a, times=n),
        )  # fmt: skip
        moved = torch.empty(6 * size, device=device)
        half = 3 * size

        def copy(moved: Any = moved, half: int = half) -> Callable[[], str]:
            return lambda: moved[half:].copy_(moved[:half]) is None or ""

        def eager(values: Any = (*wanted, g, h), note: str = note) -> Callable[[], str]:
            return lambda: step(*values) or note

        def compiled(values: Any = (*wanted, g, h), note: str = note) -> Callable[[], str]:
            fused = torch.compile(step, dynamic=False)
            return lambda: fused(*values) or note

        others = [("copy of 24 bytes per weight", copy), ("PyTorch, eager", eager)]
        if device == "cuda":
            others += [("CuPy, fused", cupy_step(size)), ("torch.compile", compiled)]
        for other, run in others:
            compare(work, case, ours, other, run, kernels=kernels, sizes=sizes, bytes=24 * size)


def cupy_step(size: int) -> Callable[[], Callable[[], str]]:
    """The γ step as one element-wise kernel of CuPy."""

    def run() -> Callable[[], str]:
        import cupy as cp  # noqa: PLC0415 - only here, and maybe not installed

        kernel = cp.ElementwiseKernel(
            "float32 g, float32 h, float32 rate",
            "float32 w, float32 log, int8 sign",
            "float f = 1 - rate * h; w -= rate * g; log += logf(fabsf(f)); if (f < 0) sign = -sign;",
            "gamma_step",
        )
        w, log, g, h = (cp.random.standard_normal(size, dtype=cp.float32) for _ in range(4))
        sign = cp.ones(size, cp.int8)
        wanted = log + cp.log(cp.abs(1 - np.float32(RATE) * h))
        rate = np.float32(RATE)
        kernel(g, h, rate, w, log, sign)
        note = "" if bool(cp.allclose(log, wanted, rtol=1e-4, atol=1e-5)) else DIFFER

        def step() -> str:
            kernel(g, h, rate, w, log, sign)
            return note

        return step

    return run


def select(kernels: Kernels, sizes: Sizes, device: str) -> None:
    """The best tenth: a mask, where the others give values, indices or all in order."""
    for size in sizes.compared:
        case, work, keep = f"{size:,} scores, 10 % kept", "Select, float32", size // 10
        scores = torch.randn(size, device=device)
        mask = torch.zeros(size, dtype=torch.uint8, device=device)

        def run(n: int, size: int = size, s: Any = scores, m: Any = mask, keep: int = keep) -> None:
            kernels.call("run_select", FLOAT.number, True, n, size, s.data_ptr(), m.data_ptr(),
                         keep, False)  # fmt: skip

        run(1)
        kernels.call("gpu_synchronise")
        ours = timing(kernels, sizes, run)
        least = scores[mask.bool()].min()
        agrees = int(mask.sum()) == keep and bool((scores[~mask.bool()] <= least).all())

        def topk(s: Any = scores, k: int = keep, least: Any = least, ok: bool = agrees) -> Any:
            same = ok and torch.topk(s, k).values.min() == least
            return lambda: torch.topk(s, k, sorted=False) and ("" if same else DIFFER)

        def kthvalue(s: Any = scores, k: int = keep, least: Any = least, ok: bool = agrees) -> Any:
            at = s.numel() - k + 1
            same = ok and torch.kthvalue(s, at).values == least
            return lambda: torch.kthvalue(s, at) and ("" if same else DIFFER)

        def sort(s: Any = scores, k: int = keep, least: Any = least, ok: bool = agrees) -> Any:
            same = ok and torch.sort(s, descending=True).values[k - 1] == least
            return lambda: torch.sort(s) and ("" if same else DIFFER)

        for other, run_other in (
            ("torch.topk", topk), ("torch.kthvalue", kthvalue), ("torch.sort", sort),
        ):  # fmt: skip
            compare(work, case, ours, other, run_other, kernels=kernels, sizes=sizes,
                    bytes=SELECT_BYTES * size)  # fmt: skip


def contraction(kernels: Kernels, sizes: Sizes, device: str) -> None:
    """The layers without pooling or groups; PyTorch unfolds the inputs and contracts by einsum."""
    for layer in (of for of in sizes.layers if not of.pooled and not of.depthwise):
        problem = Problem(kernels, layer)
        operands = problem.on_gpu(FLOAT)
        result = kernels.array(np.zeros(problem.size, np.float32))
        problem.run(FLOAT, operands, result)
        got = result.read(np.float32)
        ours = timing(
            kernels, sizes,
            lambda n, p=problem, o=operands, r=result: p.run(FLOAT, o, r, times=n),
        )  # fmt: skip
        n, taps = layer.samples, layer.kernel**2
        x = torch.from_numpy(problem.operands[0].astype(np.float32)).to(device)
        x = (
            x.reshape(n, layer.input_size, layer.input_size, layer.channels)
            .permute(0, 3, 1, 2)
            .contiguous()
        )
        s = torch.from_numpy(problem.operands[1].astype(np.float32)).to(device)
        s = s.reshape(COLUMNS, n, layer.size**2, layer.outputs)

        def einsum(
            x: Any = x, s: Any = s, layer: Any = layer, got: Any = got,
            taps: int = taps,
        ) -> Any:  # fmt: skip
            def run() -> Any:
                if layer.size == layer.kernel == 1:
                    inputs = x[:, :, 0, 0]
                    return torch.einsum("ni,no->io", inputs * inputs, (s[:, :, 0] ** 2).sum(0))
                before = (layer.kernel - 1) // 2 if layer.same else 0
                patches = torch.nn.functional.unfold(x, layer.kernel, padding=before)
                return torch.einsum("nkt,cnto->cnko", patches, s).square_().sum((0, 1))

            found = run().reshape(layer.channels, taps, layer.outputs).permute(1, 0, 2)
            found = found.cpu().numpy().ravel()
            same = np.allclose(found, got, rtol=1e-3, atol=1e-3 * np.abs(got).max())
            return lambda: run() is None or ("" if same else DIFFER)

        compare("contraction, float32", layer.name, ours, "PyTorch einsum", einsum,
                kernels=kernels, sizes=sizes, bytes=layer.megabytes * 1e6,
                flop=layer.gflop * 1e9)  # fmt: skip


def main() -> None:
    """Runs one part."""
    library, part, *tiny = sys.argv[1:]
    if torch is None:
        missing(part, "PyTorch")
        return
    device = "cpu" if tiny else "cuda"
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
    parts = {"gamma": gamma, "select": select, "contraction": contraction}
    parts[part](Kernels(Path(library)), TINY_SIZES if tiny else REAL_SIZES, device)


if __name__ == "__main__":
    main()
