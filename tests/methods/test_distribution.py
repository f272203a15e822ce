"""Replicas that share every batch give what one process gives on the whole of it."""

from __future__ import annotations

from pathlib import Path

import distributed
import keras
import numpy as np
import pytest
import tensorflow as tf
import workers
from distributed import CASES

from prospr_ops.methods.engine.distribution import Replicas

# Where replicas normalise and draw for themselves, they do not.
EQUAL = [case for case in CASES if not case.startswith(("batchnorm", "dropout"))]
OWN = ["batchnorm exact", "dropout exact"]
QUICK = ["dense diagonal 0.0", "conv diagonal 0.9", "dense exact 0.9", "conv first_order 0.0"]
QUICK_MIRRORED = [
    "rounds",
    "revive",
    "hutchinson",
    "regularised exact",
    "microbatch",
    "fewer samples than replicas",
]


def _by_mirrored(folder: Path, replicas: int, *cases: str) -> dict[str, np.ndarray]:
    workers.finish(workers.start(folder / "mirrored.npz", replicas, *cases))
    return dict(np.load(folder / "mirrored.npz"))


def _by_workers(folder: Path, count: int, *cases: str) -> dict[str, np.ndarray]:
    """What all of them found alike."""
    with workers.cluster(folder, count, *cases) as processes:
        for process in processes:
            workers.finish(process)
    first, *others = (dict(np.load(folder / f"{index}.npz")) for index in range(count))
    for other in others:
        for name, array in first.items():
            np.testing.assert_array_equal(other[name], array, err_msg=name)
    return first


@pytest.fixture(scope="module")
def by_mirrored(tmp_path_factory):
    cases = [*QUICK, *QUICK_MIRRORED, "batchnorm", "dropout of twins", "train"]
    return _by_mirrored(tmp_path_factory.mktemp("mirrored"), 2, *cases)


@pytest.fixture(scope="module")
def by_workers(tmp_path_factory):
    return _by_workers(tmp_path_factory.mktemp("workers"), 2, *QUICK, "differ")


def _assert_equals_one_process(found: dict[str, np.ndarray], cases: list[str]) -> None:
    for case in cases:
        result = distributed.prune(case, distributed.model(CASES[case][0]))
        expected = distributed.flat(case, result)
        assert len(expected) > 4
        # Scores are logarithms; those of GraSP are not.
        plain = np.asarray if "grasp" in case else np.exp
        for name, array in expected.items():
            if "mask" in name or not array.size:
                np.testing.assert_array_equal(found[name], array, err_msg=name)
            else:
                bound = 1e-5 * np.abs(plain(array)).max()
                np.testing.assert_allclose(
                    plain(found[name]), plain(array), rtol=1e-5, atol=bound, err_msg=name
                )


def test_mirrored_replicas_equal_one_process(by_mirrored):
    _assert_equals_one_process(by_mirrored, [*QUICK, *QUICK_MIRRORED])


def test_two_workers_equal_one_process(by_workers):
    _assert_equals_one_process(by_workers, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 3])
def test_mirrored_replicas_equal_one_process_in_every_case(tmp_path, replicas):
    _assert_equals_one_process(_by_mirrored(tmp_path, replicas, *EQUAL, *OWN), EQUAL)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_workers_equal_one_process_in_every_case(tmp_path, count):
    _assert_equals_one_process(_by_workers(tmp_path, count, *EQUAL, *OWN), EQUAL)


def test_batchnorm_sees_a_replicas_share(by_mirrored):
    x, y = distributed.data("batchnorm")
    model = distributed.model("batchnorm")
    weights = [layer.kernel for layer in (model.layers[0], model.layers[-1])]
    # The mean over the shares of the first step's batch: of 33 samples, 16 and 17.
    order = np.random.default_rng(3).permutation(len(x))[:33]
    gradients = []
    for share in (order[:16], order[16:]):
        with tf.GradientTape() as tape:
            loss = distributed.loss()(y[share], model(x[share], training=True))
        gradients.append(tape.gradient(loss, [weight.value for weight in weights]))
    for number, (weight, first, second) in enumerate(zip(weights, *gradients, strict=True)):
        expected = np.abs((16 * first + 17 * second) / 33 * weight)
        score = np.exp(by_mirrored[f"batchnorm/score {number}"])
        np.testing.assert_allclose(score, expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_dropout_differs_between_replicas(by_mirrored):
    # Both have the same samples: if they drew the same, it were as if there was one.
    alone = distributed.prune("dropout of one", distributed.model("dropout")).scores
    together = by_mirrored["dropout of twins/score 0"]
    assert not np.allclose(np.exp(together), np.exp(next(iter(alone.values()))), rtol=0.1)


def test_masks_hold_under_training_by_replicas(by_mirrored):
    assert by_mirrored["zeros"].all()
    assert by_mirrored["trained"].all()


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("arguments", "the arguments must be the same on all workers, and differ"),
        ("weights", "the model's variables must be the same on all workers"),
        ("data", "batch 0 of data must be the same on all workers"),
        ("last batch", "batch 3 of data must be the same on all workers"),
    ],
)
def test_workers_that_differ_are_told(by_workers, what, told):
    assert str(by_workers[what]).startswith(told)


def test_a_killed_worker_is_an_error_on_the_other(tmp_path):
    assert None not in workers.lose(tmp_path, 2, 1, "SIGKILL")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["SIGKILL", "SIGSTOP"])
