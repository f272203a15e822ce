"""The exact Gauss-Newton diagonal of whole networks: our contractions in PyTorch, and BackPACK's.

    python networks.py LIBRARY [--tiny]

Both sides run PyTorch's layers forwards and backwards; ours has our kernel for the contraction of each
layer. Prints a line of JSON per comparison. BackPACK is taken from the bundle's folder `site`.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cases import REAL_SIZES, TINY_SIZES, Layer, Sizes
from compare import DIFFER, compare, missing, torch
from compiling import ROOT
from kernels import Kernels
from measure import timing

CLASSES = 10
VGG_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def lenet5(size: int) -> Any:
    """LeNet-5 with ReLU and max-pooling, for images of one channel."""
    nn = torch.nn
    pixels = (size // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * pixels**2, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, CLASSES),
    )  # fmt: skip


def vgg16(size: int, stages: tuple[tuple[int, ...], ...]) -> Any:
    """VGG-16 without batch normalisation, for images of three channels."""
    nn = torch.nn
    layers: list[Any] = []
    channels = 3
    for number, stage in enumerate(stages):
        if number:
            layers.append(nn.MaxPool2d(2))
            size //= 2
        for outputs in stage:
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU()]
            channels = outputs
    return nn.Sequential(*layers, nn.AvgPool2d(size), nn.Flatten(), nn.Linear(channels, CLASSES))


def contraction(kernels: Kernels, layer: Layer, columns: int, inputs: Any, factors: Any) -> Any:
    """Our kernel on tensors that are dense, channels last."""
    taps = layer.kernel**2
    result = torch.zeros(taps * layer.channels * layer.outputs, device=inputs.device)
    shape = layer.shape(columns)
    kernels.call(
        "run_contraction", 0, True, 1, shape.ctypes.data, None, inputs.data_ptr(),
        factors.data_ptr(), None, result.data_ptr(),
    )  # fmt: skip
    return result.reshape(layer.kernel, layer.kernel, layer.channels, layer.outputs)


def _layer_of(module: Any, inputs: Any, factors: Any) -> Layer:
    if isinstance(module, torch.nn.Linear):
        sides = 1, 1, module.in_features, module.out_features
        return Layer("", *sides, inputs.shape[0], False, 0, 0, 0)
    same = module.padding[0] > 0
    sides = factors.shape[-1], module.kernel_size[0], module.in_channels, module.out_channels
    return Layer("", *sides, inputs.shape[0], same, 0, 0, 0)


def _pulled_back(module: Any, inputs: Any, indices: Any, factors: Any) -> Any:
    """Columns at a module's input, from those at its output."""
    nn, columns = torch.nn, factors.shape[0] // inputs.shape[0]
    if isinstance(module, nn.Linear):
        return factors @ module.weight
    if isinstance(module, nn.Conv2d):
        return nn.functional.conv_transpose2d(factors, module.weight, padding=module.padding)
    if isinstance(module, nn.ReLU):
        by_column = factors.reshape(columns, *inputs.shape)
        return (by_column * (inputs > 0)).reshape(factors.shape)
    if isinstance(module, nn.MaxPool2d):
        every = indices.repeat(columns, 1, 1, 1)
        size = (*factors.shape[:2], *inputs.shape[2:])
        return nn.functional.max_unpool2d(factors, every, module.kernel_size, output_size=size)
    if isinstance(module, nn.AvgPool2d):
        side = module.kernel_size
        return (factors / side**2).expand(*factors.shape[:2], side, side)
    return factors.reshape(-1, *inputs.shape[1:])  # nn.Flatten


def exact_diagonal(kernels: Kernels, network: Any, x: Any) -> list[Any]:
    """Σ_n Σ_c (Σ_t a s)² of the kernel of each layer, of the mean cross-entropy, the last first."""
    nn = torch.nn
    with torch.no_grad():
        states = []
        for module in network:
            indices = None
            if isinstance(module, nn.MaxPool2d):
                x_next, indices = nn.functional.max_pool2d(x, 2, return_indices=True)
            else:
                x_next = module(x)
            states.append((module, x, indices))
            x = x_next
        p = torch.softmax(x, 1)
        # The columns of diag(√p) − p √pᵀ, which is a factor of the loss's Hessian.
        factors = (p / len(p)).sqrt().T[:, :, None] * (
            torch.eye(CLASSES, device=p.device)[:, None] - p
        )
        factors = factors.reshape(-1, CLASSES)
        diagonals = []
        for module, inputs, indices in reversed(states):
            if isinstance(module, nn.Linear | nn.Conv2d):
                layer = _layer_of(module, inputs, factors)
                ours = [t.movedim(1, -1).contiguous() for t in (inputs, factors)]
                diagonals.append(contraction(kernels, layer, CLASSES, *ours))
            if module is not network[0]:
                factors = _pulled_back(module, inputs, indices, factors)
    return diagonals


