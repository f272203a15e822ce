"""Scoring by several replicas: the cases, and the process that runs them under a strategy.

    python distributed.py OUT REPLICAS CASE...

writes what is found to OUT, an .npz. A case is one of `CASES`, or "train", "differ" or "endless". With
TF_CONFIG in the environment the process is a worker of a MultiWorkerMirroredStrategy; else its replicas
are logical CPUs of a MirroredStrategy.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import prospr_ops as po

SAMPLES = 70


def _dense(**options: Any) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((20,)),
            layers.Dense(16, activation="relu", **options),
            layers.Dense(8, activation="relu"),
            layers.Dense(3),
        ]
    )


def _regularised() -> keras.Model:
    return _dense(kernel_regularizer=keras.regularizers.L2(0.05))


def _conv() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(6, 2, activation="relu"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def _batchnorm() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((20,)),
            layers.Dense(8, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(3),
        ]
    )


def _dropout() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((20,)),
            layers.Dense(16, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(3),
        ]
    )


def _double() -> keras.Model:
    return _dense(dtype="float64")


NETWORKS = {f.__name__[1:]: f for f in (_dense, _regularised, _conv, _batchnorm, _dropout, _double)}

# By name: network and options of `po.prune`. 33 samples a batch: no share is like the other.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    f"{network} {method} {momentum}": (network, {"method": method, "momentum": momentum})
    for network, method, momentum in itertools.product(
        ("dense", "conv"), ("diagonal", "exact", "first_order"), (0.0, 0.9)
    )
}
CASES |= {
    "dense snip": ("dense", {"method": "snip"}),
    "conv snip": ("conv", {"method": "snip"}),
    "dense grasp": ("dense", {"method": "grasp"}),
    "conv grasp": ("conv", {"method": "grasp"}),
    "synflow": ("dense", {"method": "synflow", "sparsity": 0.5}),
    "magnitude": ("dense", {"method": "magnitude"}),
    "random": ("dense", {"method": "random"}),
    "hutchinson": ("dense", {"method": "diagonal", "curvature": "hutchinson", "probes": 2}),
    "regularised diagonal": ("regularised", {}),
    "regularised exact": ("regularised", {"method": "exact"}),
    "compiled": ("regularised", {"loss": None}),
    "microbatch": ("conv", {"method": "exact", "microbatch": 4}),
    "rounds": ("conv", {"method": "exact", "rounds": 3}),
    "revive": ("conv", {"method": "first_order", "rounds": 3, "revive": True}),
    "fewer samples than replicas": ("dense", {"batch_size": 1}),
    "channels": ("conv", {"structure": "channel", "sparsity": 0.4}),
    "dataset": ("dense", {}),
    "sample weights": ("dense", {"method": "exact"}),
    "batchnorm": ("batchnorm", {"method": "snip"}),
    "batchnorm exact": ("batchnorm", {"method": "exact"}),
    "dropout exact": ("dropout", {"method": "exact", "momentum": 0.9}),
    "dropout of one": ("dropout", {"method": "snip"}),
    "dropout of twins": ("dropout", {"method": "snip"}),
}


def loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def data(network: str) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    shape = (8, 8, 1) if network == "conv" else (20,)
    x = random.standard_normal((SAMPLES, *shape)).astype("float32")
    return x, random.integers(0, 3, SAMPLES)


def model(network: str) -> keras.Model:
    keras.utils.set_random_seed(1)
    made = NETWORKS[network]()
    made.compile("sgd", loss())
    return made


def prune(case: str, pruned: keras.Model, **changed: Any) -> po.PruneResult:
    network, options = CASES[case]
    x, y = data(network)
    given: Any = (x, y)
    if case == "sample weights":
        given = (x, y, np.linspace(0, 2, SAMPLES, dtype="float32"))
    if case == "dropout of one":
        given = [(x[:8], y[:8])]
    if case == "dropout of twins":
        given = [(np.concatenate([x[:8], x[:8]]), np.concatenate([y[:8], y[:8]]))]
    if case == "dataset":
        given = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)  # 32, 32 and 6
    defaults = {"loss": loss(), "sparsity": 0.7, "batch_size": 33, "seed": 3, "verbose": 0}
    return po.prune(pruned, **{"data": given, **defaults, **options, **changed})


def equal(strategy: tf.distribute.Strategy, case: str) -> dict[str, Any]:
    """Scores, masks and losses of a case; every replica's copy of the model is pruned alike."""
    with strategy.scope():
        pruned = model(CASES[case][0])
    before = [variable.numpy() for variable in pruned.variables]
    result = prune(case, pruned)
    for variable, old in zip(pruned.variables, before, strict=True):
        kept = result.masks.get(variable.path, np.True_)
        for copy in strategy.experimental_local_results(variable.value):
            np.testing.assert_array_equal(copy, np.where(kept, old, 0))
    assert result.settings["replicas"] == strategy.num_replicas_in_sync
    return flat(case, result)


