from __future__ import annotations

import io
import itertools
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from rich.console import Console

import prospr_ops as po
from prospr_ops.cli import comparison
from prospr_ops.cli.comparison import Cell, Contender, Pruning, Training, journal, results, worker
from prospr_ops.cli.comparison.cells import DURING
from prospr_ops.cli.comparison.training import error_percent, fit, train
from prospr_ops.data import datasets as data

TINY = Training(epochs=1, batch_size=200)
CELL = Cell("lenet_300_100", Contender("snip"), 0.98, 0, Pruning(), TINY)


@pytest.fixture(autouse=True)
def _embedded_sample(monkeypatch):
    monkeypatch.setenv("PROSPR_DATA", str(data._MNIST_SAMPLE))
    worker.load.cache_clear()
    worker._scores.cache_clear()


@pytest.fixture(scope="module")
def digits():
    found = data.mnist(data._MNIST_SAMPLE)
    return found.x_train[:1000], found.y_train[:1000]


def console():
    return Console(file=io.StringIO(), width=100)


def logits(model, x):
    return model.predict(x, verbose=0)


def weights_of(model):
    return np.concatenate([w.ravel() for w in model.get_weights()])


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_training_is_that_of_fit(digits, clip_norm):
    """Momentum, weight decay, the drops of the learning rate and the masks included."""
    x, y = digits
    training = Training(
        epochs=4, batch_size=100, learning_rate=0.05, weight_decay=1e-2, clip_norm=clip_norm
    )
    ours, keras_own, fitted = (po.models.lenet5() for _ in range(3))
    masks = po.select(po.score(ours, (x, y), method="magnitude", verbose=0), 0.5)
    for model in (keras_own, fitted):
        model.set_weights(ours.get_weights())
    for model in (ours, keras_own, fitted):
        po.apply_masks(model, masks)
    train(ours, x, y, training, seed=3)
    fit(fitted, x, y, training, [], seed=3)

    def decayed_loss(labels, logits):
        squares = sum(keras.ops.sum(w * w) for w in keras_own.trainable_variables)
        entropy = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        return entropy + 0.5e-2 * squares

    optimizer = keras.optimizers.SGD(0.05, 0.9, global_clipnorm=clip_norm)
    keras_own.compile(optimizer, decayed_loss)
    random = np.random.default_rng(3)
    for rate in (0.05, 0.05, 0.005, 0.0005):
        optimizer.learning_rate = rate
        order = random.permutation(len(x))
        keras_own.fit(x[order], y[order], batch_size=100, shuffle=False, verbose=0)
    np.testing.assert_allclose(weights_of(ours), weights_of(keras_own), atol=2e-5)
    np.testing.assert_allclose(weights_of(fitted), weights_of(keras_own), atol=2e-5)
    assert error_percent(ours, x, y) < 80
    path = next(iter(masks))
    kernel = next(v for v in ours.variables if v.path == path)
    assert np.count_nonzero(kernel) <= masks[path].sum()


# What batch normalisation does to roundings in few weights would hide a mistake; tests/delivery has such.
@pytest.mark.parametrize("name", ["lenet_300_100", "lenet5", "lenet5_caffe"])
def test_a_sparse_network_is_trained_as_the_masked_one(name, digits):
    x, y = digits
    masked = getattr(po.models, name)(x.shape[1:])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    scores = po.score(masked, (x, y), method="snip", loss=loss, batch_size=100, verbose=0)
    masks = po.select(scores, 0.98)
    biases = [w for w in masked.variables if len(w.shape) == 1]
    kept = sum(mask.sum() for mask in masks.values())
    po.apply_masks(masked, masks)
    sparse = po.sparsify(masked, layers="all", verbose=0)
    assert weights_of(sparse).size == kept + sum(w.shape[0] for w in biases)
    np.testing.assert_allclose(logits(sparse, x), logits(masked, x), atol=1e-5)
    training = Training(epochs=2, learning_rate=0.02)
    before = logits(masked, x)
    for model in (sparse, masked):
        train(model, x, y, training, seed=0)
    assert np.abs(logits(masked, x) - before).max() > 0.1
    np.testing.assert_allclose(logits(sparse, x), logits(masked, x), atol=1e-4)