def by_backpack(network: Any, x: Any, y: Any, ours: list[Any]) -> Callable[[], Callable[[], str]]:
    """BackPACK's diagonal of the same; both sides are compared with its own in float64."""

    def run() -> Callable[[], str]:
        from backpack import backpack, extend, extensions  # noqa: PLC0415 - maybe not installed

        def diagonal(of: Any, inputs: Any) -> Callable[[], None]:
            loss, extended = extend(torch.nn.CrossEntropyLoss()), extend(of)

            def call() -> None:
                of.zero_grad()
                with backpack(extensions.DiagGGNExact()):
                    loss(extended(inputs), y).backward()

            return call

        exact = copy.deepcopy(network).double()
        torch.set_default_dtype(torch.float64)  # of what BackPACK makes by itself
        diagonal(exact, x.double())()
        torch.set_default_dtype(torch.float32)
        call = diagonal(network, x)
        call()
        note = ""
        pairs = zip(*([*kernels_of(of)] for of in (exact, network)), ours, strict=True)
        for number, (wanted, theirs, found) in enumerate(pairs):
            allowed = 1e-3 * wanted.abs() + 1e-4 * wanted.max()
            worst, of_theirs = (
                float(((t - wanted).abs() / allowed).max()) for t in (found, theirs)
            )
            print(f"{number}: {tuple(wanted.shape)}, ours {worst:.2g}, theirs {of_theirs:.2g}")
            if not worst <= 1:
                note = DIFFER

        def step() -> str:
            call()
            return note

        return step

    return run


def kernels_of(network: Any) -> Iterator[Any]:
    """BackPACK's diagonals of the kernels, the last first, as ours lie."""
    for module in reversed(network):
        if hasattr(module, "weight"):
            found = module.weight.diag_ggn_exact
            yield found.T[None, None] if found.ndim == 2 else found.permute(2, 3, 1, 0)


def one_gradient(network: Any, x: Any, y: Any) -> Callable[[], Callable[[], str]]:
    """What both sides are counted in."""

    def step() -> str:
        network.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        return ""

    return lambda: step


def networks(kernels: Kernels, sizes: Sizes, device: str, *, tiny: bool) -> None:
    """Both networks."""
    torch.manual_seed(0)
    cases = [
        ("LeNet-5, batch 512", lenet5(28), (512, 1, 28, 28)),
        ("VGG-16 without BatchNorm, batch 8", vgg16(32, VGG_STAGES), (8, 3, 32, 32)),
    ]
    if tiny:
        cases = [
            ("a small LeNet-5", lenet5(12), (3, 1, 12, 12)),
            ("a small VGG", vgg16(4, ((3, 4), (5,))), (2, 3, 4, 4)),
        ]
    for case, network, shape in cases:
        network = network.to(device)  # noqa: PLW2901 - in place
        x, y = torch.randn(shape, device=device), torch.randint(CLASSES, shape[:1], device=device)
        found = exact_diagonal(kernels, network, x)
        ours = timing(
            kernels, sizes,
            lambda n, of=network, x=x: [exact_diagonal(kernels, of, x) for _ in range(n)], most=20,
        )  # fmt: skip
        for other, run in (
            ("PyTorch, one gradient", one_gradient(network, x, y)),
            ("BackPACK, DiagGGNExact", by_backpack(network, x, y, found)),
        ):
            compare("exact diagonal, float32", case, ours, other, run, kernels=kernels, sizes=sizes)


def main() -> None:
    """Runs both, where PyTorch is."""
    library, *tiny = sys.argv[1:]
    if torch is None:
        missing("exact diagonal", "PyTorch")
        return
    sys.path.append(str(ROOT / "site"))
    device = "cpu" if tiny else "cuda"
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    sizes = TINY_SIZES if tiny else REAL_SIZES
    networks(Kernels(Path(library)), sizes, device, tiny=bool(tiny))


if __name__ == "__main__":
    main()
