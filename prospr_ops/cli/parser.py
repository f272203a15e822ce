"""The shell command `prospr`.

What the commands do is in `prospr_ops.cli.commands`, which needs TensorFlow and is imported when a
command runs, so that `--help` and mistakes in the options are answered at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from prospr_ops.methods import METHODS
from prospr_ops.pruning.target import Target, check_revive
from prospr_ops.utils.build import build_info
from prospr_ops.utils.checks import check_integer, choose
from prospr_ops.utils.files import check_output
from prospr_ops.utils.settings import CHOICES, Settings
from prospr_ops.utils.stderr import quiet_stderr

_EXAMPLES = """\
examples:
  prospr demo --quick     prune and train a small network in under a minute, to see that all works
  prospr prune model.keras --data data.npz --sparsity 0.95 --out pruned.keras
  prospr train pruned.keras --data data.npz --epochs 10 --out trained.keras
  prospr export trained.keras --out trained.tflite
  prospr COMMAND --help   options and examples of a command

exit codes: 0 all went well, 1 something unexpected, with a traceback, 2 bad input, explained in a
line, 130 Ctrl-C. No file is overwritten without --force. Each is written whole or not at all.
"""

_DEMO_EXAMPLES = """\
examples:
  prospr demo             a table and a picture, in minutes
  prospr demo --quick     the same in under a minute, to see that all works
  prospr demo --methods exact:10@5 synflow --sparsities 0.98 0.99 --out other

MNIST comes from the folder in the environment variable PROSPR_DATA, else from Keras.
"""

_MODEL = """\
MODEL is a .keras file, or the name of a built-in model: lenet_300_100, lenet5, lenet5_caffe,
vgg7, resnet20, vgg16.
"""

_DATA = """\
DATA is one of
  data.npz   arrays x_train and y_train, or x and y; for a test set x_test and y_test
  folder     of images, in a folder for each class, or in folders train and test of such; resized
             to what the model takes; pixels are from 0 to 255, so a model that wants others
             begins with a Rescaling layer
  mnist      from the folder in the environment variable PROSPR_DATA, else from Keras
  fashion_mnist  from the folder fashion-mnist in that one, from Keras, or from Debian's package

The loss is the one that the model was compiled with, or that of --loss. A cross-entropy of --loss is
taken of logits if the model ends without an activation, else of probabilities.
"""

_PRUNE_EXAMPLES = f"""\
examples:
  prospr prune model.keras --data data.npz --sparsity 0.95 --out pruned.keras
  prospr prune model.keras --data photos --loss sparse_categorical_crossentropy --sparsity 0.9 \\
      --method exact --steps 10 --out pruned.keras masks.npz run.json
  prospr prune model.keras --data data.npz --structure channel --sparsity 0.5 --out pruned.keras
  prospr prune lenet5 --data mnist --sparsity 0.98 --out lenet5.keras
  prospr prune model.keras --data data.npz --flops 0.1 --out pruned.keras
  prospr prune model.keras --data data.npz --pattern 2:4 --prunable 'dense*' --out pruned.keras
  prospr prune model.keras --data data.npz --sparsity 0.9 --layer 'conv2d/*=0.5' --out pruned.keras

{_MODEL}
{_DATA}"""

_TRAIN_EXAMPLES = f"""\
examples:
  prospr train pruned.keras --data data.npz --epochs 10 --out trained.keras
  prospr train pruned.keras --data photos --epochs 5 --optimizer sgd --learning-rate 0.01 \\
      --out trained.keras
  prospr train lenet5 --data mnist --epochs 6 --out dense.keras
  prospr train pruned.keras --data data.npz --epochs 10 --sparse --out trained.keras

{_MODEL}
{_DATA}"""

_COMPARE_EXAMPLES = """\
examples:
  prospr compare --contenders dense exact:3 snip random --sparsities 0.95 0.98 --seeds 3 --epochs 5
  prospr compare --contenders exact:3 shuffled:exact:3 reinit:exact:3 --out sanity.jsonl
  prospr compare --contenders gradual rigl random_erk exact:3 --model lenet5 --epochs 5
  prospr compare --contenders exact:3 magnitude --dataset fashion_mnist --pretrained mnist
  prospr compare --contenders exact:20 --learning-rate 0.03 --validation --out tuning.jsonl

A contender is [control:]method[:steps][@rounds[+revive]]. Control "shuffled" shuffles the masks of a
method within each layer, "reinit" trains them on newly drawn weights: a method no better than these
has only found how many weights each layer needs. Others are dense, and what is pruned during
training: gradual, rigl, set, and exact_rigl, which begins with the masks of exact; and random_erk, the
masks that rigl and set begin with. A run that was stopped goes on where it was; with other options
the same file takes more networks. Beside FILE a figure is drawn anew, FILE's name with .png.

