"""Runs docs/tutorial.md and checks what it claims."""

from __future__ import annotations

import contextlib
import io
import math
import re
import shlex
from pathlib import Path

import keras
import numpy as np
import pytest

from prospr_ops import cli
from prospr_ops.data import datasets as data

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The names that the tutorial defines, what it printed, and the folder that it ran in."""
    folder, names, printed = tmp_path_factory.mktemp("tutorial"), {}, io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(folder)
        patch.setenv("PROSPR_DATA", str(data._MNIST_SAMPLE))
        for language, code in re.findall(r"(?s)```(python|sh)\n(.*?)```", TUTORIAL.read_text()):
            if language == "python":
                exec(code, names)  # noqa: S102 - it is what this is about
                continue
            for line in code.replace("\\\n", "").splitlines():
                program, *arguments = shlex.split(line)
                assert program == "prospr"
                assert cli.main(arguments) == 0, line
    return names, printed.getvalue(), folder


def kernels(model):
    return [v.numpy() for v in model.trainable_variables if v.name == "kernel"]


def nonzero(model):
    return sum(np.count_nonzero(kernel) for kernel in kernels(model))


@pytest.mark.parametrize(
    "line",
    [
        "10,844 of 108,432 weights",
        "20.8%, 63.9%, 91.8%, 48.8% of each kernel are zero",
        "parameters: 108,618 -> 27,562",
        "Wrote shell_pruned.keras: 108,618 weights, 10,844 not zero",
        "Wrote shell_small.keras: 27,562 weights, 27,562 not zero",
    ],
)
def test_outputs_are_those_of_the_text(line, finished):
    assert line in TUTORIAL.read_text()
    assert line in finished[1]


def table_lines(text):
    """Lines of tables: their words, and their numbers."""
    found = []
    for line in text.splitlines():
        if re.search(r"sparsity:|/kernel |/bias |^ total|^ size|^ compressed|^ not zero", line):
            numbers = [float(n.replace(",", "")) for n in re.findall(r"\d[\d,.]*", line)]
            found.append((re.sub(r"\d[\d,.]*", "#", " ".join(line.split())), numbers))
    return found


def test_tables_are_those_of_the_text(finished):
    text = "".join(re.findall(r"(?s)```text\n(.*?)```", TUTORIAL.read_text()))
    written, printed = table_lines(text), table_lines(finished[1])
    assert [words for words, _ in written] == [words for words, _ in printed]
    # Rounding differs between machines, and moves weights at the threshold.
    for (words, ours), (_, theirs) in zip(written, printed, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.05, err_msg=words)


def test_exactly_so_many_weights_are_kept_after_training_and_loading(finished):
    names, _, folder = finished
    result = names["result"]
    assert result.kept == math.ceil(result.weights * (1 - 0.9))
    shell = keras.saving.load_model(folder / "shell_trained.keras")
    assert nonzero(names["loaded"]) == nonzero(shell) == result.kept


def test_python_and_shell_prune_the_same(finished):
    names, _, folder = finished
    shell = keras.saving.load_model(folder / "shell_pruned.keras")
    for mask, kernel in zip(names["result"].masks.values(), kernels(shell), strict=True):
        np.testing.assert_array_equal(kernel != 0, mask)


def test_the_pruned_file_compresses(finished):
    names, _, _ = finished
    assert names["pruned"].compressed < names["whole"].compressed / 5


def test_the_small_model_is_smaller_and_does_the_same(finished):
    names, _, folder = finished
    assert names["difference"] < 1e-4  # of logits that reach tens
    sizes = [(folder / f"{name}.tflite").stat().st_size for name in ("small", "dense")]
    assert sizes[0] < sizes[1] / 3


def test_all_of_them_learnt(finished):
    names, printed, _ = finished
    assert all(names["accuracy"](names[name]) > 0.9 for name in ("dense", "model"))
    tested = [float(value) for value in re.findall(r"Test: accuracy ([\d.]+)", printed)]
    assert len(tested) == 2
    assert min(tested) > 0.9
