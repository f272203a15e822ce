"""Keras callbacks for training pruned models."""

from __future__ import annotations

import math
import os
from typing import Any

import keras
import tensorflow as tf

from prospr_ops.network.weights import Prunable, prunable_weights

__all__ = ["SparsityLogger"]


class SparsityLogger(keras.callbacks.Callback):
    """Writes density and metrics for TensorBoard after every epoch.

    The density is counted in the weights themselves, so it shows if pruned weights become nonzero.
    The scalars are "density/all", "density/<path>" for each prunable weight, and "metrics/<name>"
    for everything that `fit` logs: loss, accuracy, val_accuracy and so on. The step is the epoch.

    Args:
        log_dir: Folder for the event files, as for `keras.callbacks.TensorBoard`; created if
            missing.
        prunable: Weights to count: None for the kernels of Dense, EinsumDense, Embedding,
            convolution, transposed, depthwise and separable convolution layers; a function (layer,
            variable) -> bool; or variable paths, in which `*` and `?` are wildcards.

    Examples:
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> model = po.models.lenet_300_100(input_shape=(8,), classes=3)
        >>> model.compile("sgd", loss="mse")
        >>> x, y = np.ones((16, 8), np.float32), np.ones((16, 3), np.float32)
        >>> logger = po.callbacks.SparsityLogger("logs/exact")
        >>> history = model.fit(x, y, callbacks=[logger], verbose=0)
    """

    def __init__(self, log_dir: str | os.PathLike[str], prunable: Prunable | None = None) -> None:
        super().__init__()
        self._log_dir = os.fspath(log_dir)
        self._prunable = prunable
        self._writer = tf.summary.create_noop_writer()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002 - Keras's signature
        """Opens an event file.

        Raises:
            tf.errors.OpError: The folder cannot be written to.
        """
        tf.io.gfile.makedirs(self._log_dir)  # raises an error that names the folder
        self._writer = tf.summary.create_file_writer(self._log_dir)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the scalars of an epoch.

        Raises:
            ValueError: `prunable` names no weight of the model.
        """
        weights = prunable_weights(self.model, self._prunable)
        kept = {path: int(keras.ops.count_nonzero(weight)) for path, weight in weights.items()}
        sizes = {path: math.prod(weight.shape) for path, weight in weights.items()}
        scalars = {"density/all": sum(kept.values()) / sum(sizes.values())}
        scalars |= {f"density/{path}": kept[path] / sizes[path] for path in weights}
        scalars |= {f"metrics/{name}": value for name, value in (logs or {}).items()}
        with self._writer.as_default():
            for tag, value in scalars.items():
                _write_scalar(tag, value, epoch)
        self._writer.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002 - Keras's signature
        """Closes the event file."""
        self._writer.close()


def _write_scalar(tag: str, value: float, step: int) -> None:
    """Writes what `tf.summary.scalar` writes, without needing TensorBoard installed here."""
    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    metadata = tf.compat.v1.SummaryMetadata(plugin_data=plugin, data_class="DATA_CLASS_SCALAR")
    tf.summary.write(tag, tf.cast(value, tf.float32), step, metadata)
