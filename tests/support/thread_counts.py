"""Scores of small networks by every method, in a process with a given number of threads.

python tests/support/thread_counts.py INTRA INTER OUT.npz [deterministic]
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import prospr_ops as po
from prospr_ops.methods import METHODS


def _residual() -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    for strides in (1, 2):
        y = layers.Conv2D(16, 3, strides, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(y))
        x = layers.ReLU()(layers.Add()([y, x if strides == 1 else layers.AveragePooling2D(2)(x)]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


NETWORKS = {
    "LeNet-300-100": (po.models.lenet_300_100, (28, 28, 1)),
    "LeNet-5": (po.models.lenet5, (28, 28, 1)),
    "residual": (_residual, (16, 16, 3)),
}
# Every method as it comes, and what they have besides.
RUNS = {method: {"method": method} for method in METHODS} | {
    "diagonal, hutchinson, momentum": {
        "method": "diagonal",
        "curvature": "hutchinson",
        "momentum": 0.9,
    },
    "diagonal, row_sum": {"method": "diagonal", "curvature": "row_sum"},
    "exact, Nesterov": {"method": "exact", "momentum": 0.9, "nesterov": True},
}


def main() -> None:
    """Writes scores as "network: run: variable path"."""
    intra, inter, mode, out, *networks = sys.argv[1:]
    tf.config.threading.set_intra_op_parallelism_threads(int(intra))
    tf.config.threading.set_inter_op_parallelism_threads(int(inter))
    if mode == "deterministic":
        tf.config.experimental.enable_op_determinism()
    found = {}
    for network in networks or NETWORKS:
        build, shape = NETWORKS[network]
        keras.utils.set_random_seed(1)
        model = build()
        random = np.random.default_rng(0)
        data = random.standard_normal((256, *shape), "float32"), random.integers(0, 10, 256)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        for run, options in RUNS.items():
            scores = po.score(model, data, loss=loss, batch_size=64, seed=3, verbose=0, **options)
            found |= {f"{network}: {run}: {path}": values for path, values in scores.items()}
    np.savez(out, **found)


if __name__ == "__main__":
    main()
