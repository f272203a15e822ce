from __future__ import annotations

import contextlib
import json
import re
import resource
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import prospr_ops as po
from prospr_ops import cli, models
from prospr_ops.cli import commands, parser
from prospr_ops.data import datasets as data
from prospr_ops.sparse import costs

PRUNE = ["prune", "lenet_300_100", "--data", "mnist", "--sparsity", "0.9", "--steps", "1"]

# What is written, and the command that does.
WRITING = [
    ("a.keras", "prune model.keras --sparsity 0.5 --method magnitude"),
    ("a.npz", "prune model.keras --sparsity 0.5 --method magnitude"),
    ("a.json", "prune model.keras --sparsity 0.5 --method magnitude"),
    ("a.keras", "train model.keras --data data.npz --epochs 1"),
    ("a.keras", "shrink model.keras"),
    ("a.keras", "export model.keras"),
    ("a.tflite", "export model.keras"),
]


@pytest.fixture(autouse=True)
def _embedded_sample(monkeypatch):
    monkeypatch.setenv("PROSPR_DATA", str(data._MNIST_SAMPLE))


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Models of 4 x 4 pixels and three classes, one compiled and one not, and data for them."""
    folder = tmp_path_factory.mktemp("originals")
    stack = [
        layers.Conv2D(6, 3, activation="relu"),
        layers.Flatten(),
        layers.Dense(8, activation="relu"),
        layers.Dense(3),
    ]
    images = keras.Sequential([keras.Input((4, 4, 1)), layers.Rescaling(1 / 255), *stack])
    images.save(folder / "plain.keras")
    model = keras.Sequential([keras.Input((4, 4, 1)), *stack])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    model.save(folder / "model.keras")

    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = rng.normal(size=(60, 4, 4, 1)) + y[:, None, None, None]
    np.savez(folder / "data.npz", x_train=x[:45], y_train=y[:45], x_test=x[45:], y_test=y[45:])
    for number, (image, label) in enumerate(zip(x, y, strict=True)):
        file = folder / "photos" / f"class_{label}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(file, image, scale=True)
    return folder


@pytest.fixture
def files(originals, tmp_path, monkeypatch):
    """A working folder with copies of them."""
    shutil.copytree(originals, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def run(line: str) -> None:
    """Runs a command that has to succeed."""
    assert cli.main(line.split()) == 0


def failure(capfd, *arguments) -> str:
    """The one line on stderr of a command that has to fail."""
    assert cli.main([*map(str, arguments)]) == 2
    captured = capfd.readouterr()
    assert captured.err.startswith("prospr: ")
    assert captured.err.count("\n") == 1
    return captured.err


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def kernels(file) -> list[np.ndarray]:
    model = keras.saving.load_model(file)
    return [v.numpy() for v in model.trainable_variables if v.name == "kernel"]


def test_info(capfd):
    assert cli.main(["info"]) == 0
    shown = capfd.readouterr().out
    assert po.build_info()["compiler"] in shown
    assert po.build_info()["running"]["keras"] in shown
    assert re.search(r"GPU +│ (yes|no): ", shown)


def test_prune_a_built_in_model(tmp_path, capfd):
    out = [tmp_path / name for name in ("masks.npz", "run.json")]
    arguments = [*PRUNE, "--method", "snip", "--batch-size", "64", "--seed", "3", "--out"]
    assert cli.main([*arguments, *map(str, out)]) == 0
    masks = po.PruneResult.load(out[0]).masks
    model = po.models.lenet_300_100()
    shapes = {v.path: v.shape for v in model.trainable_variables if v.path.endswith("kernel")}
    assert {path: mask.shape for path, mask in masks.items()} == shapes
    assert all(mask.dtype == np.bool_ for mask in masks.values())
    assert sum(mask.sum() for mask in masks.values()) == 26_620
    po.apply_masks(model, masks)

    record = json.loads(out[1].read_text())
    assert record["kept"] == {path: mask.sum() for path, mask in masks.items()}
    assert record["settings"]["method"] == "snip"
    assert record["settings"]["batch_size"] == 64
    assert record["settings"]["seed"] == 3
    assert record["weights"] == 266_200
    assert len(record["losses"]) == 1
    assert str(data._MNIST_SAMPLE) in record["data"]
    shown = capfd.readouterr().out
    assert "26,620" in shown
    assert "run.json" in shown


def test_prune_repeats(tmp_path):
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for file in files:
        assert cli.main([*PRUNE, "--method", "snip", "--out", str(file)]) == 0
    first, second = (po.PruneResult.load(file).masks for file in files)
    assert all(np.array_equal(first[path], second[path]) for path in first)


@pytest.mark.usefixtures("files")
def test_prune_train_and_export_a_model_of_ones_own(capfd):
    run("prune model.keras --data data.npz --sparsity 0.8 --out pruned.keras masks.npz")
    masks = list(po.PruneResult.load("masks.npz").masks.values())
    assert sum(mask.sum() for mask in masks) == 54  # of 54 + 192 + 24
    for before, after, mask in zip(
        kernels("model.keras"), kernels("pruned.keras"), masks, strict=True
    ):
        np.testing.assert_array_equal(after, before * mask)

    run("train pruned.keras --data data.npz --epochs 2 --out trained.keras")
    assert "Test: accuracy " in capfd.readouterr().out
    for before, after, mask in zip(
        kernels("pruned.keras"), kernels("trained.keras"), masks, strict=True
    ):
        assert (after[~mask] == 0).all()
        assert (after != before)[mask].any()
    assert keras.saving.load_model("trained.keras").optimizer.iterations == 2

    run("export trained.keras --out plain_again.keras")
    assert "prospr_ops" not in keras.saving.load_model("plain_again.keras").to_json()


@pytest.mark.usefixtures("files")
def test_prune_train_and_shrink_channels(capfd):
    run("prune model.keras --data data.npz --sparsity 0.5 --structure channel --out pruned.keras")
    run("train pruned.keras --data data.npz --epochs 1 --out trained.keras")
    capfd.readouterr()
    run("shrink trained.keras --out small.keras")
    whole, small = (keras.saving.load_model(f"{name}.keras") for name in ("trained", "small"))
    shown = capfd.readouterr().out
    assert f"Read trained.keras: {whole.count_params()} weights" in shown
    assert f"Wrote small.keras: {small.count_params()} weights" in shown
    assert small.count_params() < 0.7 * whole.count_params()
    run("shrink small.keras --out same.keras")
    assert "No channel of small.keras is zero" in capfd.readouterr().out
    x = np.load("data.npz")["x_test"]
    np.testing.assert_allclose(small.predict(x), whole.predict(x), atol=1e-6)
    # It can be trained further: the loss and the optimizer are in the file.
    run("train small.keras --data data.npz --epochs 1 --out small.keras --force")


@pytest.mark.usefixtures("files")
def test_images_and_a_loss_by_name(capfd):
    loss = "--loss sparse_categorical_crossentropy"
    run(f"prune plain.keras --data photos {loss} --sparsity 0.5 --out pruned.keras --batch-size 9")
    model = keras.saving.load_model("pruned.keras")
    assert model.loss.get_config()["from_logits"]
    assert "60 images in photos" in capfd.readouterr().out
    run("train pruned.keras --data photos --epochs 1 --optimizer adam --out trained.keras")
    trained = keras.saving.load_model("trained.keras")
    assert isinstance(trained.optimizer, keras.optimizers.Adam)
    shown = capfd.readouterr().out
    assert "There is no test set in photos" in shown
    assert "accuracy" in shown


def test_train_a_built_in_model(tmp_path, capfd, monkeypatch):
    x, y = np.zeros((4, 28, 28, 1)), np.arange(4)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    monkeypatch.chdir(tmp_path)
    run("train lenet_300_100 --data data.npz --epochs 1 --learning-rate 0.25 --out dense.keras")
    assert keras.saving.load_model("dense.keras").optimizer.learning_rate == 0.25
    assert "Wrote dense.keras: 266,610 weights" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("last", "logits"),
    [
        ([layers.Dense(3)], True),
        ([layers.Dense(3, activation="softmax")], False),
        ([layers.Dense(3), layers.Softmax()], False),
        ([keras.Sequential([layers.Dense(3)])], True),
        ([layers.Dense(3), layers.Activation("linear")], True),
    ],
)
def test_cross_entropies_are_of_what_the_model_ends_in(last, logits):
    model = keras.Sequential([keras.Input((4,)), *last])
    for name in ("sparse_categorical_crossentropy", "CategoricalCrossentropy"):
        assert commands._loss(name, model).get_config()["from_logits"] is logits


def test_an_end_that_does_not_tell_is_refused():
    model = keras.Sequential([keras.Input((4, 4)), layers.Dense(3), layers.Flatten()])
    with pytest.raises(ValueError, match=r"cannot tell whether 'flatten.*', where model"):
        commands._loss("categorical_crossentropy", model)


@pytest.mark.parametrize(("out", "command"), WRITING)
def test_nothing_is_overwritten_but_by_force(out, command, files, capfd):
    (files / out).write_text("precious")
    before = contents(files)
    line = [*command.split(), "--out", out]
    assert "--force" in failure(capfd, *line)
    assert contents(files) == before
    assert cli.main([*line, "--force"]) == 0
    after = contents(files)
    assert after.pop(str(files / out)) != b"precious"
    assert after.items() <= before.items()


@contextlib.contextmanager
def full_disk(size: int):
    """No file can grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("out", "command"), WRITING)