MNIST comes from the folder in the environment variable PROSPR_DATA, else from Keras.
"""

_SHRINK_EXAMPLES = """\
examples:
  prospr prune model.keras --data data.npz --structure channel --sparsity 0.5 --out pruned.keras
  prospr train pruned.keras --data data.npz --epochs 10 --out trained.keras
  prospr shrink trained.keras --out small.keras
"""

_REPORT_EXAMPLES = """\
examples:
  prospr prune lenet5 --data mnist --sparsity 0.98 --method exact --out exact.npz
  prospr prune lenet5 --data mnist --sparsity 0.98 --method snip --out snip.npz
  prospr report exact.npz snip.npz --out report.html
"""

_EXPORT_EXAMPLES = """\
examples:
  prospr export trained.keras --out trained.tflite    LiteRT
  prospr export trained.keras --out trained.onnx      ONNX (pip install 'prospr_ops[export]')
  prospr export trained.keras --out trained           SavedModel, a folder
  prospr export trained.keras --out plain.keras       Keras, without prospr_ops
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Without the program's name; by default those of the process.

    Returns:
        The exit status: 0; 2 where the input was bad, which is then explained on stderr; or 130
        after Ctrl-C. Anything unexpected is raised, for which Python's own exit status is 1.
    """
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    known = options.pop("known")
    errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    with warnings.catch_warnings():
        # In the shell a warning is a line of text, without the source that it came from.
        warnings.showwarning = lambda message, *_, **__: errors.print(f"note: {message}")
        try:
            _check(options, _COMMANDS[command])
            with quiet_stderr():
                _start_tensorflow()
            if _COMMANDS[command].overwrites:
                options.pop("force", None)  # what may be overwritten is known by now
            getattr(importlib.import_module("prospr_ops.cli.commands"), command)(**options)
        except (ImportError, OSError, TypeError, ValueError) as error:
            errors.print(f"prospr: {in_shell_terms(str(error), known)}")
            return 2
        except KeyboardInterrupt:
            errors.print("prospr: interrupted")
            return 130
    return 0


def _check(options: Mapping[str, Any], command: _Command) -> None:
    """Refuses what can be known to be wrong before TensorFlow, a model or data is loaded.

    Raises:
        OSError: An output exists, or cannot be written; or an input does not exist.
        TypeError: As `Settings.of`.
        ValueError: As `Settings.of`, or another option is out of range.
    """
    Settings.among(options)
    for name, accepted in CHOICES.items():
        if name in options and not isinstance(options[name], Mapping):
            choose(name, options[name], accepted)
    choose("method", options.get("method", "exact"), METHODS)
    if command is _COMMANDS["prune"]:
        names = ("sparsity", "flops", "scope", "pattern", "min_keep")
        Target.of(**{name: options[name] for name in names if name in options})
        check_revive(
            options.get("revive", False),
            options.get("method", "exact"),
            options.get("rounds"),
            options.get("structure", "weight"),
        )
    if "epochs" in options:
        check_integer("epochs", options["epochs"], at_least=1)
    out = options.get("out", [])
    for path in out if isinstance(out, list) else [out]:
        if command.endings and path.suffix not in command.endings:
            msg = f"--out must end in {' or '.join(command.endings)}, got {path}"
            raise ValueError(msg)
    # A comparison adds to its file, and a demo checks the files in its folder.
    if command.overwrites:
        for path in [*(out if isinstance(out, list) else [out]), options.get("png")]:
            if path is not None:
                check_output(path, force=options.get("force", False))


def in_shell_terms(message: str, options: Collection[str]) -> str:
    """A message in which arguments of Python read as the options of the command.

    Args:
        message: Text such as "pass min_keep=1 or scope='layer'".
        options: Names of the command's options.
    """

    def as_option(match: re.Match[str]) -> str:
        name, value = match[1], match[2].strip("'")
        if name not in options:
            return match[0]
        option = f"--{name.replace('_', '-')}"
        return option if value in ("True", "") else f"{option} {value}"

    return re.sub(r"\b([a-z_]+)=('[^']*'|[\w.]*)", as_option, message)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prospr",
        description="Prune Keras models at initialisation, by Prospect Pruning.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"prospr {build_info()['version']}")
    subparsers = parser.add_subparsers(required=True, metavar="command")
    for name, command in _COMMANDS.items():
        # Options that are not given are left out, so that every default has one home: the function.
        subparser = subparsers.add_parser(
            name,
            help=command.summary,
            description=command.summary,
            epilog=command.examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
        )
        command.add_options(subparser)
        named = re.findall(r"--([a-z-]+)", subparser.format_usage())
        subparser.set_defaults(command=name, known={option.replace("-", "_") for option in named})
    return parser


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="M",
        help=f"each METHOD[:STEPS][@ROUNDS[+revive]], of {' '.join(METHODS)} "
        "(exact@5 exact snip@5 magnitude)",
    )
    parser.add_argument("--sparsities", nargs="+", type=float, metavar="S", help="(0.9 0.98 0.995)")
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="of training (6, or 40 on a small data set)"
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="of weights, pruning and training (0)"
    )
    parser.add_argument("--dataset", metavar="NAME", help="mnist or fashion_mnist (mnist)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for the results (prospr_demo)")
    parser.add_argument("--quick", action="store_true", help="a slice of the data, one epoch")
    parser.add_argument("--force", action="store_true", help="overwrite the results in FOLDER")


def _compare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="lenet_300_100, lenet5, lenet5_caffe, vgg7 or resnet20 (lenet_300_100)",
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        metavar="C",
        help="such as dense exact:3 snip@20 shuffled:exact:3 (those, and others)",
    )
    parser.add_argument(
        "--sparsities", nargs="+", type=float, metavar="S", help="(0.9 0.95 0.98 0.99 0.995)"
    )
    parser.add_argument(
        "--flops", nargs="+", type=float, metavar="F",
        help="fractions of the multiply-adds to keep, in the place of sparsities or beside them",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, metavar="N", help="how many (5)")
    parser.add_argument("--epochs", type=int, metavar="N", help="of training (20)")
    parser.add_argument(
        "--learning-rate", type=float, metavar="X", help="of the prospect steps (0.1)"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="samples of such a step (512)")
    parser.add_argument(
        "--validation",
        action="store_true",
        help="hold 10,000 training samples out to measure on, for the choice of settings",
    )
    parser.add_argument("--dataset", metavar="NAME", help="mnist or fashion_mnist (mnist)")
    parser.add_argument(
        "--pretrained",
        metavar="NAME",
        help="data set that the networks are trained on before (none)",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one a processor)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="ends in .jsonl (compare.jsonl)")


def _add_model(parser: argparse.ArgumentParser, kinds: str) -> None:
    parser.add_argument("model", metavar="MODEL", help=kinds)
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        metavar="FILE",
        help="a .py file or a module with layers, losses and metrics of your own; may be repeated",
    )


def _layer_sparsity(text: str) -> tuple[str, float]:
    """A path pattern and a sparsity, written PATH=X."""
    path, _, sparsity = text.rpartition("=")
    try:
        value = float(sparsity)
    except ValueError:
        path = ""
    if not path:
        msg = f"must be PATH=X, such as 'dense*=0.9', not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return path, value


class _Scope(argparse.Action):
    """Takes a scope's name once, or collects the pairs of a mapping."""

    def __call__(self, _parser: Any, namespace: Any, values: Any, option: Any = None) -> None:  # noqa: ARG002 - argparse's signature
        before = getattr(namespace, self.dest, None)
        pair = isinstance(values, tuple)
        if before is not None and isinstance(before, dict) != pair:
            raise argparse.ArgumentError(None, "--scope and --layer contradict each other")
        setattr(namespace, self.dest, {**(before or {}), values[0]: values[1]} if pair else values)


