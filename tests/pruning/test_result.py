from __future__ import annotations

import io
import json

import keras
import numpy as np
import pytest
from results import result
from rich.console import Console

import prospr_ops as po
from prospr_ops.pruning import mask_files
from prospr_ops.utils.tables import html_table, magnitude, percent, rich_table


def test_summary_prints_the_table():
    console = Console(file=io.StringIO(), width=80)
    result().summary(console)
    expected = Console(file=io.StringIO(), width=80)
    expected.print(rich_table(result().rows()))
    assert console.file.getvalue() == expected.file.getvalue()


def test_notebooks_show_the_table():
    assert result()._repr_html_() == html_table(result().rows())


def test_counts_of_a_real_run():
    model = po.models.lenet5()
    pruned = po.prune(model, None, sparsity=0.8, method="magnitude", seed=0, verbose=0)
    assert pruned.input_shape == (28, 28, 1)
    rows = {row[0]: row[1:] for row in pruned.rows().body}
    for path, mask in pruned.masks.items():
        kept = int(np.count_nonzero(mask))
        pixels = {"lenet5/conv_1/kernel": 28 * 28, "lenet5/conv_2/kernel": 10 * 10}.get(path, 1)
        assert rows[path] == [
            "×".join(map(str, mask.shape)),
            f"{kept:,}",
            percent(kept / mask.size),
            f"{magnitude(2 * pixels * mask.size)} → {magnitude(2 * pixels * kept)}",
        ]


def test_a_subclassed_model_is_counted_by_its_data():
    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.head = keras.layers.Dense(3, name="head")

        def call(self, inputs):
            return self.head(inputs)

    model = Model()
    x = np.random.default_rng(0).normal(size=(8, 5, 4)).astype("f")
    model(x)
    options = {"sparsity": 0.5, "loss": "mse", "verbose": 0}
    with pytest.warns(UserWarning, match="model.save will not write"):
        pruned = po.prune(model, (x, np.zeros((8, 5, 3), "f")), method="snip", **options)
    assert pruned.input_shape == (5, 4)
    assert list(pruned.uses.values()) == [5]
    with pytest.warns(UserWarning, match="model.save will not write"):
        blind = po.prune(model, None, method="random", **options)
    assert (blind.input_shape, blind.uses) == (None, {})


def test_what_reports_need_comes_back(tmp_path):
    saved = result(input_shape=(8, 5, 1))
    saved.save(tmp_path / "result.npz")
    loaded = po.PruneResult.load(tmp_path / "result.npz")
    assert (loaded.uses, loaded.input_shape) == (saved.uses, saved.input_shape)
    assert loaded._repr_html_() == saved._repr_html_()


def test_a_file_without_them_is_read(tmp_path):
    saved = result()
    record = {
        name: getattr(saved, name)
        for name in ("sparsity", "settings", "losses", "estimators", "seconds")
    }
    mask_files.write_masks(tmp_path / "old.npz", saved.masks, saved.scores, record)
    loaded = po.PruneResult.load(tmp_path / "old.npz")
    assert (loaded.uses, loaded.input_shape) == ({}, None)
    assert loaded.losses == saved.losses


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: {},
        lambda record: {**record, "more": 1},
        lambda record: {name: value for name, value in record.items() if name != "settings"},
        lambda record: {**record, "losses": 1},
        lambda record: {**record, "settings": ["diagonal"]},
        lambda record: {**record, "settings": {}},
        lambda record: {**record, "uses": {"net/first/kernel": "many"}},
        lambda record: {**record, "sparsity": None},
        lambda record: {**record, "input_shape": 3},
        lambda record: {**record, "estimators": None},
    ],
)
def test_masks_with_another_record_are_refused(damage, tmp_path):
    file = tmp_path / "result.npz"
    result().save(file)
    masks, scores, record = mask_files.read_masks(file)
    mask_files.write_masks(file, masks, scores, damage(json.loads(json.dumps(record))))
    with pytest.raises(ValueError, match=r"result\.npz holds masks, but no record of `prune`"):
        po.PruneResult.load(file)