def test_a_full_disk_leaves_what_was_there(out, command, files, capfd):
    (files / out).write_text("precious")
    before = contents(files)
    with full_disk(900):
        assert "File too large" in failure(capfd, *command.split(), "--out", out, "--force")
    assert contents(files) == before


def test_a_checkpoint_outlives_a_full_disk(files, capfd, monkeypatch):
    line = "prune model.keras --data data.npz --sparsity 0.5 --out a.keras --force"
    run(line)
    expected = kernels(files / "a.keras")
    (files / "a.keras").write_text("precious")
    before = contents(files)
    save = commands._save

    def save_to_a_full_disk(model, file):
        with full_disk(900):
            save(model, file)

    line += " --checkpoint run.ckpt"
    with monkeypatch.context() as disk:
        disk.setattr(commands, "_save", save_to_a_full_disk)
        assert "File too large" in failure(capfd, *line.split())
    after = contents(files)
    assert after.pop(str(files / "run.ckpt"))
    assert after == before
    run(line)
    assert not (files / "run.ckpt").exists()
    for found, kernel in zip(kernels(files / "a.keras"), expected, strict=True):
        np.testing.assert_array_equal(found, kernel)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sparsity", "1"], "sparsity"),
        (["--sparsity", "nan"], "sparsity"),
        (["--method", "guess"], "'guess'"),
        (["--curvature", "guess"], "'guess'"),
        (["--scope", "guess"], "'guess'"),
        (["--structure", "guess"], "'guess'"),
        (["--prunable", "guess"], "'guess'"),
        (["--loss", "guess"], "guess"),
        (["--loss", "guess_crossentropy"], "guess"),
        (["--min-keep", "-1"], "min_keep"),
        (["--steps", "-1"], "steps"),
        (["--learning-rate", "nan"], "learning_rate"),
        (["--batch-size", "0"], "batch_size"),
        (["--learning-rate", "1e30", "--steps", "9"], "step"),
        (["--out", "masks.txt"], ".npz"),
        (["--out", "absent/masks.npz"], "no folder"),
        (["--data", "absent"], "no absent: data is an .npz file, a folder of images, or mnist"),
        (["--data", "model.keras"], "model.keras is no NumPy archive of samples"),
    ],
)
def test_bad_option_of_prune(arguments, message, files, capfd):
    before = contents(files)
    command = "prune model.keras --data data.npz --sparsity 0.5 --out out.keras"
    assert message in failure(capfd, *command.split(), *arguments)
    assert contents(files) == before


