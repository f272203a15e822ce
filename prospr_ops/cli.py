"""The shell command `prospr`.

Everything that needs TensorFlow is imported by the command that needs it, so that `--help` and
mistakes in the options are answered at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from prospr_ops._build import build_info

_EXAMPLES = """\
examples:
  prospr demo             compare pruning methods on MNIST: a table and a picture, in minutes
  prospr demo --quick     the same in under a minute, to see that all works
  prospr prune --model lenet5 --sparsity 0.98 --steps 100 --batch-size 512 --out lenet5.npz
                          prune once: masks to lenet5.npz, a record of the run to lenet5.json
  prospr export --model pruned.keras --format onnx --out pruned.onnx
                          what runs without this package, and how small it compresses
  prospr report lenet5.npz --out report.html
                          one page about a result, or about several side by side
  prospr info             what this installation was built with and what it runs on

Data comes from the folder in the environment variable PROSPR_DATA, else from Keras.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Without the program's name; by default those of the process.

    Returns:
        The exit status: 0, or 2 where the input was bad, which is then explained on stderr.
    """
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    with warnings.catch_warnings():
        # In the shell a warning is a line of text, without the source that it came from.
        warnings.showwarning = lambda message, *_, **__: errors.print(f"note: {message}")
        try:
            with _quiet_stderr():
                _start_tensorflow()
            command(**options)
        except (ImportError, OSError, TypeError, ValueError) as error:
            errors.print(f"prospr: {error}")
            return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    # Options that are not given are left out, so that every default has one home: the function.
    def command(name: str, function: Any, summary: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(
            name, help=summary, description=summary, argument_default=argparse.SUPPRESS
        )
        subparser.set_defaults(command=function)
        return subparser

    parser = argparse.ArgumentParser(
        prog="prospr",
        description="Prune Keras models at initialisation, by Prospect Pruning.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    demo = command("demo", _demo, "Prune LeNet-300-100 by several methods, train, and compare.")
    demo.add_argument(
        "--methods",
        nargs="+",
        metavar="M",
        help="diagonal exact first_order snip grasp synflow magnitude random",
    )
    demo.add_argument("--sparsities", nargs="+", type=float, metavar="S", help="0.9 0.95 0.98")
    demo.add_argument("--epochs", type=int, help="of training (6, or 40 on a small data set)")
    demo.add_argument("--steps", type=int, help="prospect steps of ProsPr (3)")
    demo.add_argument("--seed", type=int, help="of weights, pruning and training (0)")
    demo.add_argument("--out", type=Path, metavar="FOLDER", help="for the results (prospr_demo)")
    demo.add_argument("--quick", action="store_true", help="a slice of the data, one epoch")

    prune = command("prune", _prune, "Prune a fresh model once and save its masks.")
    prune.add_argument(
        "--model", choices=["lenet_300_100", "lenet5", "lenet5_caffe"], default="lenet_300_100"
    )
    prune.add_argument("--dataset", choices=["mnist"], default="mnist")
    prune.add_argument("--sparsity", type=float, required=True, help="fraction to prune, in [0, 1)")
    prune.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends in .npz")
    prune.add_argument(
        "--method",
        help="diagonal, exact, first_order, snip, grasp, synflow, magnitude or random",
    )
    prune.add_argument("--curvature", help="auto, ggn, ggn_mc, hutchinson or row_sum")
    prune.add_argument("--steps", type=int, help="prospect steps (3)")
    prune.add_argument("--learning-rate", type=float, help="of those steps (0.1)")
    prune.add_argument("--momentum", type=float, help="of those steps (0)")
    prune.add_argument("--nesterov", action="store_true", help="Nesterov's momentum")
    prune.add_argument("--batch-size", type=int, help="samples a step (128)")
    prune.add_argument("--microbatch", type=int, help="samples evaluated at a time (all)")
    prune.add_argument("--scope", help="global or layer")
    prune.add_argument("--structure", help="weight or channel")
    prune.add_argument("--min-keep", type=int, help="weights of each layer to keep at least (0)")
    prune.add_argument("--seed", type=int, default=0, help="of weights and pruning (0)")
    prune.add_argument("--force", action="store_true", default=False, help="overwrite FILE")

    export = command("export", _export, "Write a saved model, stripped of masks, for inference.")
    export.add_argument("--model", type=Path, required=True, metavar="FILE", help="ends in .keras")
    export.add_argument("--format", required=True, help="saved_model, litert, onnx or keras")
    export.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="a file; for saved_model a folder"
    )
    export.add_argument("--force", action="store_true", default=False, help="overwrite PATH")

    report = command("report", _report, "Write a page about results that prune saved.")
    report.add_argument("results", type=Path, nargs="+", metavar="RESULT", help="ends in .npz")
    report.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends in .html")
    report.add_argument("--png", type=Path, metavar="FOLDER", help="for the figures, as files")
    report.add_argument("--force", action="store_true", default=False, help="overwrite both")

    command("info", _info, "Say what this installation was built with and what it runs on.")
    return parser


def _demo(**options: Any) -> None:
    from prospr_ops.demo import demo  # noqa: PLC0415 - needs TensorFlow

    demo(**options)


def _prune(*, model: str, dataset: str, out: Path, seed: int, force: bool, **options: Any) -> None:
    import keras  # noqa: PLC0415 - needs TensorFlow
    import numpy as np  # noqa: PLC0415 - not for --help

    from prospr_ops import data, models  # noqa: PLC0415 - needs TensorFlow
    from prospr_ops.pruning import prune  # noqa: PLC0415 - needs TensorFlow

    record_file = out.with_suffix(".json")
    if out.suffix != ".npz":
        msg = f"--out must end in .npz, got {out}"
        raise ValueError(msg)
    for file in (out, record_file):
        _check_output(file, force)

    samples = getattr(data, dataset)()
    keras.utils.set_random_seed(seed)
    network = getattr(models, model)(samples.x_train.shape[1:], samples.classes)
    result = prune(
        network,
        (samples.x_train, samples.y_train),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        seed=seed,
        **options,
    )
    result.save(out)
    record = {
        "model": model,
        "data": samples.source,
        "settings": result.settings,
        "weights": result.weights,
        "kept": {path: int(np.count_nonzero(mask)) for path, mask in result.masks.items()},
        "losses": result.losses,
        "estimators": result.estimators,
        "seconds": result.seconds,
        "build_info": build_info(),
    }
    record_file.write_text(json.dumps(record, indent=2) + "\n")
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"Data: {samples.source}. Wrote {out} and {record_file}.", markup=False)


def _export(*, model: Path, format: str, out: Path, force: bool) -> None:
    import keras  # noqa: PLC0415 - needs TensorFlow

    from prospr_ops.exporting import export  # noqa: PLC0415 - needs TensorFlow
    from prospr_ops.tables import export_table  # noqa: PLC0415 - not for --help

    _check_output(out, force)
    exported = export(keras.saving.load_model(model, compile=False), out, format)
    Console(highlight=False).print(export_table(exported))


def _report(*, results: list[Path], out: Path, force: bool, png: Path | None = None) -> None:
    from prospr_ops.reporting import report  # noqa: PLC0415 - not for --help
    from prospr_ops.result import PruneResult  # noqa: PLC0415 - not for --help

    for output in (out, png):
        if output is not None:
            _check_output(output, force)
    written = report(list(map(PruneResult.load, results)), out, png_folder=png)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"Wrote {', '.join(map(str, written))}.", markup=False)


def _check_output(file: Path, force: bool) -> None:
    if file.exists() and not force:
        msg = f"{file} exists; add --force to overwrite it"
        raise FileExistsError(msg)
    if not file.absolute().parent.is_dir():
        msg = f"there is no folder {file.parent} to write {file.name} to"
        raise FileNotFoundError(msg)


def _info() -> None:
    table = Table(title="prospr_ops", show_header=False)
    for name, value in build_info().items():
        if isinstance(value, dict):
            for package, version in value.items():
                table.add_row(f"{name}: {package}", str(version))
        else:
            table.add_row(name, ", ".join(value) if isinstance(value, list) else str(value))
    Console(highlight=False).print(table)


def _start_tensorflow() -> None:
    """Imports TensorFlow and looks for devices."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf  # noqa: PLC0415 - needs TensorFlow

    tf.config.list_physical_devices()


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Drops what native code writes to stderr.

    TensorFlow logs a few lines before its log level takes effect; exceptions are not affected.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with Path(os.devnull).open("w") as devnull:
            os.dup2(devnull.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
