"""Training of many small networks: a compiled loop instead of `model.fit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from prospr_ops.utils.checks import check_integer, check_real


@dataclass(frozen=True)
class Training:
    """SGD as SNIP's authors train (Lee et al., arXiv 1810.02340), in fewer steps.

    The learning rate falls to a tenth after half of the epochs, and again after three quarters.

    Attributes:
        epochs: Passes over the training set, each in an order of its own.
        batch_size: Samples a step; what does not fill a batch waits for the next epoch.
        learning_rate: Of the first half.
        momentum: As Keras defines it, in [0, 1).
        weight_decay: Times each trainable variable, added to its gradient.
        clip_norm: The longest that all gradients together, weight decay included, may be; longer ones
            are shortened to it. In a comparison those of pruned weights do not count. None or 0 for no
            limit.
        adam: True for Adam in the place of SGD, without the momentum.
    """

    epochs: int = 20
    batch_size: int = 100
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float | None = None
    adam: bool | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_integer("epochs", self.epochs, at_least=1)
        check_integer("batch_size", self.batch_size, at_least=1)
        check_real("learning_rate", self.learning_rate)
        check_real("momentum", self.momentum, below=1.0)
        check_real("weight_decay", self.weight_decay)
        if self.clip_norm is not None:
            check_real("clip_norm", self.clip_norm)

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        drops = (2 * epoch >= self.epochs) + (4 * epoch >= 3 * self.epochs)
        return self.learning_rate * 0.1**drops

    def steps(self, samples: int) -> int:
        """Number of steps of an epoch.

        Raises:
            ValueError: There are fewer samples than a batch has.
        """
        if samples < self.batch_size:
            msg = f"{samples} samples do not fill a batch of {self.batch_size}"
            raise ValueError(msg)
        return samples // self.batch_size

    def optimizer(self) -> keras.optimizers.Optimizer:
        """A new optimizer, without the weight decay."""
        if self.adam:
            return keras.optimizers.Adam(self.learning_rate, global_clipnorm=self.clip_norm)
        return keras.optimizers.SGD(
            self.learning_rate, self.momentum, global_clipnorm=self.clip_norm
        )


def train(
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    training: Training,
    *,
    seed: int,
    after_epoch: Callable[[], None] | None = None,
) -> None:
    """Trains a classifier.

    The same as `model.fit` on the same batches, but an epoch is one call of a compiled function,
    which takes its batches from memory: on networks this small Python and the input pipeline would
    cost as much as the training itself.

    Args:
        model: Built, from inputs to logits. Its compiled loss and optimizer are not used; masks that
            are on it hold.
        x: Inputs `[n, ...]`.
        y: Labels `[n]`, integers.
        training: How.
        seed: Of the order of the samples, and of nothing else.
        after_epoch: Called at the end of each.

    Raises:
        ValueError: There are fewer samples than a batch has.
    """
    steps = training.steps(len(x))
    inputs, labels = tf.constant(x), tf.constant(y, tf.int32)
    optimizer = training.optimizer()
    variables = model.trainable_variables
    optimizer.build(variables)

    # The data are arguments: a captured tensor would outlive the function, network after network.
    @tf.function
    def epoch(inputs: tf.Tensor, labels: tf.Tensor, order: tf.Tensor) -> None:
        for step in tf.range(steps):
            batch = order[step * training.batch_size : (step + 1) * training.batch_size]
            with tf.GradientTape() as tape:
                logits = model(tf.gather(inputs, batch), training=True)
                loss = tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(tf.gather(labels, batch), logits)
                )
            gradients = tape.gradient(loss, [variable.value for variable in variables])
            optimizer.apply(
                [
                    g + training.weight_decay * variable
                    for g, variable in zip(gradients, variables, strict=True)
                ]
            )

    random = np.random.default_rng(seed)
    for number in range(training.epochs):
        optimizer.learning_rate = training.rate(number)
        epoch(inputs, labels, tf.constant(random.permutation(len(x)), tf.int32))
        if after_epoch is not None:
            after_epoch()


def fit(
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    training: Training,
    callbacks: Sequence[keras.callbacks.Callback],
    *,
    seed: int,
) -> None:
    """Trains a classifier by `model.fit` on the batches of `train`, for callbacks that change masks.

    Args:
        model: Built, from inputs to logits; it is compiled here.
        x: Inputs `[n, ...]`.
        y: Labels `[n]`, integers.
        training: How.
        callbacks: Those that `fit` is given, beside the one that lowers the learning rate.
        seed: Of the order of the samples, and of nothing else.

    Raises:
        ValueError: There are fewer samples than a batch has.
    """
    steps = training.steps(len(x))
    inputs, labels = tf.constant(x), tf.constant(y, tf.int32)
    random = np.random.default_rng(seed)
    orders = [
        random.permutation(len(x))[: steps * training.batch_size] for _ in range(training.epochs)
    ]
    batches = (
        tf.data.Dataset.from_tensor_slices(np.concatenate(orders).astype(np.int32))
        .batch(training.batch_size)
        .map(lambda batch: (tf.gather(inputs, batch), tf.gather(labels, batch)))
    )

    def decayed_loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        squares = sum(keras.ops.sum(weight * weight) for weight in model.trainable_variables)
        entropy = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        return entropy + 0.5 * training.weight_decay * squares

    model.compile(training.optimizer(), decayed_loss)
    lowering = keras.callbacks.LearningRateScheduler(lambda epoch, _: training.rate(epoch))
    model.fit(
        batches,
        epochs=training.epochs,
        steps_per_epoch=steps,
        shuffle=False,
        verbose=0,
        callbacks=[lowering, *callbacks],
    )


def error_percent(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """How many of a hundred samples a classifier gets wrong."""
    logits = model.predict(x, batch_size=1000, verbose=0)
    return 100 * float(np.mean(np.argmax(logits, axis=-1) != y))
