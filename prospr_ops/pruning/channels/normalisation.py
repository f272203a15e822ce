"""LayerNormalization without some of its channels."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable(package="prospr_ops")
class PartLayerNormalization(layers.LayerNormalization):
    """What a LayerNormalization computes if some of its channels are zero and not there any more.

    The mean and the variance are those over all channels: with k channels left of n, the mean is
    Σx/n and the variance (Σ(x − mean)² + (n − k) mean²)/n. `prospr_ops.shrink` makes such layers.

    Args:
        channels: Number n of channels, with those that are zero.
        kwargs: Options of a LayerNormalization over the last axis.

    Examples:
        >>> import numpy as np
        >>> from prospr_ops.pruning.channels.normalisation import PartLayerNormalization
        >>> part = PartLayerNormalization(channels=4)(np.array([[3.0, 1.0]]))
        >>> whole = keras.layers.LayerNormalization()(np.array([[3.0, 1.0, 0.0, 0.0]]))
        >>> np.allclose(part, whole[:, :2])
        True
    """

    def __init__(self, *, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels

    def call(self, inputs: Any) -> Any:
        """The normalised inputs."""
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        share = x.shape[-1] / self.channels
        mean = share * ops.mean(x, axis=-1, keepdims=True)
        spread = share * ops.mean(ops.square(x - mean), axis=-1, keepdims=True)
        variance = spread + (1 - share) * ops.square(mean)
        x = (x - mean) * ops.rsqrt(variance + self.epsilon)
        if self.gamma is not None:
            x = x * ops.cast(self.gamma, x.dtype)
        if self.beta is not None:
            x = x + ops.cast(self.beta, x.dtype)
        return ops.cast(x, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The options."""
        return {**super().get_config(), "channels": self.channels}