@pytest.mark.parametrize(("count", "lost"), [(2, 0), (2, 1), (4, 0), (4, 2)])
def test_a_lost_worker_is_an_error_on_the_others(tmp_path, count, lost, fault):
    assert None not in workers.lose(tmp_path, count, lost, fault)


@pytest.mark.slow
def test_a_worker_that_stands_still_is_an_error_after_the_strategys_timeout(tmp_path):
    assert None not in workers.lose(tmp_path, 2, 1, "STALL")


# --- one replica, in this process -------------------------------------------------------------------


@pytest.fixture
def strategy():
    return tf.distribute.MirroredStrategy(["CPU:0"])


def test_the_strategy_is_that_of_the_open_scope_or_of_the_model(strategy):
    with strategy.scope():
        model = distributed.model("dense")
        inside = distributed.prune("dense snip", model)
    expected = distributed.prune("dense snip", distributed.model("dense"))
    with strategy.scope():
        model = distributed.model("dense")
    outside = distributed.prune("dense snip", model)
    for one, other, third in zip(
        *(result.scores.values() for result in (expected, inside, outside)), strict=True
    ):
        np.testing.assert_allclose(other, one, rtol=1e-5)
        np.testing.assert_allclose(third, one, rtol=1e-5)


def test_one_device_strategy():
    one_device = tf.distribute.OneDeviceStrategy("CPU:0")
    with one_device.scope():
        model = distributed.model("dense")
    found = distributed.prune("dense diagonal 0.0", model, strategy=one_device)
    expected = distributed.prune("dense diagonal 0.0", distributed.model("dense"))
    for one, other in zip(found.scores.values(), expected.scores.values(), strict=True):
        np.testing.assert_array_equal(one, other)


def _sum() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")


def _distributed_data() -> tf.distribute.DistributedDataset:
    dataset = tf.data.Dataset.from_tensor_slices(distributed.data("dense")).batch(8)
    return tf.distribute.MirroredStrategy(["CPU:0"]).experimental_distribute_dataset(dataset)


@pytest.mark.parametrize(
    ("option", "value", "error", "message"),
    [
        ("strategy", lambda: "mirrored", TypeError, "must be a tf.distribute.Strategy, not str"),
        ("strategy", tf.distribute.get_strategy, ValueError, "is mirrored by another"),
        (
            "strategy",
            lambda: tf.distribute.MirroredStrategy(["CPU:0"]),
            ValueError,
            "model .* was not built in the scope of the MirroredStrategy: .* mirrored by another",
        ),
        (
            "strategy",
            tf.distribute.experimental.CentralStorageStrategy,
            ValueError,
            "strategy must be a MirroredStrategy, .* not a CentralStorageStrategy",
        ),
        ("data", _distributed_data, TypeError, "data must be a tuple .*, not DistributedDataset"),
        ("checkpoint", lambda: "state", ValueError, "keep no checkpoint of it"),
        ("loss", _sum, ValueError, "only share a loss that is a mean .* reduction is 'sum'"),
    ],
)
def test_what_replicas_cannot_do_is_refused(strategy, option, value, error, message):
    with strategy.scope():
        model = distributed.model("dense")
    before = [variable.numpy() for variable in model.variables]
    with pytest.raises(error, match=message):
        distributed.prune("dense snip", model, **{option: value()})
    for variable, old in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, old)


def test_synchronised_statistics_are_refused(strategy):
    with strategy.scope():
        model = distributed.model("batchnorm")
    model.layers[1].synchronized = True
    with pytest.raises(ValueError, match=r"layer 'batch.*' is to synchronise its statistics"):
        distributed.prune("batchnorm", model)


@pytest.mark.parametrize("method", ["diagonal", "exact", "first_order", "snip"])
def test_what_is_reduced_is_what_the_docs_say(strategy, method, monkeypatch):
    """docs/distribution.md counts P prunable and T trainable weights, and the loss each time."""
    counts = []
    plain_sum = Replicas.sum

    def counting_sum(self, terms):
        counts.append(sum(int(np.prod(term.shape)) for term in terms[0]))
        return plain_sum(self, terms)

    monkeypatch.setattr(Replicas, "sum", counting_sum)
    with strategy.scope():
        model = distributed.model("dense")
    distributed.prune("dense snip", model, method=method)
    trainable = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    prunable = trainable - (16 + 8 + 3)
    step, last = trainable + 1, prunable + 1
    expected = {  # traced once each; the first is the exchange of the seed
        "diagonal": [step + prunable, last],
        "exact": [step, step, step],
        "first_order": [step, last],
        "snip": [last],
    }
    assert counts[1:] == expected[method]


def test_a_model_from_outside_the_scope_is_refused(strategy):
    model = distributed.model("dense")
    with pytest.raises(ValueError, match=r"is not mirrored; build or load it within `with strat"):
        distributed.prune("dense snip", model, strategy=strategy)
    with strategy.scope(), pytest.raises(ValueError, match="is not mirrored"):
        distributed.prune("dense snip", model)


def test_another_strategys_scope_is_refused(strategy):
    with strategy.scope():
        model = distributed.model("dense")
    other = tf.distribute.MirroredStrategy(["CPU:0"])
    with other.scope(), pytest.raises(ValueError, match="the scope of a MirroredStrategy is open"):
        distributed.prune("dense snip", model, strategy=strategy)