def _prune_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser, "a .keras file or a built-in model")
    parser.add_argument("--data", help="a file, a folder or a data set; not for all methods")
    parser.add_argument("--sparsity", type=float, metavar="X", help="fraction to prune, in [0, 1)")
    parser.add_argument(
        "--flops", type=float, metavar="X", help="fraction of multiply-adds to keep, in (0, 1]"
    )
    parser.add_argument(
        "--pattern", metavar="P", help="2:4, any n:m along the inputs; or blocks such as 4x1"
    )
    parser.add_argument(
        "--layer",
        dest="scope",
        type=_layer_sparsity,
        action=_Scope,
        metavar="PATH=X",
        help="sparsity of layers, the others ranked together; with * and ?; may be repeated",
    )
    parser.add_argument(
        "--out",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help=".keras: the pruned model; .npz: masks and scores; .json: a record of the run",
    )
    parser.add_argument(
        "--loss", metavar="NAME", help="a loss of Keras (the one the model is compiled with)"
    )
    parser.add_argument(
        "--method",
        metavar="NAME",
        help=f"{', '.join(METHODS)} (exact)",
    )
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="of scoring what is left (1; 100 for synflow)"
    )
    parser.add_argument(
        "--revive",
        action="store_true",
        help="let pruned weights return in rounds (snip, first_order)",
    )
    parser.add_argument(
        "--structure",
        metavar="NAME",
        help="weight, or channel for whole channels; see shrink",
    )
    parser.add_argument("--scope", action=_Scope, metavar="NAME", help="global, layer or erk")
    parser.add_argument(
        "--min-keep", type=int, metavar="N", help="weights of each layer to keep at least (0)"
    )
    parser.add_argument(
        "--allow-empty", action="store_true", help="accept layers that are left without a weight"
    )
    parser.add_argument(
        "--prunable", nargs="+", metavar="PATH", help="of variables, with * and ? (all kernels)"
    )
    parser.add_argument(
        "--curvature",
        metavar="NAME",
        help="auto, ggn, ggn_mc, hutchinson or row_sum",
    )
    parser.add_argument("--probes", type=int, metavar="N", help="random vectors per step (1)")
    parser.add_argument("--steps", type=int, metavar="N", help="prospect steps (3)")
    parser.add_argument("--learning-rate", type=float, metavar="X", help="of those steps (0.1)")
    parser.add_argument("--momentum", type=float, metavar="X", help="of those steps (0)")
    parser.add_argument("--nesterov", action="store_true", help="Nesterov's momentum")
    parser.add_argument("--batch-size", type=int, metavar="N", help="samples a step (128)")
    parser.add_argument(
        "--microbatch", type=int, metavar="N", help="samples evaluated at a time (all)"
    )
    parser.add_argument(
        "--memory",
        type=int,
        metavar="BYTES",
        help="that exact may hold to save time (a quarter of what is free)",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="of a built-in model's weights and pruning (0)"
    )
    parser.add_argument("--checkpoint", metavar="FILE", help="to go on from if this is killed")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")


