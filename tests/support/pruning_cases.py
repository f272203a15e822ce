"""What can be pruned: each case is a model with data and a loss, scored by every method.

The page docs/what_can_be_pruned.md is written from these by tools/what_can_be_pruned.py.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import prospr_ops as po
from prospr_ops.methods import METHODS

SAMPLES = 8
RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.standard_normal((SAMPLES, 6)).astype("float32")
SERIES = RANDOM.standard_normal((SAMPLES, 6, 4)).astype("float32")
IMAGES = RANDOM.standard_normal((SAMPLES, 6, 6, 2)).astype("float32")
VOLUMES = RANDOM.standard_normal((SAMPLES, 4, 4, 4, 2)).astype("float32")
WORDS = RANDOM.integers(0, 9, (SAMPLES, 5)).astype("int32")
LABELS = RANDOM.integers(0, 3, SAMPLES)
NUMBERS = RANDOM.standard_normal((SAMPLES, 3)).astype("float32")
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

Case = Callable[[], tuple[keras.Model, Any]]


def _stack(x: np.ndarray, *middle: Any, loss: Any = LOGITS, y: Any = LABELS, **compile: Any) -> Any:
    parts = [keras.Input(x.shape[1:], dtype=x.dtype.name), *middle, layers.Flatten()]
    model = keras.Sequential([*parts, layers.Dense(3, name="last")], name="net")
    model.compile("sgd", loss, **compile)
    return model, (x, y)


def _of(x: np.ndarray, *makes: Callable[[], Any]) -> Case:
    return lambda: _stack(x, *(make() for make in makes))


class _Matrix(layers.Layer):
    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 4), name="matrix")

    def call(self, inputs):
        return inputs @ self.matrix


class _InNumPy(layers.Layer):
    def call(self, inputs):
        return inputs * float(inputs.numpy().std())

    def compute_output_shape(self, shape):
        return shape


class _OwnCall(keras.Model):
    def __init__(self):
        super().__init__(name="net")
        self.first, self.last = layers.Dense(5, activation="relu"), layers.Dense(3)

    def call(self, inputs):
        return self.last(self.first(inputs))


class _OwnLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        del x, sample_weight, training
        return keras.ops.mean(keras.ops.square(keras.ops.one_hot(y, 3) - y_pred))


class _OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


def _functional(cls: type, x: np.ndarray = VECTORS, loss: Any = LOGITS) -> Any:
    inputs = keras.Input(x.shape[1:])
    hidden = layers.Dense(5, activation="relu")(inputs)
    model = cls(inputs, layers.Dense(3)(hidden), name="net")
    model.compile("sgd", loss)
    return model, (x, LABELS)


def _subclassed() -> Any:
    model = _OwnCall()
    model(VECTORS)
    model.compile("sgd", LOGITS)
    return model, (VECTORS, LABELS)


def _attention() -> Any:
    inputs = keras.Input((6, 4))
    x = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)), name="net")
    model.compile("sgd", LOGITS)
    return model, (SERIES, LABELS)


def _dictionaries() -> Any:
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    hidden = layers.Dense(5)(layers.Concatenate()([left, right]))
    outputs = {
        "kind": layers.Dense(3, name="kind")(hidden),
        "size": layers.Dense(3, name="size")(hidden),
    }
    model = keras.Model({"left": left, "right": right}, outputs, name="net")
    model.compile("sgd", {"kind": LOGITS, "size": "mse"})
    return model, ({"left": VECTORS, "right": VECTORS}, {"kind": LABELS, "size": NUMBERS})


def _data(change: Callable[[], Any]) -> Case:
    def case() -> Any:
        model, _ = _stack(VECTORS, layers.Dense(5, activation="relu"))
        return model, change()

    return case


class _Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return VECTORS[index * 4 : index * 4 + 4], LABELS[index * 4 : index * 4 + 4]


def _generator() -> Any:
    while True:
        yield VECTORS, LABELS


def _sparse() -> Any:
    tensor = tf.sparse.from_dense(VECTORS)
    return tf.data.Dataset.from_tensor_slices((tensor, LABELS)).batch(4)


def _policy(policy: str) -> Case:
    def case() -> Any:
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            return _stack(VECTORS, layers.Dense(5, activation="relu"))
        finally:
            keras.config.set_dtype_policy(before)

    return case


def _stateful() -> Any:
    inputs = keras.Input(batch_shape=(4, 6, 4))
    model = keras.Model(inputs, layers.Dense(3)(layers.LSTM(3, stateful=True)(inputs)), name="net")
    model.compile("sgd", LOGITS)
    return model, (SERIES, LABELS)


def _loss(loss: Any, y: Any = LABELS) -> Case:
    return lambda: _stack(VECTORS, layers.Dense(5, activation="relu"), loss=loss, y=y)


def _ctc() -> Any:
    inputs = keras.Input((6, 4))
    model = keras.Model(inputs, layers.Dense(5)(inputs), name="net")
    model.compile("sgd", keras.losses.CTC())
    return model, (SERIES, RANDOM.integers(1, 5, (SAMPLES, 2)))


def _fake_quantised() -> Any:
    quantised = layers.Lambda(lambda x: tf.quantization.fake_quant_with_min_max_args(x, -3, 3))
    return _stack(VECTORS, layers.Dense(5), quantised)


CASES: dict[str, dict[str, Case]] = {
    "Layers": {
        "Dense": _of(VECTORS, lambda: layers.Dense(5, activation="relu")),
        "EinsumDense": _of(SERIES, lambda: layers.EinsumDense("abc,cd->abd", (6, 3))),
        "Conv1D": _of(SERIES, lambda: layers.Conv1D(3, 3, activation="relu")),
        "Conv2D": _of(IMAGES, lambda: layers.Conv2D(3, 3, activation="relu")),
        "Conv3D": _of(VOLUMES, lambda: layers.Conv3D(2, 2)),
        "DepthwiseConv2D": _of(IMAGES, lambda: layers.DepthwiseConv2D(3)),
        "SeparableConv2D": _of(IMAGES, lambda: layers.SeparableConv2D(3, 3)),
        "Conv2DTranspose": _of(IMAGES, lambda: layers.Conv2DTranspose(2, 3)),
        "MultiHeadAttention": _attention,
        "Embedding": _of(WORDS, lambda: layers.Embedding(9, 4)),
        "SimpleRNN": _of(SERIES, lambda: layers.SimpleRNN(3)),
        "GRU": _of(SERIES, lambda: layers.GRU(3)),
        "LSTM": _of(SERIES, lambda: layers.LSTM(3)),
        "Bidirectional LSTM": _of(SERIES, lambda: layers.Bidirectional(layers.LSTM(2))),
        "ConvLSTM1D": _of(IMAGES, lambda: layers.ConvLSTM1D(2, 2)),
        "BatchNormalization": _of(IMAGES, lambda: layers.Conv2D(3, 3), layers.BatchNormalization),
        "LayerNormalization": _of(VECTORS, lambda: layers.Dense(5), layers.LayerNormalization),
        "GroupNormalization": _of(
            IMAGES, lambda: layers.Conv2D(4, 3), lambda: layers.GroupNormalization(2)
        ),
        "SpectralNormalization": _of(
            VECTORS, lambda: layers.SpectralNormalization(layers.Dense(5))
        ),
        "Dropout": _of(VECTORS, lambda: layers.Dense(5), lambda: layers.Dropout(0.3)),
        "Resizing (bilinear)": _of(
            IMAGES, lambda: layers.Conv2D(2, 3), lambda: layers.Resizing(8, 8)
        ),
        "fake quantisation": _fake_quantised,
        "a layer with a matrix of its own": _of(VECTORS, _Matrix, layers.ReLU),
    },
    "Models": {
        "subclassed, own call": _subclassed,
        "own train_step, with a compiled loss": lambda: _functional(_OwnStep),
        "own compute_loss": lambda: _functional(_OwnLoss, loss=None),
        "dictionaries of inputs and outputs, a loss each": _dictionaries,
        "stateful, of fixed batch size": _stateful,
        "run_eagerly=True": lambda: _stack(VECTORS, layers.Dense(5), run_eagerly=True),
        "a layer in NumPy, run_eagerly=True": lambda: _stack(
            VECTORS, layers.Dense(5), _InNumPy(), run_eagerly=True
        ),
        "mixed_float16": _policy("mixed_float16"),
        "mixed_bfloat16": _policy("mixed_bfloat16"),
    },
    "Losses": {
        "sparse categorical cross-entropy": _loss(LOGITS),
        "mean squared error": _loss("mse", NUMBERS),
        "Huber": _loss("huber", NUMBERS),
        "a function": _loss(lambda y, p: keras.ops.mean(keras.ops.abs(y - p) ** 3, -1), NUMBERS),
        "CTC": _ctc,
    },
    "Data": {
        "sample weights": _data(lambda: (VECTORS, LABELS, np.linspace(0.5, 2, SAMPLES))),
        "tf.data": _data(lambda: tf.data.Dataset.from_tensor_slices((VECTORS, LABELS)).batch(4)),
        "PyDataset": _data(_Sequence),
        "a generator": _data(_generator),
        "batches of sparse tensors": _data(_sparse),
        "ragged tensors": _data(lambda: [(tf.RaggedTensor.from_tensor(VECTORS), LABELS)]),
    },
}


def outcome(case: Case, method: str) -> str:
    """The empty string if a method scores every prunable weight, or the reason why it does not."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, data = case()
        try:
            scores = po.score(model, data, method=method, steps=1, batch_size=4, seed=0, verbose=0)
        except (TypeError, ValueError) as error:
            return " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())
        except Exception as error:  # noqa: BLE001 - raw errors are to be seen on the page
            return f"not refused in words: {type(error).__name__} of TensorFlow or Keras"
    assert not any(np.isnan(values).any() for values in scores.values())
    return ""


def page() -> str:
    """The page, from running every case with every method."""
    reasons: list[str] = []
    lines = [INTRODUCTION]
    for group, cases in CASES.items():
        lines += [f"\n## {group}\n", "| | " + " | ".join(f"`{m}`" for m in METHODS) + " |"]
        lines.append("| --- |" + " --- |" * len(METHODS))
        for name, case in cases.items():
            cells = []
            for method in METHODS:
                reason = outcome(case, method)
                if reason and reason not in reasons:
                    reasons.append(reason)
                cells.append(f"no ({reasons.index(reason) + 1})" if reason else "yes")
            lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append("\n## Why not\n")
    lines += [f"{number}. `{reason}`" for number, reason in enumerate(reasons, start=1)]
    return "\n".join(lines) + "\n"


INTRODUCTION = """\
# What can be pruned

Each line is a small model that was scored with each method; "yes" means that every prunable weight got a score, and a
number is the message of the error. `python tools/what_can_be_pruned.py` writes this page from the cases of
`tests/support/pruning_cases.py`, and a test checks that it says what they do. Whether second
derivatives are right is not checked here; [Limits](limits.md) says where they are not."""