def flat(case: str, result: po.PruneResult) -> dict[str, Any]:
    """The arrays of a result by name."""
    found: dict[str, Any] = {f"{case}/losses": np.array(result.losses)}
    # Without the names of layers, which Keras counts up.
    found |= {f"{case}/score {i}": array for i, array in enumerate(result.scores.values())}
    return found | {f"{case}/mask {i}": array for i, array in enumerate(result.masks.values())}


def train(strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """Whether masks hold while a pruned model is trained by all replicas."""
    with strategy.scope():
        pruned = model("dense")
        pruned.compile(keras.optimizers.AdamW(0.01), loss())
    before = [variable.numpy() for variable in pruned.trainable_variables]
    masks = prune("dense snip", pruned).masks
    pruned.fit(*data("dense"), batch_size=32, epochs=2, verbose=0)
    zeros = [(w.numpy()[~masks[w.path]] == 0).all() for w in pruned.variables if w.path in masks]
    trained = [
        (variable.numpy() != old).any()
        for variable, old in zip(pruned.trainable_variables, before, strict=True)
    ]
    return {"zeros": zeros, "trained": trained}


def differ(strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """What is said where the second worker is given something else; the seed where none is given."""
    second = strategy.cluster_resolver.task_id == 1
    x, y = data("dense")
    changes: dict[str, dict[str, Any]] = {
        "arguments": {"steps": 2 + second},
        "data": {"data": (x + second, y)},
        "last batch": {"data": [(x, y)] * 3 + [(x, y + second)]},
    }
    found: dict[str, Any] = {}
    for name in (*changes, "weights"):
        with strategy.scope():
            pruned = model("dense")
        if name == "weights" and second:
            pruned.layers[0].kernel.assign_add(pruned.layers[0].kernel)
        before = [variable.numpy() for variable in pruned.variables]
        try:
            prune("dense snip", pruned, method="first_order", **changes.get(name, {}))
        except ValueError as error:
            found[name] = str(error)
        for variable, old in zip(pruned.variables, before, strict=True):
            np.testing.assert_array_equal(variable, old)
    keras.utils.set_random_seed(second)
    with strategy.scope():
        pruned = model("dense")
    keras.utils.set_random_seed(second)
    result = prune("dense snip", pruned, seed=None)
    return {"seed": result.settings["seed"], **found}


def endless(strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """Prunes on and on: the error that ends it, when, and whether the model is as before.

    After some batches the worker PAUSED stands still for PAUSE seconds, if they are given.
    """
    stands_still = os.environ.get("PAUSED") == str(strategy.cluster_resolver.task_id)
    pause = float(os.environ["PAUSE"]) if stands_still else 0

    class Batches:
        def __iter__(self) -> Iterator[Any]:
            for number in itertools.count():
                if number == 10:
                    sys.stdout.write("running\n")
                    sys.stdout.flush()
                    time.sleep(pause)
                yield data("dense")

    with strategy.scope():
        pruned = model("dense")
    before = [variable.numpy() for variable in pruned.variables]
    try:
        prune("dense snip", pruned, method="first_order", steps=10**6, data=Batches())
    except tf.errors.OpError as error:
        name, at = type(error).__name__, time.monotonic()
    restored = map(np.array_equal, [variable.numpy() for variable in pruned.variables], before)
    return {"error": name, "at": at, "restored": list(restored)}


def main(out: str, replicas: str, *cases: str) -> None:
    if "TF_CONFIG" in os.environ:
        options = tf.distribute.experimental.CommunicationOptions(
            timeout_seconds=float(os.environ["PAUSE"]) / 10 if "PAUSE" in os.environ else None
        )
        strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    else:
        [cpu] = tf.config.list_physical_devices("CPU")
        devices = [tf.config.LogicalDeviceConfiguration()] * int(replicas)
        tf.config.set_logical_device_configuration(cpu, devices)
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(int(replicas))])
    assert strategy.num_replicas_in_sync == int(replicas)
    found: dict[str, Any] = {}
    for case in cases:
        others = {"train": train, "differ": differ, "endless": endless}
        found |= others[case](strategy) if case in others else equal(strategy, case)
    np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