def test_prune_without_data_or_loss(files, capfd):
    before = contents(files)
    command = "prune plain.keras --sparsity 0.5 --out out.keras"
    assert "not compiled with a loss: add --loss" in failure(
        capfd, *command.split(), "--data", "data.npz"
    )
    assert "no loss is given" in failure(capfd, *command.split())
    loss = ["--loss", "sparse_categorical_crossentropy"]
    assert "no data is given" in failure(capfd, *command.split(), *loss)
    assert contents(files) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "epochs must be at least 1"),
        (["--batch-size", "0"], "batch_size"),
        (["--loss", "guess"], "guess"),
        (["--optimizer", "guess"], "guess"),
        (["--learning-rate", "-1"], "learning_rate"),
        (["--learning-rate", "1e30"], "training diverged"),
        (["--data", "absent"], "no absent"),
        (["--out", "out.npz"], "must end in .keras"),
    ],
)
def test_bad_option_of_train(arguments, message, files, capfd):
    before = contents(files)
    command = "train model.keras --data data.npz --epochs 2 --out out.keras"
    assert message in failure(capfd, *command.split(), *arguments)
    assert contents(files) == before


def _foreign_archive(file: Path, _: bytes) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("letter.txt", "precious")


def _code(file: Path, _: bytes) -> None:
    keras.Sequential([keras.Input((4, 4, 1)), layers.Lambda(lambda x: x)]).save(file)


