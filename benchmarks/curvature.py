"""The exact diagonal of the Hessian: for how many gradients, and how much memory?

The unit is one plain gradient step, forward and backward, of the same model and batch. Every other
side computes the gradient *and* a diagonal, in one traced call. The stock side backpropagates the
same columns as ours and contracts them with TensorFlow's own operations, a column at a time;
autodiff takes one Hessian-vector product a weight, timed on a few weights and extrapolated; BackPACK
is PyTorch's, on the same weights and batch. All is compared with our closed form in float64, which
is itself compared with autodiff, in float64, at those few weights.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import prospr_ops as po
from benchmarks.harness import (
    environment,
    fresh_processes,
    interleaved_seconds,
    median,
    on_gpu,
    peak_megabytes,
    write_json,
)
from benchmarks.summary import Comparison
from prospr_ops.curvature import backpropagation, find
from prospr_ops.network.loss import Batch, Objective
from prospr_ops.network.weights import prunable_weights

LABELS = {
    "gradient": "gradient step",
    "ggn": "prospr_ops, exact",
    "ggn_mc": "ggn_mc, 1 column",
    "hutchinson": "hutchinson, 1 probe",
    "row_sum": "row_sum (not the diagonal)",
    "stock": "closed form, stock ops",
    "autodiff": "autodiff, a weight at a time",
    "torch": "PyTorch's gradient step",
    "backpack": "BackPACK, PyTorch",
}
OURS = "ggn"
TENSORFLOW_SIDES = ("gradient", "ggn", "ggn_mc", "hutchinson", "row_sum", "stock")
TORCH_SIDES = ("torch", "backpack")
MATRIX = 2048

# Without AutoGraph, which takes seconds to rewrite Python that needs no rewriting.
traced = partial(tf.function, autograph=False)


class Network(NamedTuple):
    """A model, how many samples it gets, and how many weights autodiff is timed on."""

    build: Callable[[], keras.Model]
    batch: int
    autodiff_weights: int
    in_torch: bool = True


def _resnet20_with_fixed_statistics() -> keras.Model:
    model = po.models.resnet20()
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    return model


NETWORKS = {
    "LeNet-300-100": Network(po.models.lenet_300_100, 512, 32),
    "LeNet-5": Network(po.models.lenet5, 512, 16),
    "VGG-16": Network(partial(po.models.vgg16, batch_norm=False), 8, 2),
    "ResNet-20": Network(_resnet20_with_fixed_statistics, 32, 8, in_torch=False),
}


class Problem:
    """A network with weights and data that are the same in every process.

    Args:
        network: Its name.
        dtype: "float32" or "float64".
    """

    def __init__(self, network: str, dtype: str = "float32") -> None:
        build, samples, *_ = NETWORKS[network]
        keras.utils.set_random_seed(0)
        self.model = build()
        if dtype != "float32":
            weights = self.model.get_weights()
            policy = keras.config.dtype_policy()
            keras.config.set_dtype_policy(dtype)
            self.model = build()
            keras.config.set_dtype_policy(policy)
            self.model.set_weights(weights)
        random = np.random.default_rng(0)
        images = random.standard_normal((samples, *self.model.input_shape[1:]), np.float32)
        self.x = images.astype(dtype)
        self.y = random.integers(self.model.output_shape[-1], size=samples)
        self.batch = Batch(self.x, self.y).map(tf.convert_to_tensor)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype)
        self.objective = Objective.of(self.model, loss)
        self.variables = [variable.value for variable in self.model.trainable_variables]
        self.weights = [variable.value for variable in prunable_weights(self.model).values()]

    def size(self) -> int:
        """The number of weights that the diagonal has."""
        return sum(weight.shape.num_elements() for weight in self.weights)

    def side(self, name: str) -> Callable[[], Any]:
        """A traced call that gives the loss, the gradient and, last, the diagonal."""
        if name == "gradient":
            return traced(self._gradient)
        if name != "stock":
            return traced(partial(self._estimate, name))

        def stock() -> Any:
            with (
                mock.patch.object(po.ops, "dense_curvature", _stock_dense),
                mock.patch.object(po.ops, "conv_curvature", _stock_conv),
                mock.patch.object(backpropagation.Gradient, "has_kernel", return_value=False),
            ):
                return self._estimate("ggn")

        return traced(stock)

    def _gradient(self) -> Any:
        with tf.GradientTape() as tape:
            loss = self.objective(self.batch)
        return loss, tape.gradient(loss, self.variables)

    def _estimate(self, name: str) -> Any:
        seed = tf.constant([0, 0], tf.int64)
        arguments = (self.objective, self.batch, self.variables, self.weights, 1, seed)
        return find(name)(*arguments)[:3]

    def autodiff(self, positions: np.ndarray) -> Callable[[], tf.Tensor]:
        """Elements of the diagonal at some positions of the flat weights, one product each."""

        def flat(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
            return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)

        def elements() -> tf.Tensor:
            with tf.GradientTape(persistent=True) as outer:
                with tf.GradientTape() as inner:
                    loss = self.objective(self.batch)
                gradient = flat(inner.gradient(loss, self.weights))

            def element(position: tf.Tensor) -> tf.Tensor:
                unit = tf.one_hot(position, self.size(), dtype=gradient.dtype)
                return flat(outer.gradient(gradient, self.weights, unit))[position]

            return tf.map_fn(
                element, positions, parallel_iterations=1, fn_output_signature=gradient.dtype
            )

        return traced(elements)

    def contractions(self) -> list[Contraction]:
        """The calls that our side makes of the contraction ops, all columns in one."""
        found: list[Contraction] = []

        def recorded(operation: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
            def record(*tensors: tf.Tensor, **options: Any) -> Any:
                found.append(Contraction(operation, tensors, options))
                return operation(*tensors, **options)

            return record

        @traced
        def tensors() -> list[tuple[tf.Tensor, ...]]:
            module = importlib.import_module("prospr_ops.curvature.ggn")
            with ExitStack() as patched:
                patched.enter_context(mock.patch.object(module, "COLUMN_BYTES", 2**62))
                for name in ("dense_curvature", "conv_curvature", "pooled_conv_curvature"):
                    operation = recorded(getattr(po.ops, name))
                    patched.enter_context(mock.patch.object(po.ops, name, operation))
                self._estimate("ggn")
            # Each layer is tried on one column of zeros before.
            del found[: len(found) // 2]
            return [contraction.tensors for contraction in found]

        return [
            contraction._replace(tensors=values)
            for contraction, values in zip(found, tensors(), strict=True)
        ]


class Contraction(NamedTuple):
    """One call of a contraction op, with the tensors that a network gave it."""

    operation: Callable[..., tf.Tensor]
    tensors: tuple[tf.Tensor, ...]
    options: dict[str, Any]

    def call(self) -> Callable[[], tf.Tensor]:
        """The call, to be timed."""
        return tf.function(partial(self.operation, *self.tensors, **self.options))

    def operations(self) -> int:
        """Additions and multiplications.

        A dense layer of one position is one matrix product; behind a max-pooling one pixel of each
        window counts.
        """
        inputs, factors, *_ = self.tensors
        columns, samples, *pixels, outputs = factors.shape
        fan_in = int(np.prod(self.options.get("kernel_size", ()))) * inputs.shape[-1]
        terms = columns * int(np.prod(pixels)) if np.prod(pixels) > 1 else 1
        return 2 * samples * terms * fan_in * outputs

    def label(self) -> str:
        """Channels and pixels, or windows."""
        inputs, factors, *derivative = self.tensors
        *_, outputs = factors.shape
        kind = "windows" if derivative else "pixels"
        pixels = f", {'×'.join(map(str, factors.shape[2:-1]))} {kind}"
        return f"{inputs.shape[-1]} → {outputs}" + (pixels if inputs.shape.rank > 3 else "")


def _stock_dense(inputs: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    return tf.matmul(tf.square(inputs), tf.reduce_sum(tf.square(factors), 0), transpose_a=True)


def _stock_conv(
    inputs: tf.Tensor,
    factors: tf.Tensor,
    *,
    kernel_size: Sequence[int],
    strides: Sequence[int],
    padding: str,
    dilation_rate: Sequence[int],
    groups: int,
    depthwise: bool,
) -> tf.Tensor:
    assert groups == 1
    assert not depthwise
    columns, samples, *_, outputs = factors.shape
    patches = tf.image.extract_patches(
        inputs, [1, *kernel_size, 1], [1, *strides, 1], [1, *dilation_rate, 1], padding.upper()
    )
    patches = tf.reshape(patches, [samples, -1, patches.shape[-1]])

    def add(total: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        products = tf.einsum("ntk,nto->nko", patches, column)
        return total + tf.reduce_sum(tf.square(products), 0)

    zeros = tf.zeros([patches.shape[-1], outputs], factors.dtype)
    factors = tf.reshape(factors, [columns, samples, -1, outputs])
    found = tf.foldl(add, factors, zeros, parallel_iterations=1)
    return tf.reshape(found, [*kernel_size, inputs.shape[-1], outputs])


def _peak(network: str, side: str) -> float:
    Problem(network).side(side)()
    return peak_megabytes()


class Part(NamedTuple):
    """One module of a PyTorch model.

    Attributes:
        module: Its class in `torch.nn`.
        arguments: What that takes.
        kernel: As Keras has it, seen as [height, width, channels, outputs].
        bias: The bias that goes with it.
    """

    module: str
    arguments: tuple[Any, ...] = ()
    kernel: np.ndarray | None = None
    bias: np.ndarray | None = None


def _parts(model: keras.Sequential) -> list[Part]:
    """The modules that compute what a Keras model does, on images with channels first."""
    parts = []
    image = (1, 1)
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "Conv2D":
            *size, inputs, outputs = layer.kernel.shape
            same = layer.padding == "same"
            arguments = (inputs, outputs, size[0], 1, size[0] // 2 if same else 0)
            parts.append(Part("Conv2d", arguments, layer.kernel.numpy(), layer.bias.numpy()))
        elif kind == "Dense":
            kernel = layer.kernel.numpy()
            spread = kernel.reshape(*image, -1, layer.units)
            parts.append(Part("Linear", kernel.shape, spread, layer.bias.numpy()))
            image = (1, 1)
        elif kind == "MaxPooling2D":
            parts.append(Part("MaxPool2d", (2,)))
        elif kind == "GlobalAveragePooling2D":
            parts += [Part("AvgPool2d", (layer.input.shape[1],)), Part("Flatten")]
        elif kind == "Flatten":
            image = layer.input.shape[1:3]
            parts.append(Part("Flatten"))
        if getattr(layer, "activation", None) is keras.activations.relu:
            parts.append(Part("ReLU"))
    return parts


class TorchResult(NamedTuple):
    """What a process with PyTorch found."""

    seconds: dict[str, list[float]]
    peak_megabytes: float
    diagonal: list[np.ndarray]


def _in_torch(
    images: np.ndarray, classes: np.ndarray, parts: Sequence[Part], sides: Sequence[str]
) -> TorchResult:
    """Times the gradient ("torch") or the gradient and the diagonal ("backpack")."""
    # Threads that wait sleep: spinning ones are many times slower if anything else is running.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch  # noqa: PLC0415 - an optional dependency
    from backpack import backpack, extend  # noqa: PLC0415 - an optional dependency
    from backpack.extensions import DiagGGNExact  # noqa: PLC0415 - an optional dependency

    warnings.filterwarnings("ignore", "Full backward hook is firing")
    torch.set_num_threads(environment()["threads"])
    x = torch.from_numpy(np.moveaxis(images, -1, 1).copy())
    y = torch.from_numpy(classes)
    modules = []
    for part in parts:
        module = getattr(torch.nn, part.module)(*part.arguments)
        if part.kernel is not None:
            weight = part.kernel.transpose(3, 2, 0, 1).reshape(module.weight.shape)
            module.weight.data = torch.from_numpy(weight.copy())
            module.bias.data = torch.from_numpy(part.bias)
        modules.append(module)
    model = extend(torch.nn.Sequential(*modules))
    loss = extend(torch.nn.CrossEntropyLoss())

    def step(*extensions: Any) -> None:
        model.zero_grad()
        with backpack(*extensions):
            loss(model(x), y).backward()

    calls = {"torch": step, "backpack": partial(step, DiagGGNExact())}
    seconds = interleaved_seconds(
        {side: calls[side] for side in sides}, seconds=1, warmup=1, rounds=3 * len(sides) - 2
    )
    diagonal = [
        module.weight.diag_ggn_exact.numpy()
        .reshape(np.transpose(part.kernel, (3, 2, 0, 1)).shape)
        .transpose(2, 3, 1, 0)
        for module, part in zip(modules, parts, strict=True)
        if part.kernel is not None and sides[-1] == "backpack"
    ]
    return TorchResult(seconds, peak_megabytes(), diagonal)


def _relative_error(found: Sequence[Any], true: Sequence[Any]) -> float:
    """‖found − true‖ / ‖true‖ over all weights."""

    def flat(arrays: Sequence[Any]) -> np.ndarray:
        return np.concatenate([np.ravel(array) for array in arrays]).astype(np.float64)

    return float(np.linalg.norm(flat(found) - flat(true)) / np.linalg.norm(flat(true)))


def _measure(network: str, pool: Pool) -> dict[str, Any]:
    """A row of the record: seconds, memory and error of each side."""
    problem, exact = Problem(network), Problem(network, "float64")
    count = NETWORKS[network].autodiff_weights
    positions = np.linspace(0, problem.size() - 1, count, dtype=np.int32)
    *_, true = exact.side(OURS)()
    checked = np.concatenate([np.ravel(values) for values in true])[positions]
    difference = float(np.max(np.abs(exact.autodiff(positions)() - checked)) / np.max(checked))
    if difference > 1e-8:
        msg = f"{network}: the closed form is off by {difference}; its times mean nothing"
        raise AssertionError(msg)

    calls = {name: problem.side(name) for name in TENSORFLOW_SIDES}
    times = interleaved_seconds(calls, seconds=6, warmup=2)
    seconds = {name: median(values) for name, values in times.items()}
    errors = {name: _relative_error(call()[-1], true) for name, call in list(calls.items())[1:]}
    peaks = {name: pool.apply(_peak, (network, name)) for name in TENSORFLOW_SIDES}
    memory = {name: peak - peaks["gradient"] for name, peak in peaks.items()}

    autodiff = problem.autodiff(positions)
    times = interleaved_seconds({"autodiff": autodiff}, seconds=0, warmup=1, rounds=2)
    a_weight = (median(times["autodiff"]) - seconds["gradient"]) / count
    seconds["autodiff"] = a_weight * problem.size()
    errors["autodiff"] = _relative_error([autodiff()], [checked])

    if NETWORKS[network].in_torch and not on_gpu() and importlib.util.find_spec("backpack"):
        arguments = (problem.x, problem.y, _parts(problem.model))
        results = [
            pool.apply(_in_torch, (*arguments, sides))
            for sides in (TORCH_SIDES, TORCH_SIDES[:1], TORCH_SIDES[1:])
        ]
        both, gradient, backpack = results
        seconds |= {name: median(values) for name, values in both.seconds.items()}
        memory["torch"] = 0.0
        memory["backpack"] = backpack.peak_megabytes - gradient.peak_megabytes
        errors["backpack"] = _relative_error(backpack.diagonal, true)
    return {
        "network": network,
        "batch": NETWORKS[network].batch,
        "weights": problem.size(),
        "seconds": seconds,
        "gradients": {
            name: s / seconds["torch" if name in TORCH_SIDES else "gradient"]
            for name, s in seconds.items()
        },
        "megabytes_over_gradient": memory,
        "relative_error": errors,
        "extrapolated": {"autodiff": {"weights_timed": count}},
        "largest_difference_from_autodiff_float64": difference,
        "contractions": _contraction_rates(problem),
    }


def _contraction_rates(problem: Problem) -> dict[str, Any]:
    """Rate of the contraction ops, all and one by one, and of a large matrix product."""
    contractions = problem.contractions()
    matrix = tf.random.stateless_normal([MATRIX, MATRIX], [1, 2])
    product = tf.function(partial(tf.matmul, matrix, matrix))
    calls = {str(i): contraction.call() for i, contraction in enumerate(contractions)}
    times = interleaved_seconds({"product": product, **calls}, seconds=2)
    seconds = {name: median(values) for name, values in times.items()}
    total = sum(seconds[name] for name in calls)
    return {
        "matrix_product_gigaflops": 2 * MATRIX**3 / seconds["product"] / 1e9,
        "seconds": total,
        "gigaflops": sum(c.operations() for c in contractions) / total / 1e9,
        "layers": [
            {"layer": c.label(), "gigaflops": c.operations() / seconds[str(i)] / 1e9}
            for i, c in enumerate(contractions)
        ],
    }


def run(out: Path, *, full: bool = True) -> list[Comparison]:
    """Runs the benchmark, in full or not; prints tables, writes curvature.json and curvature.png."""
    del full  # no network is worth leaving out
    console = Console()
    with fresh_processes() as pool:
        rows = [_measure(network, pool) for network in NETWORKS]
    console.print(_table(rows))
    console.print(_roofline(rows))
    write_json(out / "curvature.json", {"benchmark": "curvature", "rows": rows})
    _plot(rows).savefig(out / "curvature.png", dpi=150)
    console.print(f"[dim]{out / 'curvature.json'}, {out / 'curvature.png'}[/dim]")
    return [comparison for row in rows for comparison in _comparisons(row)]


def _comparisons(row: dict[str, Any]) -> list[Comparison]:
    """With the gradient alone, which is the price, and with all that gives the same diagonal."""
    seconds, errors = row["seconds"], row["relative_error"]
    case = f"{row['network']}, batch {row['batch']}"
    return [
        Comparison(
            "curvature",
            case,
            LABELS[name],
            seconds[OURS],
            seconds[name],
            "s",
            f"yes, {max(errors[OURS], errors[name]):.0e}" if name in errors else "–",
        )
        for name in ("gradient", "stock", "autodiff", "backpack")
        if name in seconds
    ]


def _duration(seconds: float) -> str:
    """Milliseconds, up to the minutes and hours that an extrapolation comes to."""
    if seconds < 60:
        return f"{1e3 * seconds:,.1f} ms"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _table(rows: list[dict[str, Any]]) -> Table:
    threads = environment()["threads"]
    table = Table(
        title="Gradient and diagonal of the Hessian in one call",
        caption=f"Medians of interleaved calls; float32, {threads} threads. Memory is the peak of a "
        "process of its own\nover that of one that only takes gradients; the error is relative, in "
        "norm, to the closed form in float64.\n~: extrapolated from a few weights. BackPACK is in "
        "units of PyTorch's own gradient; it cannot do residual sums.",
    )
    table.add_column("network", no_wrap=True)
    table.add_column("side", no_wrap=True)
    for heading in ("time", "gradients", "+ MB", "error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        heads = iter([row["network"], f"batch {row['batch']}", f"{row['weights']:,} weights"])
        for name in (shown := [name for name in LABELS if name in row["seconds"]]):
            about = "~" if name in row["extrapolated"] else ""
            memory, error = (
                row[key].get(name) for key in ("megabytes_over_gradient", "relative_error")
            )
            table.add_row(
                next(heads, ""),
                f"[bold]{LABELS[name]}[/bold]" if name == OURS else LABELS[name],
                about + _duration(row["seconds"][name]),
                f"{about}{row['gradients'][name]:,.2f}"
                if not about
                else f"~{row['gradients'][name]:,.0f}",
                "" if memory is None else f"{memory:,.0f}",
                "" if error is None else f"{error:.1e}",
                end_section=name == shown[-1],
            )
    return table


def _roofline(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        title="The contraction ops alone, on recorded tensors",
        caption=f"Against a float32 product of two {MATRIX} × {MATRIX} matrices in the same run; "
        "multiplications and additions, 2 N C T K O, count one each.",
    )
    table.add_column("network", no_wrap=True)
    table.add_column("layer", no_wrap=True)
    table.add_column("GFLOP/s", justify="right")
    table.add_column("of the product", justify="right")
    for row in rows:
        rates = row["contractions"]
        product = rates["matrix_product_gigaflops"]
        layers = [("all", rates["gigaflops"])]
        if row["network"] == "VGG-16":
            layers += [(each["layer"], each["gigaflops"]) for each in rates["layers"]]
        for layer, rate in layers:
            table.add_row(
                row["network"] if layer == "all" else "",
                layer,
                f"{rate:.0f}",
                f"{rate / product:.0%}",
                end_section=layer == layers[-1][0],
            )
    return table


def _plot(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    figure.suptitle("Gradient and diagonal of the Hessian, in plain gradients (shorter is better)")
    shown = [name for name in LABELS if name not in ("gradient", "torch", "autodiff")]
    for axes, row in zip(figure.subplots(-(-len(rows) // 2), 2).flat, rows, strict=False):
        gradients = [row["gradients"].get(name, 0.0) for name in shown]
        colours = ["#c8553d" if name == OURS else "#9aa5b1" for name in shown]
        bars = axes.barh([LABELS[name] for name in shown], gradients, color=colours)
        labels = [f" {value:.1f}" if value else " not applicable" for value in gradients]
        axes.bar_label(bars, labels, fontsize=9)
        axes.axvline(1, color="#2f3e46", linestyle="--", linewidth=1)
        axes.set_title(f"{row['network']}, batch {row['batch']}", fontsize=11)
        axes.set_xlim(0, 1.18 * max(gradients))
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
        # The names of the sides once a row; the scales differ.
        axes.tick_params(labelleft=axes.get_subplotspec().is_first_col())
    return figure