def test_a_sparse_network_without_a_bias_and_with_a_blind_layer(digits):
    x, _ = digits
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            keras.layers.Conv2D(4, (4, 3), padding="same", use_bias=False, activation="tanh"),
            keras.layers.Conv2D(3, 3),
            keras.layers.MaxPooling2D(3),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    kernels = [w for w in model.trainable_variables if len(w.shape) > 1]
    masks = {w.path: np.zeros(w.shape, bool) for w in kernels}
    masks[kernels[0].path][:, :, :, 1:] = masks[kernels[2].path][::2] = True
    for blind in (True, False):
        masks[kernels[1].path][1] = not blind
        whole = keras.models.clone_model(model)
        whole.set_weights(model.get_weights())
        paths = [w.path for w in whole.weights if len(w.shape) > 1]
        po.apply_masks(whole, dict(zip(paths, masks.values(), strict=True)))
        sparse = po.sparsify(whole, layers="all", verbose=0)
        assert len(sparse.trainable_variables) == 5
        assert (np.ptp(logits(whole, x), axis=0) == 0).all() == blind
        np.testing.assert_allclose(logits(sparse, x), logits(whole, x), atol=1e-5)


def test_blind_network(digits):
    """A method may leave layers without any weight: they stay dense, and masked."""
    x, y = digits
    model = po.models.lenet_300_100()
    masks = {w.path: np.zeros(w.shape, bool) for w in model.trainable_variables if w.ndim == 2}
    masks[list(masks)[1]][0, 0] = True
    po.apply_masks(model, masks)
    blind = po.sparsify(model, layers="all", verbose=0)
    train(blind, x, y, replace(TINY, clip_norm=0.1), seed=0)
    assert np.abs(weights_of(blind)).max() > 0
    assert np.ptp(logits(blind, x), axis=0).max() == 0
    assert error_percent(blind, x, y) > 70


def test_controls():
    plain = worker._masks(CELL)
    shuffled = worker._masks(replace(CELL, contender=Contender("snip", control="shuffled")))
    redrawn = worker._masks(replace(CELL, contender=Contender("snip", control="reinit")))
    for path, mask in plain.items():
        assert shuffled[path].sum() == mask.sum()
        assert np.array_equal(redrawn[path], mask)
    first = next(iter(plain))
    assert not np.array_equal(shuffled[first], plain[first])


def test_record_repeats_the_run():
    record = worker.run_cell(CELL)
    assert {"model", "dataset", "method", "steps", "sparsity", "seed", "test_error"} <= set(record)
    assert sum(record["kept"].values()) == 5324
    assert 5 < record["test_error"] < 60
    assert worker.run_cell(CELL)["test_error"] == record["test_error"]
    reinit = worker.run_cell(replace(CELL, contender=Contender("snip", control="reinit")))
    assert reinit["kept"] == record["kept"]
    assert reinit["test_error"] != record["test_error"]
    assert reinit["method"] == "reinit:snip"


def test_synflow_goes_to_the_sparsity():
    record = worker.run_cell(replace(CELL, contender=Contender("synflow")))
    assert sum(record["kept"].values()) == 5324
    assert record["steps"] is None
    assert record["batch_size"] is None


@pytest.mark.parametrize("method", DURING)
def test_pruned_during_training(method):
    """From the same weights, to the sparsity exactly; those that move keep each layer's number."""
    cell = replace(CELL, contender=Contender(method), training=replace(TINY, adam=True))
    record = worker.run_cell(cell)
    assert sum(record["kept"].values()) == 5324
    assert worker.run_cell(cell)["test_error"] == record["test_error"]
    if method in ("rigl", "set"):
        held = worker.run_cell(replace(cell, contender=Contender("random_erk")))
        assert record["kept"] == held["kept"]
        assert record["test_error"] != held["test_error"]
    if method == "exact_rigl":
        exact = worker.run_cell(replace(cell, contender=Contender("exact", 3)))
        assert record["kept"] == exact["kept"]
        assert record["test_error"] != exact["test_error"]