def _unknown_class(file: Path, _: bytes) -> None:
    with zipfile.ZipFile(file, "w") as new, zipfile.ZipFile("model.keras") as old:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"Conv2D", b"Guess2D"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file, _: file.unlink(), "there is no file bad.keras"),
        (lambda file, _: file.write_bytes(b""), "no Keras model, or a truncated one"),
        (lambda file, _: file.write_bytes(b"text"), "no Keras model, or a truncated one"),
        (lambda file, old: file.write_bytes(old[: len(old) // 2]), "or a truncated one"),
        (lambda file, old: file.write_bytes(old[:4000] + b"!" + old[4001:]), "CRC"),
        (_foreign_archive, "cannot be loaded as a Keras model"),
        (_code, "arbitrary code execution"),
        (_unknown_class, "Guess2D"),
    ],
)
def test_bad_model_files(damage, message, files, capfd):
    file = Path("bad.keras")
    file.write_bytes(Path("model.keras").read_bytes())
    damage(file, file.read_bytes())
    before = contents(files)
    for command in (
        "prune bad.keras --data data.npz --sparsity 0.5 --out out.keras",
        "train bad.keras --data data.npz --epochs 1 --out out.keras",
        "shrink bad.keras --out out.keras",
        "export bad.keras --out out.keras",
    ):
        assert message in failure(capfd, *command.split())
    assert contents(files) == before


def test_an_unreadable_image_is_named(files, capfd):
    Path("photos/class_1/000.png").write_text("no image")
    before = contents(files)
    for command in ("prune model.keras --sparsity 0.5", "train model.keras --epochs 1"):
        line = [*command.split(), "--data", "photos", "--out", "out.keras"]
        assert "class_1/000.png is not an image" in failure(capfd, *line)
    assert contents(files) == before


@pytest.mark.usefixtures("files")
def test_export_tells_the_size(capfd):
    run("prune model.keras --method magnitude --sparsity 0.7 --out pruned.keras")
    capfd.readouterr()
    run("export pruned.keras --out plain_again.keras")
    shown = capfd.readouterr().out
    assert f"{Path('plain_again.keras').stat().st_size:,} bytes" in shown
    assert "compressed" in shown
    assert "81 (28.22 %)" in shown  # of 270 weights and 17 biases
    assert "no folder" in failure(capfd, "export", "model.keras", "--out", "absent/a.keras")
    assert "'guess'" in failure(capfd, "export", "model.keras", "--format", "guess", "--out", "a")
    assert "tells no format" in failure(capfd, "export", "model.keras", "--out", "a.guess")
    assert "no SavedModel" in failure(capfd, "export", "model.keras", "--out", "photos", "--force")


def test_report_of_results(tmp_path, capfd):
    files = []
    for method in ("magnitude", "random"):
        files.append(tmp_path / f"{method}.npz")
        arguments = [*PRUNE, "--method", method, "--out", str(files[-1])]
        assert cli.main(arguments) == 0
    out, png = tmp_path / "report.html", tmp_path / "png"
    arguments = ["report", *files, "--out", out]
    capfd.readouterr()
    assert cli.main([*map(str, arguments)]) == 0
    assert f"Wrote {out}.\n" in capfd.readouterr().out
    before = out.read_bytes()
    assert b"Spearman" in before

    assert "--force" in failure(capfd, *arguments)
    assert cli.main([*map(str, arguments), "--png", str(png), "--force"]) == 0
    assert out.read_bytes() == before
    assert (png / "agreement.png").is_file()
    other = tmp_path / "other.html"
    assert "png exists" in failure(capfd, *arguments[:-1], other, "--png", png)
    assert not other.exists()


def test_bad_arguments_of_report_are_one_line(tmp_path, capfd):
    out = tmp_path / "report.html"
    foreign = tmp_path / "foreign.npz"
    foreign.write_text("precious")
    assert "absent.npz" in failure(capfd, "report", tmp_path / "absent.npz", "--out", out)
    assert "foreign.npz is no file of masks" in failure(capfd, "report", foreign, "--out", out)
    assert "must end in .html" in failure(capfd, "report", foreign, "--out", foreign)
    assert "no folder" in failure(capfd, "report", foreign, "--out", tmp_path / "absent" / "x.html")
    assert [file.name for file in tmp_path.iterdir()] == ["foreign.npz"]


def test_bad_data_folder_is_one_line(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PROSPR_DATA", str(tmp_path / "absent"))
    assert "absent" in failure(capfd, *PRUNE, "--out", tmp_path / "masks.npz")
    assert "absent" in failure(capfd, "demo", "--out", tmp_path)


def test_demo_passes_its_options_on(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(commands, "demo", lambda **options: calls.append(options))
    assert cli.main(["demo"]) == 0
    options = "--methods snip exact:4@5 --sparsities 0.5 0.6 --epochs 2 --seed 1 --quick"
    assert cli.main(["demo", *options.split(), "--force", "--out", str(tmp_path)]) == 0
    assert calls == [
        {},
        {
            "methods": ["snip", "exact:4@5"],
            "sparsities": [0.5, 0.6],
            "epochs": 2,
            "seed": 1,
            "quick": True,
            "force": True,
            "out": tmp_path,
        },
    ]


@pytest.mark.parametrize(
    "arguments", [[], ["guess"], ["prune"], ["train", "lenet5"], ["demo", "--epochs", "many"]]
)
def test_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: prospr" in capsys.readouterr().err


def test_help_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prospr", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("prospr_ops", run_name="__main__")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "examples:" in shown
    assert all(command in shown for command in parser._COMMANDS)


@pytest.mark.parametrize("command", parser._COMMANDS)
def test_help_of_each_command_has_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"  prospr {command}" in shown.partition("example")[2]
    if "built-in model:" in shown:
        assert all(name in shown for name in models.__all__)


def test_warnings_are_lines(monkeypatch, capfd):
    import warnings

    monkeypatch.setattr(commands, "info", lambda: warnings.warn("mind [this]", stacklevel=1))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main(["info"]) == 0
    assert "note: mind [this]\n" in capfd.readouterr().err


def test_interrupted(monkeypatch, capfd):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "info", interrupt)
    assert cli.main(["info"]) == 130
    assert capfd.readouterr().err == "prospr: interrupted\n"


def test_what_is_unexpected_is_not_hidden(monkeypatch):
    def fail():
        raise ZeroDivisionError

    monkeypatch.setattr(commands, "info", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["info"])


def test_exit_codes_of_the_process(tmp_path):
    def code(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "prospr_ops", *arguments],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        ).returncode

    assert code("export", "absent.keras", "--out", "a.keras") == 2
    assert code("--help") == 0


def test_a_comparison_does_not_draw_over_its_journal(tmp_path, capfd):
    for name, message in (("x.png", "must end in .jsonl"), ("absent/x.jsonl", "no folder")):
        assert message in failure(capfd, "compare", "--out", tmp_path / name)
    arguments = ["compare", "--contenders", "dense", "--out", tmp_path / "x.jsonl"]
    assert "nothing to compare" in failure(capfd, *arguments)
    assert not [*tmp_path.iterdir()]


def test_compare_passes_its_options_on(monkeypatch):
    calls = []
    monkeypatch.setattr(commands, "compare", lambda **options: calls.append(options))
    options = (
        "--contenders snip@20+revive rigl --dataset fashion_mnist --pretrained mnist --seeds 2"
    )
    assert cli.main(["compare", *options.split()]) == 0
    assert calls == [
        {
            "contenders": ["snip@20+revive", "rigl"],
            "dataset": "fashion_mnist",
            "pretrained": "mnist",
            "seeds": 2,
        }
    ]


# --- what is the user's own -------------------------------------------------------------------------

OWN = """
import keras

class Halved(keras.layers.Layer):
    def call(self, inputs):
        return inputs / 2

def own_loss(y_true, y_pred):
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
"""


@pytest.fixture
def own(files):
    """A file with a layer and a loss of the user's own, and a model made of them."""
    (files / "own.py").write_text(OWN)
    found = runpy.run_path(str(files / "own.py"))
    model = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), found["Halved"]()])
    model.add(layers.Dense(3))
    model.compile("sgd", found["own_loss"])
    model.save(files / "own.keras")
    return files


