"""A run that was killed goes on where it was, to the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from problems import LOGITS, PROBLEMS

import prospr_ops as po
from prospr_ops.methods.engine import checkpoint as checkpoints
from prospr_ops.pruning import mask_files

STEPS = 6


class Killed(Exception):
    """Stands for a SIGKILL: the checkpoint is left as it is."""


@pytest.fixture(autouse=True)
def _after_every_step(monkeypatch):
    monkeypatch.setattr(checkpoints, "_SHARE", 1.0)


def _killed_after(monkeypatch, done: int) -> None:
    """The next run ends right after the checkpoint of so many steps."""
    save = checkpoints.Checkpoint.save

    def save_and_die(self, progress: checkpoints.Progress, state: Any) -> None:
        if progress.done == done:
            save(self, progress, state)
            monkeypatch.setattr(checkpoints.Checkpoint, "save", save)
            raise Killed

    monkeypatch.setattr(checkpoints.Checkpoint, "save", save_and_die)


def _score(problem, model, path, data=None, **options):
    return po.score(
        model,
        problem.data() if data is None else data,
        checkpoint=path,
        **{
            "loss": problem.loss,
            "method": "diagonal",
            "steps": STEPS,
            "batch_size": 16,
            "seed": 3,
            "verbose": 0,
            **options,
        },
    )


def _assert_same(one, other):
    assert one.keys() == other.keys()
    for path, values in one.items():
        np.testing.assert_array_equal(values, other[path], err_msg=path)


@pytest.mark.usefixtures("execution")
@pytest.mark.parametrize("method", ["diagonal", "exact", "first_order"])
@pytest.mark.parametrize(
    ("problem", "momentum"),
    [*((problem, 0.9) for problem in PROBLEMS), (PROBLEMS[2], 0.0)],
    ids=[*(problem.name for problem in PROBLEMS), "without momentum"],
)
def test_a_resumed_run_gives_the_same_bits(problem, method, momentum, tmp_path, monkeypatch):
    path, model = tmp_path / "run.ckpt", problem.model()
    before = [variable.numpy() for variable in model.variables]
    options = {"method": method, "momentum": momentum}
    expected = _score(problem, model, None, **options)
    for done in (1, STEPS):
        _killed_after(monkeypatch, done)
        with pytest.raises(Killed):
            _score(problem, model, path, **options)
        for variable, old in zip(model.variables, before, strict=True):
            np.testing.assert_array_equal(variable, old)
    _assert_same(_score(problem, model, path, **options), expected)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options", [{"structure": "channel"}, {"microbatch": 5}, {"nesterov": True}]
)
def test_every_option_is_resumed(options, tmp_path, monkeypatch):
    problem = PROBLEMS[0]
    path, model = tmp_path / "run.ckpt", problem.model()
    options = {"method": "exact", "momentum": 0.5, **options}
    expected = _score(problem, model, None, **options)
    _killed_after(monkeypatch, 3)
    with pytest.raises(Killed):
        _score(problem, model, path, **options)
    _assert_same(_score(problem, model, path, **options), expected)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16", "float16", "float64"])
def test_every_precision_is_resumed(dtype, tmp_path, monkeypatch):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        model = PROBLEMS[0].model()
    finally:
        keras.config.set_dtype_policy(policy)
    options = {"loss": LOGITS, "learning_rate": 0.01}
    expected = _score(PROBLEMS[0], model, None, **options)
    _killed_after(monkeypatch, 2)
    with pytest.raises(Killed):
        _score(PROBLEMS[0], model, tmp_path / "run.ckpt", **options)
    _assert_same(_score(PROBLEMS[0], model, tmp_path / "run.ckpt", **options), expected)


def test_the_whole_record_comes_back_and_the_file_outlives_a_refused_sparsity(
    tmp_path, monkeypatch
):
    problem, path = PROBLEMS[0], tmp_path / "run.ckpt"
    model = problem.model()
    options = {"loss": problem.loss, "seed": 1, "steps": STEPS, "batch_size": 16, "verbose": 0}
    _killed_after(monkeypatch, STEPS)
    with pytest.raises(Killed):
        po.prune(model, problem.data(), sparsity=0.5, checkpoint=path, **options)
    with pytest.raises(ValueError, match="no longer depend on its input"):
        po.prune(model, problem.data(), sparsity=0.97, checkpoint=path, **options)
    assert path.exists()
    resumed = po.prune(model, problem.data(), sparsity=0.5, checkpoint=path, **options)
    assert not path.exists()
    expected = po.prune(problem.model(), problem.data(), sparsity=0.5, **options)
    assert len(resumed.losses) == STEPS + 1
    assert list(resumed.estimators.values()) == list(expected.estimators.values())


def test_a_dataset_is_taken_up_where_it_was(tmp_path, monkeypatch):
    problem, path = PROBLEMS[0], tmp_path / "run.ckpt"
    model = problem.model()
    data = tf.data.Dataset.from_tensor_slices(problem.data())
    steady = data.shuffle(48, seed=1).batch(16)
    expected = _score(problem, model, None, data.shuffle(48, seed=1).batch(16))
    _killed_after(monkeypatch, 4)
    with pytest.raises(Killed):
        _score(problem, model, path, steady)
    resumed = _score(problem, model, path, data.shuffle(48, seed=1).batch(16))
    _assert_same(resumed, expected)


# --- what is refused -----------------------------------------------------------------------------


def _left_behind(tmp_path, monkeypatch, model, method="diagonal"):
    path = tmp_path / "run.ckpt"
    _killed_after(monkeypatch, 2)
    with pytest.raises(Killed):
        _score(PROBLEMS[0], model, path, method=method)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 4}, "another run: seed was 3 and is 4"),
        ({"steps": 9}, "steps was 6 and is 9"),
        ({"learning_rate": 0.2}, "learning_rate was 0.1 and is 0.2"),
        ({"method": "first_order"}, "method was 'diagonal' and is 'first_order'"),
        ({"curvature": "row_sum"}, "curvature was 'auto' and is 'row_sum'"),
        ({"loss": "sparse_categorical_crossentropy"}, "loss was .* and is"),
        ({"prunable": ["*dense/kernel"]}, "the prunable weights was .* and is"),
        ({"batch_size": 8}, "batch_size was 16 and is 8"),
    ],
)
def test_other_settings_are_refused(options, message, tmp_path, monkeypatch):
    keras.utils.clear_session()
    model = PROBLEMS[0].model()
    path = _left_behind(tmp_path, monkeypatch, model)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        _score(PROBLEMS[0], model, path, **options)
    assert path.read_bytes() == before


def test_another_model_is_refused(tmp_path, monkeypatch):
    keras.utils.clear_session()
    model = PROBLEMS[0].model()
    path = _left_behind(tmp_path, monkeypatch, model)
    kernel = model.layers[0].kernel
    values = kernel.numpy()
    kernel.assign(np.nextafter(values, np.float32(9)))
    with pytest.raises(ValueError, match="variable 0 was 'sequential/dense/kernel float32"):
        _score(PROBLEMS[0], model, path)
    kernel.assign(values)
    model.layers[0].activation = keras.activations.tanh
    with pytest.raises(ValueError, match="the model's configuration was 'Sequential"):
        _score(PROBLEMS[0], model, path)


@pytest.mark.parametrize("method", ["diagonal", "exact"])
def test_other_data_are_refused(method, tmp_path, monkeypatch):
    model = PROBLEMS[0].model()
    path = _left_behind(tmp_path, monkeypatch, model, method)
    x, y = PROBLEMS[0].data()
    x[0, 0] += 1
    with pytest.raises(ValueError, match=r"first \d batches are not those"):
        _score(PROBLEMS[0], model, path, (x, y), method=method)


def test_steps_that_cannot_be_repeated_are_refused(tmp_path, monkeypatch):
    """The steps forward of exact are made again: not with other bits."""
    model = PROBLEMS[0].model()
    path = _left_behind(tmp_path, monkeypatch, model, "exact")
    monkeypatch.setattr(
        model, "call", lambda x, **_: model.layers[1](1.01 * model.layers[0](x)), raising=True
    )
    with pytest.raises(ValueError, match="cannot be repeated bit for bit: its losses were"):
        _score(PROBLEMS[0], model, path, method="exact")


def test_a_state_of_other_shapes_is_refused(tmp_path, monkeypatch):
    """As versions before had of the same run."""
    model = PROBLEMS[0].model()
    path = tmp_path / "run.ckpt"
    save = checkpoints.Checkpoint.save

    def save_in_parts(self, progress: checkpoints.Progress, state: Any) -> None:
        save(self, progress, [tf.reshape(state[0], [1, -1]), *state[1:]])
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoint, "save", save_in_parts)
        with pytest.raises(Killed):
            _score(PROBLEMS[0], model, path, method="exact")
    with pytest.raises(ValueError, match=r"run\.ckpt is the checkpoint of another version"):
        _score(PROBLEMS[0], model, path, method="exact")


def test_damage_is_refused(tmp_path, monkeypatch):
    model = PROBLEMS[0].model()
    path = _left_behind(tmp_path, monkeypatch, model)
    whole = path.read_bytes()
    before = [variable.numpy() for variable in model.variables]
    for length in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"run\.ckpt is no checkpoint"):
            _score(PROBLEMS[0], model, path)
    start = whole.index(b"state/0.npy") + 200  # within the values
    path.write_bytes(whole[:start] + b"\xa5\x5a" + whole[start + 2 :])
    with pytest.raises(ValueError, match=r"run\.ckpt is no checkpoint.*CRC"):
        _score(PROBLEMS[0], model, path)
    for variable, old in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, old)


def test_foreign_files_are_refused_and_kept(tmp_path):
    path, model = tmp_path / "precious", PROBLEMS[0].model()
    mask_files.write_masks(path, {"kernel": np.ones(3, bool)}, {}, {})
    with pytest.raises(ValueError, match=r"is no checkpoint.*it holds 'prospr_ops masks'"):
        _score(PROBLEMS[0], model, path)
    path.write_text("precious")
    with pytest.raises(ValueError, match="precious is no checkpoint"):
        _score(PROBLEMS[0], model, path)
    assert path.read_text() == "precious"


def test_what_cannot_work_is_said_before_the_run(tmp_path):
    model = PROBLEMS[0].model()
    with pytest.raises(ValueError, match="must be given a seed"):
        _score(PROBLEMS[0], model, tmp_path / "run.ckpt", seed=None)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*absent"):
        _score(PROBLEMS[0], model, tmp_path / "absent" / "run.ckpt")
    with pytest.raises(IsADirectoryError):
        _score(PROBLEMS[0], model, tmp_path)
    with pytest.raises(TypeError, match="int"):
        _score(PROBLEMS[0], model, 3)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    model = PROBLEMS[0].model()
    path = _left_behind(tmp_path, monkeypatch, model)
    before = path.read_bytes()

    def full(stream, *_, **__):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(np.lib.format, "write_array", full)
        with pytest.raises(OSError, match="No space"):
            _score(PROBLEMS[0], model, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["run.ckpt"]


# --- what it costs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "momentum", "bytes_a_weight"),
    [
        ("first_order", 0.0, 4),
        ("first_order", 0.9, 8),
        ("diagonal", 0.0, 9),
        ("diagonal", 0.9, 20),
        ("exact", 0.0, 4),
        ("exact", 0.9, 8),
    ],
)
def test_bytes_a_weight(method, momentum, bytes_a_weight, tmp_path, monkeypatch):
    """However many steps there are. Biases are left out, which are no weights."""
    dense = [keras.layers.Dense(units, use_bias=False) for units in (4000, 3)]
    model = keras.Sequential([keras.Input((5,)), *dense])
    path, sizes = tmp_path / "run.ckpt", []
    for steps in (2, 1000 if method == "diagonal" else 30):
        _killed_after(monkeypatch, steps)
        with pytest.raises(Killed):
            _score(PROBLEMS[0], model, path, method=method, momentum=momentum, steps=steps)
        sizes.append(path.stat().st_size)
        path.unlink()
    few, many = sizes
    assert 0 <= few - bytes_a_weight * model.count_params() < 12_000
    assert many - few < 100 * steps  # a loss a step


def test_writing_takes_a_twentieth_of_the_time_at_most(tmp_path, monkeypatch):
    monkeypatch.undo()
    clock, writes = [100.0], []
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])

    def write(path, *_):
        path.touch()
        writes.append(clock[0])
        clock[0] += 2.0

    monkeypatch.setattr(checkpoints, "write_archive", write)
    checkpoint = checkpoints.Checkpoint(tmp_path / "run.ckpt", {})
    for step in range(100):
        clock[0] += 1.0
        checkpoint.save(checkpoints.Progress(step, [], {}), [])
    assert writes == [101.0, 141.0, 181.0]


# --- processes that die --------------------------------------------------------------------------


def _interrupted(*arguments: str) -> dict[str, Any]:
    script = Path(__file__).parents[1] / "support" / "interrupted.py"
    run = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_killed_runs_end_with_the_same_masks():
    found = _interrupted("kill", "4", "diagonal, momentum", "exact")
    assert all(run["kills"] >= 2 and run["ends"] >= 1 for run in found.values())


@pytest.mark.slow
def test_runs_killed_again_and_again_end_with_the_same_masks():
    found = _interrupted("kill", "70")
    assert sum(run["kills"] for run in found.values()) >= 70


def test_ctrl_c_restores_the_model():
    found = _interrupted("interrupt", "4", "diagonal")
    assert found["diagonal"]["KeyboardInterrupt"] >= 1