def test_of_a_pretrained_network(monkeypatch):
    """It is pruned and trained from what the first training left, but for new weights."""
    data = worker.load("mnist", False)
    monkeypatch.setattr(worker, "load", lambda *_: data)  # one data set in the place of two
    worker._trained.cache_clear()
    cell = replace(CELL, pretrained="fashion_mnist", contender=Contender("magnitude"))
    keras.utils.set_random_seed(0)
    model = po.models.lenet_300_100()
    train(model, data.x_train, data.y_train, TINY, seed=0)
    for weight, expected in zip(
        worker._network(cell, data).get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(weight, expected)
    kernels = {w.path: np.abs(w.numpy()) for w in model.trainable_variables if w.ndim == 2}
    expected = po.select(kernels, 0.98)
    for path, mask in worker._masks(cell).items():
        np.testing.assert_array_equal(mask, expected[path])
    record = worker.run_cell(cell)
    assert record["pretrained"] == "fashion_mnist"
    reinit = worker.run_cell(replace(cell, contender=Contender("magnitude", control="reinit")))
    assert reinit["kept"] == record["kept"]
    assert record["test_error"] < reinit["test_error"]


def test_compare_resumes(tmp_path):
    path = tmp_path / "journal.jsonl"
    options = {"sparsities": [0.9, 0.98], "training": TINY, "console": console()}
    first = comparison.compare(path, contenders=["dense", "snip"], seeds=1, workers=1, **options)
    assert [(r["method"], r["sparsity"]) for r in first] == [
        ("dense", 0.0),
        ("snip", 0.9),
        ("snip", 0.98),
    ]
    *kept, last = path.read_text().splitlines(keepends=True)
    # As if the last had been killed in the middle of its line.
    path.write_text("".join(kept) + last[:40])
    again = comparison.compare(path, contenders=["dense", "snip"], seeds=1, workers=1, **options)
    assert path.read_text().splitlines(keepends=True)[:2] == kept
    assert len(journal.read(path)) == 3
    # The same errors from a process of its own: nothing hangs on what ran before.
    assert [r["test_error"] for r in again] == [r["test_error"] for r in first]
    before = path.read_bytes()
    assert comparison.compare(path, contenders=["snip"], seeds=1, **options) == again[1:]
    assert path.read_bytes() == before


def _runs(process: str) -> bool:
    """Whether a process is there and not a zombie, whose parent has not looked at it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_killed_run_loses_nothing_finished(tmp_path):
    path = tmp_path / "journal.jsonl"
    arguments = ["compare", "--contenders", "random", "magnitude", "--sparsities", "0.5", "0.9",
                 "--seeds", "1", "--epochs", "1", "--workers", "1", "--out", str(path)]  # fmt: skip
    code = f"from prospr_ops import cli; cli.main({arguments})"
    run = subprocess.Popen([sys.executable, "-c", f"if __name__ == '__main__': {code}"],
                           stdout=subprocess.DEVNULL)  # fmt: skip
    for _ in range(1200):
        if path.exists() and path.read_text().count("\n") >= 1:
            break
        assert run.poll() is None, "it ended without a single cell"
        time.sleep(0.1)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    run.kill()
    run.wait()
    assert children
    for _ in range(100):  # its workers end too, rather than write on
        if not any(map(_runs, children)):
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"{children} outlived the run")
    survived = journal.read(path)
    assert 1 <= len(survived) < 4
    records = comparison.compare(path, contenders=["random", "magnitude"], sparsities=[0.5, 0.9],
                                 seeds=1, training=Training(epochs=1), workers=1,
                                 console=console())  # fmt: skip
    assert len(records) == 4
    assert journal.read(path)[: len(survived)] == survived
    assert len(journal.read(path)) == 4


def test_a_prospect_that_diverges_is_named_when_the_others_are_finished(tmp_path):
    path = tmp_path / "journal.jsonl"
    with pytest.raises(ValueError, match=r"^first_order:3, seed 0: .*The other networks are in"):
        comparison.compare(
            path, contenders=["shuffled:first_order", "random"], sparsities=[0.5], seeds=1,
            pruning=Pruning(learning_rate=1e30), training=TINY, workers=1, console=console(),
        )  # fmt: skip
    assert [record["method"] for record in journal.read(path)] == ["random"]


@pytest.mark.parametrize(
    ("text", "contender"),
    [
        ("dense", Contender("dense")),
        ("exact", Contender("exact", 3)),
        ("exact:100", Contender("exact", 100)),
        ("snip", Contender("snip")),
        ("synflow", Contender("synflow")),
        ("shuffled:exact:20", Contender("exact", 20, "shuffled")),
        ("reinit:snip", Contender("snip", None, "reinit")),
        ("exact:3@5", Contender("exact", 3, rounds=5)),
        ("shuffled:snip@20+revive", Contender("snip", None, "shuffled", 20, True)),
        ("gradual", Contender("gradual")),
        ("rigl", Contender("rigl")),
    ],
)
def test_contender(text, contender):
    assert Contender.parse(text) == contender
    assert Contender.parse(str(contender)) == contender


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exakt", "'exact'"),
        ("snip:3", "takes no steps"),
        ("exact:many", "exact:3@5"),
        ("exact:3@", "exact:3@5"),
        ("snip@0", "exact:3@5"),
        ("snip@many", "exact:3@5"),
        ("dense@5", "has no scores"),
        ("reinit:dense", "no masks"),
        ("scrambled:exact", "'exact'"),
        ("shuffled:rigl", "no masks before training"),
        ("gradual:3", "takes no steps"),
        ("rigl@5", "has no scores"),
        ("exact@5+revive", "is for methods 'first_order', 'snip', not 'exact'"),
        ("snip@1+revive", "needs rounds of at least 2"),
        ("snip@5+return", r"exact:3@5"),
        ("snip+revive", "must be one of"),
    ],
)
def test_bad_contender(text, message):
    with pytest.raises(ValueError, match=message):
        Contender.parse(text)


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ({"model": "resnet"}, ValueError, "lenet_300_100"),
        ({"pretrained": "cifar"}, ValueError, "pretrained must be one of 'mnist'"),
        ({"sparsities": [1.0]}, ValueError, "sparsity"),
        ({"sparsities": []}, ValueError, "empty"),
        ({"contenders": []}, ValueError, "empty"),
        ({"seeds": 0}, ValueError, "seeds"),
        ({"workers": -1}, ValueError, "workers"),
        ({"workers": 0}, ValueError, "workers"),
    ],
)
def test_bad_options(option, error, message, tmp_path):
    with pytest.raises(error, match=message):
        comparison.compare(tmp_path / "journal.jsonl", **option)
    assert not (tmp_path / "journal.jsonl").exists()


def test_foreign_file_is_left_alone(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("Dear Sir,\nyours")
    with pytest.raises(ValueError, match="line 1"):
        comparison.compare(path)
    assert path.read_text() == "Dear Sir,\nyours"


def test_validation_needs_samples():
    with pytest.raises(ValueError, match="validation"):
        worker.run_cell(replace(CELL, validation=True))


def made_up(method, sparsity, seed, error, steps=None):
    return {"model": "lenet_300_100", "dataset": "mnist", "method": method, "steps": steps,
            "learning_rate": steps and 0.1, "sparsity": sparsity, "seed": seed,
            "training_epochs": 2, "validation": False, "test_error": error}  # fmt: skip


RECORDS = [
    made_up("dense", 0.0, 0, 1.5),
    made_up("dense", 0.0, 1, 1.7),
    *(made_up("exact", s, seed, 2 + seed, 100) for s in (0.9, 0.98) for seed in (0, 1, 2)),
    *(made_up("shuffled:exact", s, 0, 9.0, 100) for s in (0.9, 0.98)),
]


NINETY = results.Budget(0.9)


def test_errors():
    rows = results.errors(RECORDS)
    assert list(rows) == ["Dense", "ProsPr-exact, M = 100", "ProsPr-exact, M = 100, shuffled"]
    assert rows["ProsPr-exact, M = 100"][NINETY] == (3.0, 1.0, 3)
    assert str(rows["ProsPr-exact, M = 100"][NINETY]) == "3.00 ± 1.00"
    assert str(rows["ProsPr-exact, M = 100, shuffled"][NINETY]) == "9.00"


def test_differences_are_paired_by_seed():
    exact, snip = (
        [
            RECORDS[0]
            | {"method": method, "steps": steps, "sparsity": 0.9, "seed": seed, "test_error": error}
            for seed, error in enumerate(errors)
        ]
        for method, steps, errors in (("exact", 3, (1.0, 5.0, 3.0)), ("snip", None, (2.0, 7.0)))
    )
    found = results.paired_differences([*exact, *snip], "snip", "exact:3")
    assert found == {NINETY: (1.5, pytest.approx(0.5), 2)}  # differences of 1 and 2
    assert results.paired_differences([*exact, *snip], "snip@5", "exact:3") == {}


def test_rates_are_named_where_there_are_several():
    other = [record | {"learning_rate": 0.03} for record in RECORDS if record["steps"]]
    snip = RECORDS[0] | {"method": "snip", "sparsity": 0.9}
    assert list(results.errors([*RECORDS, *other, snip])) == [
        "Dense",
        "ProsPr-exact, M = 100, α = 0.1",
        "ProsPr-exact, M = 100, α = 0.1, shuffled",
        "ProsPr-exact, M = 100, α = 0.03",
        "ProsPr-exact, M = 100, α = 0.03, shuffled",
        "SNIP",
    ]


def test_table():
    shown = console()
    shown.print(results.comparison_table(RECORDS))
    text = shown.file.getvalue()
    for part in (
        "test error",
        "1 to 3 seeds",
        "2 epochs",
        "dense 1.60 ± 0.14",
        "90 %",
        "3.00 ± 1.00",
    ):
        assert part in text


def test_figure(tmp_path):
    figure = results.comparison_figure(RECORDS)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "ProsPr-exact, M = 100",
        "ProsPr-exact, M = 100, shuffled",
        "Dense",
    ]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [3, 3])
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (2, 4)
    figure.savefig(tmp_path / "figure.png")


def test_an_axis_of_close_errors_has_marks():
    close = [{**record, "test_error": 8 + record["seed"]} for record in RECORDS]
    (axes,) = results.comparison_figure(close).axes
    assert len(axes.get_yticks()) >= 3
    lowest, highest = axes.get_ylim()
    assert all(lowest <= mark <= highest for mark in axes.get_yticks())


def test_journal_lines_are_whole(tmp_path):
    """Two writers do not mix their lines."""
    path = tmp_path / "journal.jsonl"
    code = (
        "import sys; from pathlib import Path; from prospr_ops.cli.comparison import journal\n"
        "for n in range(300): journal.append(Path(sys.argv[1]), {'model': sys.argv[2] * 2000, "
        "'method': 'x', 'sparsity': n})"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, path, name]) for name in "ab"]
    assert [run.wait() for run in runs] == [0, 0]
    found = journal.read(path)
    assert [json.dumps(r["model"])[1:2] for r in found].count("a") == 300
    for name, records in itertools.groupby(
        sorted(found, key=lambda r: r["model"]), lambda r: r["model"][0]
    ):
        assert [r["sparsity"] for r in records] == list(range(300)), name


def test_budgets_of_multiply_adds(tmp_path):
    path = tmp_path / "flops.jsonl"
    records = comparison.compare(
        path, contenders=["dense", "snip", "snip@2"], flops=[0.2, 0.05], seeds=1, training=TINY,
        console=console(),
    )  # fmt: skip
    assert [(r["method"], r["flops"]) for r in records] == [
        *(("dense", None), ("snip", 0.2), ("snip", 0.05), ("snip", 0.2), ("snip", 0.05)),
    ]
    for record in records[1:]:  # each weight of a dense layer is used once
        assert sum(record["kept"].values()) == int(266_200 * record["flops"])
        assert record["lowest_error"] == record["test_error"]  # of one epoch
    table = comparison.comparison_table(records)
    assert [column.header for column in table.columns] == ["", "flops=0.2", "flops=0.05"]
    assert comparison.comparison_figure(records).axes[0].get_xlabel() == "multiply-adds pruned"
    with pytest.raises(ValueError, match="random_erk, rigl cannot meet flops"):
        comparison.compare(path, contenders=["random_erk", "rigl"], flops=[0.1])
    with pytest.raises(ValueError, match="flops must be above 0 and at most 1"):
        comparison.compare(path, contenders=["snip"], flops=[0.0])


def test_random_masks_by_erk_are_those_that_dynamic_sparsity_holds(digits):
    x, y = digits
    cell = replace(CELL, contender=Contender("random_erk"), seed=3)
    masks = worker._masks(cell)
    model = worker._drawn(cell.model, 3, worker.load("mnist", False))
    held = po.callbacks.DynamicSparsity(cell.sparsity, fraction=0.0, seed=3)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x[:100], y[:100], verbose=0, callbacks=[held])
    for mask, other in zip(masks.values(), held.masks.values(), strict=True):
        np.testing.assert_array_equal(mask, other)