def test_custom_layers_and_losses_are_imported(own):
    command = [sys.executable, "-m", "prospr_ops", "prune", "own.keras", "--data", "data.npz"]
    command += ["--sparsity", "0.5", "--out", "out.keras"]
    alone = subprocess.run(command, cwd=own, capture_output=True, text=True, check=False)
    assert alone.returncode == 2
    assert "Could not locate" in alone.stderr
    assert "--import" in alone.stderr
    helped = subprocess.run(
        [*command, "--import", "own.py"], cwd=own, capture_output=True, text=True, check=False
    )
    assert helped.returncode == 0, helped.stderr
    assert (own / "out.keras").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.py", "No such file"),
        ("no_such_module", "No module named"),
        ("bad.py", "ZeroDivision"),
    ],
)
def test_what_cannot_be_imported_is_one_line(name, message, files, capfd):
    (files / "bad.py").write_text("1 / 0")
    line = "train model.keras --data data.npz --epochs 1 --out out.keras --import"
    shown = failure(capfd, *line.split(), name)
    assert message in shown
    assert name in shown


@pytest.mark.usefixtures("files")
def test_masks_are_applied_before_training():
    run("prune model.keras --data data.npz --sparsity 0.75 --seed 1 --out masks.npz")
    run("train model.keras --data data.npz --epochs 2 --masks masks.npz --out trained.keras")
    trained = keras.saving.load_model("trained.keras")
    masks = po.PruneResult.load("masks.npz").masks
    for variable in trained.trainable_variables:
        if variable.path in masks:
            assert not variable.numpy()[~masks[variable.path]].any()