def _train_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser, "a .keras file or a built-in model")
    parser.add_argument("--data", required=True, help="a file, a folder or a data set")
    parser.add_argument(
        "--epochs", type=int, metavar="N", required=True, help="rounds through the data"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends in .keras")
    parser.add_argument(
        "--loss", metavar="NAME", help="a loss of Keras (the one the model is compiled with)"
    )
    parser.add_argument(
        "--optimizer",
        metavar="NAME",
        help="of Keras (the one the model is compiled with, its state included)",
    )
    parser.add_argument("--learning-rate", type=float, metavar="X", help="(the optimizer's)")
    parser.add_argument(
        "--masks", type=Path, metavar="FILE", help="a .npz file of prospr prune, to apply first"
    )
    parser.add_argument(
        "--sparse",
        action="store_true",
        help="compute with the kept weights alone where that is faster; FILE has the masked model",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="samples a step (128)")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="of a built-in model's weights and training (0)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite FILE")


def _shrink_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser, "a .keras file")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends in .keras")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")


def _export_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser, "a .keras file")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="a file; for a SavedModel a folder"
    )
    parser.add_argument(
        "--format",
        metavar="NAME",
        help="saved_model, litert, onnx or keras (what the end of PATH tells)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite PATH")


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results", type=Path, nargs="+", metavar="RESULT", help=".npz files of prospr prune"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends in .html")
    parser.add_argument("--png", type=Path, metavar="FOLDER", help="for the figures, as files")
    parser.add_argument("--force", action="store_true", help="overwrite both")


class _Command(NamedTuple):
    summary: str
    examples: str
    add_options: Callable[[argparse.ArgumentParser], None]
    endings: tuple[str, ...] = ()  # of what --out names
    overwrites: bool = True  # what --out names, with --force


_COMMANDS = {
    "demo": _Command(
        "Compare methods on LeNet-300-100: prune, train, test.",
        _DEMO_EXAMPLES,
        _demo_options,
        overwrites=False,
    ),
    "compare": _Command(
        "Compare methods over many seeds, on MNIST.",
        _COMPARE_EXAMPLES,
        _compare_options,
        (".jsonl",),
        overwrites=False,
    ),
    "prune": _Command(
        "Prune a model.", _PRUNE_EXAMPLES, _prune_options, (".keras", ".npz", ".json")
    ),
    "train": _Command(
        "Train a model, pruned or not, and test it.", _TRAIN_EXAMPLES, _train_options, (".keras",)
    ),
    "shrink": _Command(
        "Remove the channels of a model that are zero.",
        _SHRINK_EXAMPLES,
        _shrink_options,
        (".keras",),
    ),
    "export": _Command(
        "Write a model, without masks, for inference.", _EXPORT_EXAMPLES, _export_options
    ),
    "report": _Command(
        "Write a page about results, one or several side by side.",
        _REPORT_EXAMPLES,
        _report_options,
        (".html",),
    ),
    "info": _Command(
        "Say what this installation was built with and runs on.",
        "example:\n  prospr info\n",
        lambda _: None,
    ),
}


def _start_tensorflow() -> None:
    """Imports TensorFlow and looks for devices."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf  # noqa: PLC0415 - needs TensorFlow

    tf.config.list_physical_devices()
