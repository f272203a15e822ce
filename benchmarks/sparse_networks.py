"""Whole networks of the benchmark `sparse`: steps of `fit` and inference, dense, masked and sparse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import prospr_ops as po
from benchmarks.sparse_layers import difference_of, medians
from prospr_ops.network import keras_private
from prospr_ops.sparse.layers import SparseLayer

# What is kept, by the scores of first_order on random data.
MASKS = (
    *(("sparsity", 0.9), ("sparsity", 0.95), ("sparsity", 0.98)),
    *(("flops", 0.2), ("flops", 0.1), ("flops", 0.05)),
)
BATCHES = (1, 16, 128)
CLASSES = 10


def mlp() -> keras.Model:
    """784-2048-2048-10."""
    hidden = [layers.Dense(2048, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((784,)), *hidden, layers.Dense(CLASSES)])


def mobilenet_v2() -> keras.Model:
    """MobileNetV2 on 96 × 96 pixels."""
    options: dict[str, Any] = {"weights": None, "classifier_activation": None, "classes": CLASSES}
    return keras.applications.MobileNetV2(input_shape=(96, 96, 3), **options)


def transformer() -> keras.Model:
    """Four layers of 256 units, on 64 positions."""
    width, heads = 256, 4
    inputs = keras.Input((64, 32))
    x = layers.Dense(width)(inputs)
    for _ in range(4):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads)(y, y)])
        y = layers.Dense(4 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


# How each is made, and the samples of a step.
NETWORKS: dict[str, tuple[Callable[[], keras.Model], int]] = {
    "MLP 784-2048-2048-10": (mlp, 128),
    "LeNet-5-Caffe": (po.models.lenet5_caffe, 128),
    "ResNet-20": (po.models.resnet20, 128),
    "VGG-16": (po.models.vgg16, 128),
    "MobileNetV2, 96 pixels": (mobilenet_v2, 32),
    "Transformer": (transformer, 32),
}


def rows_of(
    name: str, masks: tuple[tuple[str, float], ...], batches: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    """Rows of one network: per mask its step, and inference by each batch."""
    make, samples = NETWORKS[name]
    keras.utils.set_random_seed(1)
    model = make()
    x, y = _data(model, max(samples, *batches))
    scores = po.score(
        model,
        (x[:samples], y[:samples]),
        method="first_order",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        batch_size=samples,
        verbose=0,
    )
    dense = _compiled(_copy(model, make))
    plain = inference(dense)
    masked, masked_plain = None, None
    for kind, value in masks:
        po.apply_masks(model, po.select(scores, **{kind: value}, model=model))
        if masked is None:  # the others cost the same
            masked, masked_plain = _compiled(model), inference(model)
        assert masked_plain is not None
        fast = _compiled(po.sparsify(model, batch_size=samples, verbose=0))
        kept = inference(fast)
        sparse = [one for one in keras_private.all_layers(fast) if isinstance(one, SparseLayer)]
        common = {
            "network": name,
            "masks": f"{kind}={value:g}",
            "difference": difference_of([fast(x[:16])], [model(x[:16])]),
            "sparse layers": len(sparse),
        }
        # `train_on_batch` returns when the loss is there.
        calls = {
            "dense": _step(dense, x[:samples], y[:samples]),
            "masked": _step(masked, x[:samples], y[:samples]),
            "sparse": _step(fast, x[:samples], y[:samples]),
        }
        yield {
            **common,
            "what": f"step, batch {samples}",
            "seconds": medians(calls, 0.8, 5),
            "bytes": {
                side: {"weights": _bytes(one.trainable_variables), "optimizer": _state(one)}
                for side, one in (("dense", dense), ("sparse", fast))
            },
        }
        for batch in batches:
            sides = {"dense": plain, "masked": masked_plain, "sparse": kept}
            yield {
                **common,
                "what": f"inference, batch {batch}",
                "seconds": medians(
                    {side: called_on(x[:batch], one) for side, one in sides.items()}, 0.4, 5
                ),
            }
        # The steps have moved the weights; those that are pruned stay zero.
        model.set_weights(dense.get_weights())


def _data(model: keras.Model, samples: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(samples, *model.input_shape[1:]))
    return x.astype(np.float32), np.arange(samples) % model.output_shape[-1]


def _copy(model: keras.Model, make: Callable[[], keras.Model]) -> keras.Model:
    copy = make()
    copy.set_weights(model.get_weights())
    return copy


def _compiled(model: keras.Model) -> keras.Model:
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def inference(model: keras.Model) -> Callable[..., tf.Tensor]:
    """The model as one graph, for batches of any size."""
    return tf.function(lambda x: model(x, training=False), reduce_retracing=True)


def called_on(x: np.ndarray, function: Callable[..., tf.Tensor]) -> Callable[[], Any]:
    """A call that waits for its results."""
    constant = tf.constant(x)
    return lambda: function(constant).numpy()


def _step(model: keras.Model, x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    return lambda: model.train_on_batch(x, y)


def _bytes(variables: list[Any]) -> int:
    return sum(int(np.prod(variable.shape)) * 4 for variable in variables)


def _state(model: keras.Model) -> int:
    """Bytes of the optimizer's moments."""
    return _bytes([variable for variable in model.optimizer.variables if variable.shape.rank])