@pytest.mark.usefixtures("files")
def test_training_by_the_kept_weights_alone_gives_the_masked_model(monkeypatch, capfd):
    monkeypatch.setattr(costs, "MARGIN", 0)  # or none of so few weights would go sparse
    run("prune model.keras --data data.npz --sparsity 0.75 --seed 1 --out pruned.keras")
    run("train pruned.keras --data data.npz --epochs 2 --out masked.keras")
    assert "sparsify" not in capfd.readouterr().out
    run("train pruned.keras --data data.npz --epochs 2 --sparse --out trained.keras")
    assert "× expected" in capfd.readouterr().out
    masked, trained = (keras.saving.load_model(f"{name}.keras") for name in ("masked", "trained"))
    for one, other in zip(masked.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)
    assert "has no masks" in failure(
        capfd,
        *[
            "train",
            "model.keras",
            "--data",
            "data.npz",
            "--epochs",
            "1",
            "--sparse",
            "--out",
            "out.keras",
        ],
    )


def test_advice_is_in_the_options_of_the_shell():
    options = {"min_keep", "scope", "loss"}
    message = "pass min_keep=1, scope='layer' or allow_empty=True; give loss= a name"
    expected = "pass --min-keep 1, --scope layer or allow_empty=True; give --loss a name"
    assert parser.in_shell_terms(message, options) == expected


def test_a_model_with_two_inputs_is_pruned(files):
    left, right = keras.Input((3,), name="left"), keras.Input((2,), name="right")
    outputs = layers.Dense(2, name="last")(layers.Concatenate()([left, right]))
    model = keras.Model([left, right], outputs)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.save(files / "two.keras")
    random = np.random.default_rng(0)
    arrays = {"x_train_left": (40, 3), "x_train_right": (40, 2)}
    np.savez(
        files / "two.npz",
        y_train=np.arange(40) % 2,
        **{name: random.normal(size=shape) for name, shape in arrays.items()},
    )
    run("prune two.keras --data two.npz --sparsity 0.5 --out two_pruned.keras two.json")
    assert sum(json.loads((files / "two.json").read_text())["kept"].values()) == 5


