"""Models with data and a loss, that every method and estimator is tried on.

Only ever add to the list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

SAMPLES = 48


def logits_loss(dtype: str = "float32") -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype)


LOGITS = logits_loss()


@dataclass(frozen=True)
class Problem:
    name: str
    model: Callable[[], keras.Model]
    input_shape: tuple[int, ...]
    loss_in: Callable[[str], keras.losses.Loss] = logits_loss
    classes: int | None = 3  # None: targets are 3 numbers

    @property
    def loss(self) -> keras.losses.Loss:
        return self.loss_in("float32")

    def data(self, samples: int = SAMPLES, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(3)
        x = random.standard_normal((samples, *self.input_shape)).astype(dtype)
        if self.classes is None:
            return x, random.standard_normal((samples, 3)).astype(dtype)
        return x, random.integers(0, self.classes, samples)


def _sequential() -> keras.Model:
    return keras.Sequential(
        [keras.Input((5,)), layers.Dense(6, activation="relu"), layers.Dense(3)]
    )


def _regularised() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.05)),
            layers.Dense(3),
        ]
    )


def _functional_residual() -> keras.Model:
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    y = layers.Conv2D(4, 3, padding="same")(x)
    y = layers.BatchNormalization(momentum=0.5)(y)
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.MaxPooling2D()(x)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__(name="subclassed")
        self.body = keras.Sequential([layers.Dense(6, activation="relu"), layers.Dropout(0.5)])
        self.head = layers.Dense(3)

    def call(self, inputs, training=False):
        return self.head(self.body(inputs, training=training))


def _subclassed() -> keras.Model:
    model = Subclassed()
    model(np.zeros((1, 5), "float32"))
    return model


def _every_kernel() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.SeparableConv2D(4, 3, activation="relu"),
            layers.DepthwiseConv2D(2),
            layers.Reshape((9, 4)),
            layers.EinsumDense("abc,cd->abd", (9, 3)),
            layers.Conv1D(2, 3),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


PROBLEMS = [
    Problem("sequential", _sequential, (5,)),
    Problem("regularised", _regularised, (5,)),
    Problem("functional_residual_batchnorm", _functional_residual, (6, 6, 2)),
    Problem("subclassed_dropout", _subclassed, (5,)),
    Problem("every_kernel", _every_kernel, (6, 6, 2)),
    Problem(
        "regression",
        _sequential,
        (5,),
        lambda dtype: keras.losses.MeanSquaredError(dtype=dtype),
        classes=None,
    ),
]