def test_a_file_without_the_keys_names_those_it_has(files, capfd):
    np.savez(files / "other.npz", images=np.zeros(3), labels=np.zeros(3))
    shown = failure(
        capfd,
        *["prune", "model.keras", "--data", "other.npz", "--sparsity", "0.5", "--out", "a.npz"],
    )
    assert "it has images, labels; there must be x_train and y_train, or x and y" in shown


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"prospr {po.__version__}\n"


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ("--flops 0.2", None),
        ("--sparsity 0.5 --scope erk", 135),
        ("--layer *dense*/kernel=0.75 --layer *conv2d*=0.5", 54 // 2 + (192 + 24) // 4),
        ("--sparsity 0.5 --layer *conv2d*=0.25", 135),
        ("--pattern 1:2 --prunable *dense*/kernel", 108),
        ("--pattern 2x1 --sparsity 0.5 --prunable *dense*/kernel", 108),
    ],
)
@pytest.mark.usefixtures("files")
def test_prune_to_budgets_and_patterns(options, kept):
    run(f"prune model.keras --data data.npz --seed 1 --out masks.npz a.json {options}")
    result = po.PruneResult.load("masks.npz")
    assert kept is None or result.kept == kept
    written = json.loads(Path("a.json").read_text())
    assert written["settings"]["scope"] == result.settings["scope"]


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("--rounds 2", {"method": "exact", "rounds": 2, "revive": False}),
        ("--rounds 3 --method snip --revive", {"method": "snip", "rounds": 3, "revive": True}),
    ],
)
@pytest.mark.usefixtures("files")
def test_prune_in_rounds(options, settings):
    run(
        f"prune model.keras --data data.npz --seed 1 --sparsity 0.8 --out a.keras a.npz a.json {options}"
    )
    result = po.PruneResult.load("a.npz")
    assert result.kept == 54
    assert sum(map(np.count_nonzero, kernels("a.keras"))) == 54
    assert json.loads(Path("a.json").read_text())["settings"].items() >= settings.items()
    model, data = keras.saving.load_model("model.keras"), np.load("data.npz")
    again = po.prune(
        model, (data["x_train"], data["y_train"]), sparsity=0.8, seed=1, verbose=0, **settings
    )
    for path, mask in again.masks.items():
        np.testing.assert_array_equal(result.masks[path], mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "pass exactly one of sparsity and flops"),
        ("--sparsity 0.5 --revive --rounds 5", "--revive is for methods 'first_order', 'snip'"),
        ("--sparsity 0.5 --revive --method snip", "--revive needs rounds of at least 2"),
        ("--flops 2", "flops must be above 0 and at most 1, not 2.0"),
        ("--flops 0.5 --sparsity 0.5", "two budgets"),
        ("--pattern 2-4", "pattern must be n:m"),
        ("--pattern 4:2", "prunes nothing"),
        ("--pattern 2:4 --sparsity 0.9", "which is not sparsity 0.9"),
        ("--sparsity 0.5 --scope block", "scope must be one of"),
        ("--layer a=1", "the sparsity of 'a' in scope must be at least 0 and less than 1"),
    ],
)
def test_budgets_are_checked_before_tensorflow_is_imported(options, message, monkeypatch, capfd):
    monkeypatch.delattr(parser, "_start_tensorflow")
    command = f"prune model.keras --data data.npz --out out.keras {options}"
    assert cli.main(command.split()) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--scope layer --layer a=0.5", "--scope and --layer contradict each other"),
        ("--layer a=0.5 --scope layer", "--scope and --layer contradict each other"),
        ("--layer a", "must be PATH=X"),
        ("--layer =0.5", "must be PATH=X"),
        ("--layer a=half", "must be PATH=X"),
    ],
)
def test_layers_are_pairs_and_no_scope(options, message, capsys):
    command = f"prune model.keras --data data.npz --sparsity 0.5 --out out.keras {options}"
    with pytest.raises(SystemExit, match="2"):
        cli.main(command.split())
    assert message in capsys.readouterr().err
