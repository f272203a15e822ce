"""Models with data, a loss and what the closed form is worth for each of their weights.

`PROBLEMS` have a closed form for every weight, `FALLBACKS` for some or none. Only ever add to them.
Everything is tiny, because the proof is the brute-force Hessian of every weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, losses, regularizers

CLASSES = 3
SAMPLES = 7


@dataclass(frozen=True)
class LossCase:
    """A loss, targets for it, and the Hessian that it has at the logits.

    Attributes:
        make: Makes what is given as `loss`.
        kind: "softmax", "sigmoid" or "squared".
        targets: Takes a random generator, samples and outputs.
        probabilities: Whether the model's output has been through the softmax or sigmoid.
        compiled: Whether the model is compiled with the loss, instead of giving it.
        weighted: Whether samples have weights, one of them zero.
    """

    make: Callable[[], Any]
    kind: str = "softmax"
    targets: Callable[[np.random.Generator, int, int], np.ndarray] = (
        lambda random, samples, outputs: random.integers(0, outputs, samples)
    )
    probabilities: bool = False
    compiled: bool = False
    weighted: bool = False


def one_hot(random: np.random.Generator, samples: int, outputs: int) -> np.ndarray:
    return np.eye(outputs)[random.integers(0, outputs, samples)]


def numbers(random: np.random.Generator, samples: int, outputs: int) -> np.ndarray:
    return random.standard_normal((samples, outputs))


def bits(random: np.random.Generator, samples: int, outputs: int) -> np.ndarray:
    return random.integers(0, 2, (samples, outputs)).astype("float64")


def some_ignored(random: np.random.Generator, samples: int, outputs: int) -> np.ndarray:
    labels = random.integers(0, outputs, samples)
    labels[::3] = -1
    return labels


LOGITS = LossCase(lambda: losses.SparseCategoricalCrossentropy(from_logits=True))
SQUARED = LossCase(losses.MeanSquaredError, "squared", numbers)


@dataclass(frozen=True)
class Problem:
    """A model and what is expected of "auto" for it.

    Attributes:
        name: Of the problem.
        model: Makes the model.
        shape: Of one sample.
        origin: What every weight's origin has to match, from its start.
        origins: The same for the weights whose path holds the key, instead of `origin`.
        loss: The loss and its targets.
        vocabulary: Inputs are integers below it; None for normal numbers.
        samples: The batch size.
        x: Makes the input; None for one array of `samples` times `shape`.
    """

    name: str
    model: Callable[[], keras.Model]
    shape: tuple[int, ...] = (5,)
    origin: str = r"ggn \(exact\)"
    loss: LossCase = LOGITS
    origins: dict[str, str] = field(default_factory=dict)
    vocabulary: int | None = None
    samples: int = SAMPLES

    def data(self, dtype: str = "float64") -> tuple[Any, ...]:
        """(x, y), or (x, y, sample weights)."""
        random = np.random.default_rng(3)
        shape = (self.samples, *self.shape)
        if self.vocabulary:
            x = random.integers(0, self.vocabulary, shape)
        else:
            x = random.standard_normal(shape).astype(dtype)
        y = self.loss.targets(random, self.samples, CLASSES)
        if not self.loss.weighted:
            return x, y
        weights = random.uniform(0.5, 2.0, self.samples).astype(dtype)
        weights[self.samples // 2] = 0
        return x, y, weights


def _chain(shape: tuple[int, ...], *steps: Any, dtype: str | None = None) -> keras.Model:
    return keras.Sequential([keras.Input(shape, dtype=dtype), *steps])


def _conv(shape: tuple[int, ...], *steps: Any) -> Callable[[], keras.Model]:
    """The layers that `steps` make, then a classifier."""
    return lambda: _chain(
        shape, *(step() for step in steps), layers.Flatten(), layers.Dense(CLASSES)
    )


def _mlp(activation: Any = "relu", last: Any = None, **options: Any) -> keras.Model:
    return _chain(
        (5,),
        layers.Dense(6, activation=activation, **options),
        layers.Dense(CLASSES, activation=last),
    )


def _body(*steps: Callable[[], keras.layers.Layer]) -> Callable[[], keras.Model]:
    """A small perceptron with layers in its middle."""
    return lambda: _chain(
        (5,),
        layers.Dense(6, activation="relu"),
        *(step() for step in steps),
        layers.Dense(4, activation="relu"),
        layers.Dense(CLASSES),
    )


def _residual() -> keras.Model:
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(3, 3, padding="same", activation="relu")(inputs)
    y = layers.Conv2D(3, 1, activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()([x, y])))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def _pooled_and_not() -> keras.Model:
    """Gradients come to a convolution from behind a max-pooling and from elsewhere too."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(2, 3, padding="same", activation="relu")(inputs)
    left = layers.GlobalAveragePooling2D()(layers.MaxPooling2D()(x))
    right = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.Concatenate()([left, right])))


def _concatenate() -> keras.Model:
    inputs = keras.Input((5,))
    left = layers.Dense(3, activation="relu")(inputs)
    right = layers.Dense(2, activation=layers.LeakyReLU(0.1))(inputs)
    x = layers.Concatenate()([left, right, inputs])
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def _nested() -> keras.Model:
    inner_inputs = keras.Input((4,))
    inner = keras.Model(
        inner_inputs, layers.Add()([layers.Dense(4, activation="relu")(inner_inputs), inner_inputs])
    )
    body = keras.Sequential([layers.Dense(4, activation="relu"), inner])
    return _chain((5,), body, layers.Dense(CLASSES))


class _Subclassed(keras.Model):
    """Branches, slices and sums in plain Keras ops."""

    def __init__(self) -> None:
        super().__init__(name="subclassed")
        self.body = layers.Dense(6, activation="relu")
        self.left, self.right = layers.Dense(CLASSES), layers.Dense(CLASSES, use_bias=False)

    def call(self, inputs):
        x = keras.ops.maximum(self.body(inputs), 0.3)
        return 2 * self.left(x[:, :4]) - keras.ops.abs(self.right(x[..., 2:]))


def _built(make: Callable[[], keras.Model], *shape: int, dtype: str | None = None) -> Any:
    def build() -> keras.Model:
        model = make()
        model(np.zeros((2, *shape), dtype or keras.config.floatx()))
        return model

    return build


def _shared_dense() -> keras.Model:
    shared = layers.Dense(5, activation="relu")
    return _chain((5,), shared, shared, layers.Dense(CLASSES))


def _shared_conv() -> keras.Model:
    shared = layers.Conv2D(2, 3, padding="same", activation="relu")
    return _chain((4, 4, 2), shared, shared, layers.Flatten(), layers.Dense(CLASSES))


def _shared_separable() -> keras.Model:
    shared = layers.SeparableConv1D(2, 2, padding="same", activation="relu")
    return _chain((5, 2), shared, shared, layers.Flatten(), layers.Dense(CLASSES))


def _shared_embedding() -> keras.Model:
    shared, inputs = layers.Embedding(4, 2), keras.Input((5,), dtype="int32")
    x = layers.Flatten()(layers.Add()([shared(inputs), 2 * shared(3 - inputs)]))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def _attention() -> keras.Model:
    inputs = keras.Input((4, 3))
    x = layers.MultiHeadAttention(2, 2, output_shape=3)(inputs, inputs)
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(layers.Add()([x, inputs]))))


def _softmax_layer() -> keras.Model:
    return _chain((5,), layers.Dense(6, activation="relu"), layers.Dense(CLASSES), layers.Softmax())


def _frozen_normalisation() -> keras.Model:
    def normalisation() -> keras.layers.Layer:
        return layers.BatchNormalization(
            moving_mean_initializer="random_normal",
            gamma_initializer=keras.initializers.RandomUniform(0.5, 1.5),
        )

    model = _chain(
        (4, 4, 2),
        layers.Conv2D(3, 3, use_bias=False),
        normalisation(),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(4),
        normalisation(),
        layers.Dense(CLASSES),
    )
    for layer in model.layers:
        layer.trainable = not isinstance(layer, layers.BatchNormalization)
    return model


def _loss(make: Callable[[], Any], kind: str = "softmax", **options: Any) -> LossCase:
    return LossCase(make, kind, **options)


_SHARED = r"ggn \(Gauss-Newton: it is used several times\)"


def _curved(operation: str = r"\w+") -> str:
    return rf"ggn \(Gauss-Newton: {operation} is not piecewise linear\)"


_CUSTOM = r"ggn \(Gauss-Newton: its gradient is custom\)"
_LAST = {"dense_1": r"ggn \(exact\)", "head": r"ggn \(exact\)"}
_SPARSE = losses.SparseCategoricalCrossentropy
_CATEGORICAL = losses.CategoricalCrossentropy
_BINARY = losses.BinaryCrossentropy

PROBLEMS = [
    # Dense, EinsumDense and Embedding.
    Problem("dense", _mlp),
    Problem(
        "dense on positions", _conv((3, 4), lambda: layers.Dense(3, activation="relu")), (3, 4)
    ),
    Problem("dense on two axes of positions", _conv((2, 3, 2), lambda: layers.Dense(2)), (2, 3, 2)),
    Problem(
        "einsum ab,bc->ac", _conv((4,), lambda: layers.EinsumDense("ab,bc->ac", 3, "relu")), (4,)
    ),
    Problem(
        "einsum abc,cd->abd",
        _conv((3, 4), lambda: layers.EinsumDense("abc,cd->abd", (3, 3), "relu", "d")),
        (3, 4),
    ),
    Problem(
        "einsum abc,cde->abde",
        _conv((3, 4), lambda: layers.EinsumDense("abc,cde->abde", (3, 2, 2), "relu", "de")),
        (3, 4),
    ),
    Problem(
        "einsum abcd,cde->abe",
        _conv((3, 2, 2), lambda: layers.EinsumDense("abcd,cde->abe", (3, 3), "relu", "e")),
        (3, 2, 2),
    ),
    Problem(
        "einsum abc,dbe->aced",
        _conv((2, 3), lambda: layers.EinsumDense("abc,dbe->aced", (3, 2, 2), "relu")),
        (2, 3),
    ),
    Problem(
        "einsum ...x,xy->...y",
        _conv((3, 2, 3), lambda: layers.EinsumDense("...x,xy->...y", 2, "relu")),
        (3, 2, 3),
    ),
    Problem(
        "embedding",
        lambda: _chain(
            (6,), layers.Embedding(4, 3), layers.Flatten(), layers.Dense(CLASSES), dtype="int32"
        ),
        (6,),
        vocabulary=4,
    ),
    Problem(
        "embedding, averaged, with mask",
        lambda: _chain(
            (6,),
            layers.Embedding(4, 3, mask_zero=True),
            layers.Dense(3, activation="relu"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(CLASSES),
            dtype="int32",
        ),
        (6,),
        vocabulary=4,
    ),
    # Convolutions.
    Problem("conv1d", _conv((6, 2), lambda: layers.Conv1D(3, 3, activation="relu")), (6, 2)),
    Problem(
        "conv1d same, strided",
        _conv((7, 2), lambda: layers.Conv1D(3, 4, strides=3, padding="same", activation="relu")),
        (7, 2),
    ),
    Problem(
        "conv1d causal, dilated",
        _conv(
            (6, 2),
            lambda: layers.Conv1D(3, 2, dilation_rate=2, padding="causal", activation="relu"),
        ),
        (6, 2),
    ),
    Problem(
        "conv1d same, dilated",
        _conv(
            (6, 2), lambda: layers.Conv1D(2, 3, dilation_rate=2, padding="same", activation="relu")
        ),
        (6, 2),
    ),
    Problem(
        "conv1d groups",
        _conv((5, 4), lambda: layers.Conv1D(4, 3, groups=2, activation="relu")),
        (5, 4),
    ),
    Problem(
        "conv2d, max pooling",
        _conv((5, 6, 2), lambda: layers.Conv2D(3, (2, 3), activation="relu"), layers.MaxPooling2D),
        (5, 6, 2),
    ),
    Problem(
        "conv2d twice, max pooling of many windows",
        _conv(
            (18, 17, 1),
            lambda: layers.Conv2D(2, (3, 2), padding="same"),
            lambda: layers.Cropping2D(((0, 0), (0, 1))),
            layers.MaxPooling2D,
            lambda: layers.Conv2D(4, 2, activation=layers.LeakyReLU(0.2)),
            lambda: layers.MaxPooling2D((2, 1)),
            layers.GlobalAveragePooling2D,
        ),
        (18, 17, 1),
    ),
    Problem(
        "conv2d three times, max pooling of many windows",
        _conv(
            (18, 18, 1),
            lambda: layers.Conv2D(2, 3, padding="same", activation="relu"),
            layers.MaxPooling2D,
            lambda: layers.Conv2D(3, 2, activation="relu"),
            layers.MaxPooling2D,
            lambda: layers.Conv2D(2, 3, strides=2, padding="same", activation="relu"),
            layers.MaxPooling2D,
        ),
        (18, 18, 1),
    ),
    Problem("conv2d, max pooling and a way past it", _pooled_and_not, (8, 8, 1)),
    Problem(
        "conv2d same, strided, average pooling",
        _conv(
            (7, 6, 2),
            lambda: layers.Conv2D(2, 3, strides=(2, 1), padding="same", activation="relu"),
            lambda: layers.AveragePooling2D((2, 3), padding="same"),
        ),
        (7, 6, 2),
    ),
    Problem(
        "conv2d dilated, global max pooling",
        _conv(
            (6, 6, 2),
            lambda: layers.Conv2D(4, 2, dilation_rate=(2, 3), activation="relu"),
            layers.GlobalMaxPooling2D,
        ),
        (6, 6, 2),
    ),
    Problem(
        "conv2d twice, same, dilated",
        _conv(
            (5, 5, 1),
            lambda: layers.Conv2D(2, 3, dilation_rate=2, padding="same", activation="relu"),
            lambda: layers.Conv2D(2, 3, dilation_rate=2, padding="same"),
            layers.GlobalAveragePooling2D,
        ),
        (5, 5, 1),
    ),
    Problem(
        "conv2d groups, padding and cropping",
        _conv(
            (4, 4, 4),
            lambda: layers.ZeroPadding2D(1),
            lambda: layers.Conv2D(4, 2, groups=2, activation="relu"),
            lambda: layers.Cropping2D(1),
            layers.UpSampling2D,
            layers.GlobalMaxPooling2D,
        ),
        (4, 4, 4),
    ),
    Problem(
        "conv3d",
        _conv(
            (3, 4, 4, 1),
            lambda: layers.Conv3D(2, 2, strides=(1, 2, 1), padding="same", activation="relu"),
            layers.GlobalMaxPooling3D,
        ),
        (3, 4, 4, 1),
    ),
    Problem(
        "depthwise conv1d, multiplier",
        _conv(
            (6, 2),
            lambda: layers.DepthwiseConv1D(
                3, strides=2, padding="same", depth_multiplier=2, activation="relu"
            ),
        ),
        (6, 2),
    ),
    Problem(
        "depthwise conv2d, multiplier, strided",
        _conv(
            (5, 5, 2),
            lambda: layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2, activation="relu"),
        ),
        (5, 5, 2),
    ),
    Problem(
        "depthwise conv2d, dilated",
        _conv(
            (5, 5, 2),
            lambda: layers.DepthwiseConv2D(2, dilation_rate=2, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D,
        ),
        (5, 5, 2),
    ),
    Problem(
        "separable conv1d",
        _conv((6, 2), lambda: layers.SeparableConv1D(3, 3, padding="same", activation="relu")),
        (6, 2),
    ),
    Problem(
        "separable conv2d, multiplier, strided",
        _conv(
            (5, 5, 2),
            lambda: layers.SeparableConv2D(
                3, 3, strides=2, depth_multiplier=2, padding="same", activation="relu"
            ),
        ),
        (5, 5, 2),
    ),
    # Topologies.
    Problem("residual sum", _residual, (4, 4, 2)),
    Problem("concatenation", _concatenate),
    Problem("nested models", _nested),
    Problem("subclassed model", _built(_Subclassed, 5)),
    Problem("normalisation with fixed statistics", _frozen_normalisation, (4, 4, 2)),
    Problem("dropout", _body(lambda: layers.Dropout(0.5))),
    Problem(
        "permuted and repeated axes",
        _conv((3, 4), lambda: layers.Permute((2, 1)), lambda: layers.Dense(2)),
        (3, 4),
    ),
    # Activations: piecewise linear, then smooth.
    Problem("leaky relu", lambda: _mlp("leaky_relu")),
    Problem("relu6", lambda: _mlp("relu6")),
    Problem("hard sigmoid", lambda: _mlp("hard_sigmoid")),
    Problem("relu with threshold", _body(lambda: layers.ReLU(2.0, 0.1, 0.3))),
    Problem("prelu", _body(lambda: layers.PReLU("random_normal"))),
    *(
        Problem(name, lambda name=name: _mlp(name), origin=_curved(), origins=_LAST)
        for name in (
            "tanh",
            "gelu",
            "sigmoid",
            "softmax",
            "softplus",
            "elu",
            "selu",
            "exponential",
        )
    ),
    Problem("silu", lambda: _mlp("silu"), origin=_CUSTOM, origins=_LAST),
    Problem(
        "layer normalisation",
        _body(layers.LayerNormalization),
        origin=_curved(),
        origins={"dense_1": r"ggn \(exact\)", "dense_2": r"ggn \(exact\)"},
    ),
    Problem(
        "multi-head attention",
        _attention,
        (4, 3),
        origin=_curved(),
        origins={"attention_output": r"ggn \(exact\)", "dense": r"ggn \(exact\)"},
    ),
    # A weight that is used several times.
    Problem("shared dense", _shared_dense, origin=_SHARED, origins=_LAST),
    Problem(
        "shared conv2d",
        _shared_conv,
        (4, 4, 2),
        origin=_SHARED,
        origins={"dense": r"ggn \(exact\)"},
    ),
    Problem(
        "shared separable conv1d",
        _shared_separable,
        (5, 2),
        origin=_SHARED,
        origins={"dense": r"ggn \(exact\)"},
    ),
    Problem(
        "shared embedding",
        _shared_embedding,
        (5,),
        origin=_SHARED,
        vocabulary=4,
        origins={"dense": r"ggn \(exact\)"},
    ),
    # Losses.
    Problem(
        "loss: sparse cross-entropy of a softmax output",
        lambda: _mlp(last="softmax"),
        loss=_loss(_SPARSE, probabilities=True),
    ),
    Problem(
        "loss: sparse cross-entropy of a Softmax layer",
        _softmax_layer,
        loss=_loss(_SPARSE, probabilities=True),
    ),
    Problem(
        "loss: sparse cross-entropy, some ignored",
        _mlp,
        loss=_loss(lambda: _SPARSE(from_logits=True, ignore_class=-1), targets=some_ignored),
    ),
    Problem(
        "loss: cross-entropy",
        _mlp,
        loss=_loss(lambda: _CATEGORICAL(from_logits=True), targets=one_hot),
    ),
    Problem(
        "loss: cross-entropy of a softmax output",
        lambda: _mlp(last="softmax"),
        loss=_loss(_CATEGORICAL, targets=one_hot, probabilities=True),
    ),
    Problem(
        "loss: cross-entropy, label smoothing",
        _mlp,
        loss=_loss(lambda: _CATEGORICAL(from_logits=True, label_smoothing=0.2), targets=one_hot),
    ),
    Problem(
        "loss: cross-entropy, sum",
        _mlp,
        loss=_loss(lambda: _CATEGORICAL(from_logits=True, reduction="sum"), targets=one_hot),
    ),
    Problem(
        "loss: cross-entropy, weighted mean",
        _mlp,
        loss=_loss(
            lambda: _CATEGORICAL(from_logits=True, reduction="mean_with_sample_weight"),
            targets=one_hot,
            weighted=True,
            compiled=True,
        ),
    ),
    Problem(
        "loss: binary cross-entropy",
        _mlp,
        loss=_loss(lambda: _BINARY(from_logits=True), "sigmoid", targets=bits),
    ),
    Problem(
        "loss: binary cross-entropy of a sigmoid output, label smoothing",
        lambda: _mlp(last="sigmoid"),
        loss=_loss(
            lambda: _BINARY(label_smoothing=0.1), "sigmoid", targets=bits, probabilities=True
        ),
    ),
    Problem("loss: squared error", _mlp, loss=SQUARED),
    Problem("loss: squared error of a relu output", lambda: _mlp(last="relu"), loss=SQUARED),
    Problem(
        "loss: squared error of a tanh output",
        lambda: _mlp(last="tanh"),
        loss=SQUARED,
        origin=_curved("Tanh"),
    ),
    Problem("loss: sample weights", _mlp, loss=_loss(LOGITS.make, compiled=True, weighted=True)),
    Problem(
        "loss: name, compiled",
        _mlp,
        loss=_loss(lambda: "mse", "squared", targets=numbers, compiled=True),
    ),
    Problem(
        "loss: name, given",
        lambda: _mlp(last="softmax"),
        loss=_loss(lambda: "sparse_categorical_crossentropy", probabilities=True),
    ),
    Problem(
        "loss: function, given",
        _mlp,
        loss=_loss(lambda: losses.mean_squared_error, "squared", targets=numbers),
    ),
    Problem(
        "loss: name of binary cross-entropy, compiled",
        lambda: _mlp(last="sigmoid"),
        loss=_loss(
            lambda: "binary_crossentropy",
            "sigmoid",
            targets=bits,
            compiled=True,
            probabilities=True,
        ),
    ),
    Problem(
        "regularisers L1 and L2",
        lambda: _mlp(kernel_regularizer=regularizers.L1L2(0.0625, 0.03125), bias_regularizer="l2"),
    ),
    Problem(
        "regulariser L2, curved",
        lambda: _mlp("tanh", kernel_regularizer=regularizers.L2(0.0625)),
        origin=_curved("Tanh"),
        origins=_LAST,
    ),
    # Batches of one sample.
    Problem("one sample: dense", _mlp, samples=1),
    Problem("one sample: squared error", _mlp, loss=SQUARED, samples=1),
    Problem("one sample: conv2d", _residual, (4, 4, 2), samples=1),
    Problem(
        "one sample: embedding",
        _shared_embedding,
        (5,),
        origin=_SHARED,
        vocabulary=4,
        samples=1,
        origins={"dense": r"ggn \(exact\)"},
    ),
    Problem(
        "one sample: multi-head attention",
        _attention,
        (4, 3),
        samples=1,
        origin=_curved(),
        origins={"attention_output": r"ggn \(exact\)", "dense": r"ggn \(exact\)"},
    ),
]


class _Own(keras.Model):
    """Layers, and a function of (layers, inputs) that calls them."""

    def __init__(self, call: Callable[..., Any], *own: keras.layers.Layer) -> None:
        super().__init__(name="own")
        self.own = list(own)
        self.function = call

    def call(self, inputs):
        return self.function(inputs, *self.own)


def _own(
    call: Callable[..., Any],
    *make: Callable[[], keras.layers.Layer],
    shape: tuple[int, ...] = (5,),
    samples: int = SAMPLES,
    dtype: str | None = None,
) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        model = _Own(call, *(step() for step in make))
        model(np.zeros((samples, *shape), dtype or keras.config.floatx()))
        return model

    return build


def _dense(units: int = CLASSES, **options: Any) -> Callable[[], keras.layers.Layer]:
    return lambda: layers.Dense(units, **options)


def _centred(hidden):
    return hidden - tf.reduce_mean(hidden, 0)


def _whitened(hidden):
    return hidden @ tf.linalg.matmul(hidden, hidden, transpose_a=True)


def _over_the_batch(x, body, head):
    """Softmax over a vector of one number a sample."""
    hidden = body(x)
    attention = tf.nn.softmax(tf.reduce_sum(hidden, axis=1))
    return head(hidden * attention[:, None])


def _batch_as_time(x, body, between, head):
    return head(between(body(x)[None])[0])


def _broadcast(x, body):
    """[N] + [N, 1], the classic mistake; with as many classes as samples nothing complains."""
    hidden = tf.reduce_sum(body(x), axis=1)
    return hidden + 2 * hidden[:, None]


def _stacked(x, body):
    hidden = tf.reduce_sum(body(x), axis=1)
    return tf.stack([hidden, 2 * hidden, -hidden], axis=-2)


def _as_bias(x, body):
    return tf.nn.bias_add(tf.abs(x[:, :CLASSES]), tf.reduce_sum(body(x), axis=1))


def _as_filters(x, body, head):
    """With as many samples as the filter is high."""
    filters = tf.reshape(body(x), [3, 1, 1, 2])
    images = tf.reshape(x[:, :4], [3, 4, 1, 1])
    return head(tf.reshape(tf.nn.conv2d(images, filters, 1, "SAME"), [3, 8]))


def _batch_to_space(x, body, between, head):
    image = tf.batch_to_space(tf.reshape(body(x), [4, 2, 2, 1]), [2, 2], [[0, 0], [0, 0]])
    return head(tf.reshape(tf.space_to_batch(between(image), [2, 2], [[0, 0], [0, 0]]), [4, 4]))


def _space_to_batch(x, body, head):
    """Blocks of all samples, cut as if they were rows of each."""
    blocks = tf.space_to_batch(tf.reshape(body(x), [4, 2, 2, 1]), [2, 2], [[0, 0], [0, 0]])
    return head(tf.reshape(blocks, [4, 4]))


def _tied(x, embedding):
    hidden = tf.reduce_mean(embedding(x), axis=1)
    return tf.matmul(hidden, embedding.embeddings, transpose_b=True)


def _tied_to_an_unused_call(x, body, head):
    hidden = body(x)
    body(hidden)  # not used
    return head(tf.nn.relu(hidden) @ body.kernel)


@tf.custom_gradient
def _reversed_gradient(x):
    return tf.identity(x), lambda upstream: -upstream


def _inside_a_custom_gradient(x, body, head):
    """The gradient goes to the weights past the layer's output."""

    @tf.custom_gradient
    def run(inputs):
        def backward(upstream, variables):
            kernel = tf.matmul(inputs, upstream, transpose_a=True)
            found = [kernel if len(v.shape) == 2 else tf.reduce_sum(upstream, 0) for v in variables]
            return tf.zeros_like(inputs), found

        return body(inputs), backward

    return head(run(x))


class _SquaredKernel(layers.Dense):
    def call(self, inputs, training=None):
        del training
        return keras.ops.matmul(inputs, keras.ops.square(self.kernel)) + self.bias


class _StandardisedKernel(layers.Conv1D):
    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel / keras.ops.sqrt(keras.ops.sum(kernel**2)))


class _TanhKernel(layers.Dense):
    @property
    def kernel(self):
        return keras.ops.tanh(self._kernel)


class _Cell(layers.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.state_size = layers.Dense(3, activation="relu"), 3

    def build(self, shape):
        self.dense.build((shape[0], shape[1] + self.state_size))

    def call(self, inputs, states):
        state = self.dense(keras.ops.concatenate([inputs, states[0]], axis=-1))
        return state, [state]


class _WithLoss(layers.Layer):
    def call(self, inputs):
        self.add_loss(0.1 * keras.ops.mean(inputs**2))
        return inputs


class _OwnLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 2 * super().compute_loss(x, y, y_pred, sample_weight, training)


def _own_loss() -> keras.Model:
    inputs = keras.Input((5,))
    outputs = layers.Dense(CLASSES)(layers.Dense(4, "relu")(inputs))
    return _OwnLoss(inputs, outputs, name="own_loss")


class _Doubled(losses.SparseCategoricalCrossentropy):
    def call(self, y_true, y_pred):
        return 2 * super().call(y_true, y_pred)


class _Exponential(losses.MeanSquaredError):
    def __call__(self, *arguments, **options):
        return keras.ops.exp(super().__call__(*arguments, **options))


def _two_outputs() -> keras.Model:
    inputs = keras.Input((5,))
    x = layers.Dense(4, activation="relu")(inputs)
    return keras.Model(inputs, [layers.Dense(CLASSES)(x), layers.Dense(CLASSES)(x)])


class _Quartic(regularizers.Regularizer):
    def __call__(self, x):
        return keras.ops.sum(x**4)


def _lora() -> keras.Model:
    model = _mlp()
    model.layers[0].enable_lora(2)
    return model


def _any(*reasons: str) -> str:
    return rf"hutchinson \(.*({'|'.join(reasons)})"


_MIXES = _any("may mix samples")
_EXACT = r"ggn \(exact\)"
_HEAD = {"head": _EXACT}
_head = _dense(name="head")
_relu = _dense(4, activation="relu")
_MODEL_LOSSES = _any("the model adds losses")


def _twice(random: np.random.Generator, samples: int, outputs: int) -> list[np.ndarray]:
    return [numbers(random, samples, outputs), numbers(random, samples, outputs)]


FALLBACKS = [
    # Operations that mix samples.
    Problem(
        "normalisation by the batch",
        lambda: _chain(
            (5,),
            layers.Dense(4),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(CLASSES, name="head"),
        ),
        origin=_MIXES,
        origins=_HEAD,
    ),
    Problem(
        "mean over the batch",
        _own(lambda x, a, b: b(a(x) - tf.reduce_mean(a.call(x), 0)), _relu, _head),
        origin=_any("may mix samples", "outside its layer"),
        origins=_HEAD,
    ),
    Problem(
        "difference from the mean of the batch",
        _own(lambda x, a, b: b(_centred(a(x))), _relu, _head),
        origin=_MIXES,
        origins=_HEAD,
    ),
    Problem(
        "covariance",
        _own(
            lambda x, a, b: b(_whitened(a(x))),
            _relu,
            _head,
        ),
        origin=_MIXES,
        origins=_HEAD,
    ),
    Problem(
        "orthogonalised",
        _own(lambda x, a, b: b(tf.linalg.qr(a(x))[0]), _relu, _head),
        origin=_MIXES,
        origins=_HEAD,
    ),
    Problem(
        "softmax over the batch", _own(_over_the_batch, _relu, _head), origin=_MIXES, origins=_HEAD
    ),
    Problem(
        "batch as time",
        _own(_batch_as_time, _relu, lambda: layers.Conv1D(4, 3, padding="same"), _head),
        origin=_any("may mix samples", "not the batch"),
        origins=_HEAD,
    ),
    Problem(
        "batch reversed", _own(lambda x, a: a(x) + tf.nn.relu(a(x))[::-1], _dense()), origin=_MIXES
    ),
    Problem(
        "first sample for all",
        _own(lambda x, a: a(x)[0], _dense(), shape=(7, 2)),
        (7, 2),
        origin=_MIXES,
    ),
    Problem(
        "batch and time swapped",
        _own(
            lambda x, a: tf.reduce_sum(tf.nn.relu(tf.transpose(a(x), (1, 0, 2))), 1),
            _dense(),
            shape=(7, 2),
        ),
        (7, 2),
        origin=_MIXES,
    ),
    Problem(
        "product from the left",
        _own(lambda x, a: tf.matmul(x, tf.nn.relu(a(x))), _dense(), shape=(7,)),
        (7,),
        origin=_MIXES,
    ),
    Problem(
        "vector broadcast along the batch",
        _own(_broadcast, _relu, samples=3),
        samples=3,
        origin=_MIXES,
    ),
    Problem(
        "vectors stacked along the batch",
        _own(_stacked, _relu, samples=3),
        samples=3,
        origin=_MIXES,
    ),
    Problem("output as bias", _own(_as_bias, _relu, samples=3), samples=3, origin=_MIXES),
    Problem(
        "output as filters",
        _own(_as_filters, _dense(2), _head, samples=3),
        samples=3,
        origin=_MIXES,
        origins=_HEAD,
    ),
    Problem(
        "samples as blocks of an image",
        _own(
            _batch_to_space,
            _dense(4),
            lambda: layers.Conv2D(1, 2, padding="same"),
            _head,
            samples=4,
        ),
        samples=4,
        origin=_any("may mix samples", "not the batch"),
        origins=_HEAD,
    ),
    Problem(
        "blocks of images as samples",
        _own(_space_to_batch, _dense(4), _head, samples=4),
        samples=4,
        origin=_MIXES,
        origins=_HEAD,
    ),
    # Layers in loops and functions.
    Problem(
        "layer in a map",
        _own(lambda x, a, b: b(tf.map_fn(lambda row: a(row[None])[0], x)), _relu, _head),
        origin=_any("inside a loop"),
        origins=_HEAD,
    ),
    Problem(
        "function",
        _own(lambda x, a, b, c: c(tf.function(b)(a(x))), _relu, _dense(4), _head),
        origin=_any("inside a loop", "PartitionedCall.* may mix"),
        origins=_HEAD,
    ),
    Problem(
        "time distributed",
        lambda: _chain(
            (3, 4),
            layers.TimeDistributed(layers.Dense(2, activation="relu")),
            layers.Flatten(),
            layers.Dense(CLASSES, name="head"),
        ),
        (3, 4),
        origin=_any("."),
        origins=_HEAD,
    ),
    Problem(
        "recurrent",
        lambda: _chain((3, 4), layers.RNN(_Cell()), layers.Dense(CLASSES, name="head")),
        (3, 4),
        origin=_any("inside a loop"),
        origins=_HEAD,
    ),
    Problem(
        "layer inside a custom gradient",
        _own(_inside_a_custom_gradient, _dense(4), _head),
        origin=_any("used outside its layer"),
        origins=_HEAD,
    ),
    # Weights that are used in other ways.
    Problem(
        "tied embedding",
        _own(_tied, lambda: layers.Embedding(CLASSES, 2), shape=(6,), dtype="int32"),
        (6,),
        vocabulary=CLASSES,
        origin=_any("used outside its layer"),
    ),
    Problem(
        "tied to an unused call",
        _own(_tied_to_an_unused_call, _dense(5), _head),
        origin=_any("used outside its layer"),
        origins=_HEAD,
    ),
    Problem(
        "kernel squared",
        lambda: _chain((5,), _SquaredKernel(4), layers.ReLU(), layers.Dense(CLASSES, name="head")),
        origin=_any("no closed form"),
        origins=_HEAD,
    ),
    Problem(
        "kernel standardised",
        lambda: _chain(
            (5, 2),
            _StandardisedKernel(3, 2, activation="relu"),
            layers.Flatten(),
            layers.Dense(CLASSES, name="head"),
        ),
        (5, 2),
        origin=_any("no closed form"),
        origins=_HEAD,
    ),
    Problem(
        "einsum that is no dense layer",
        lambda: _chain(
            (3, 4),
            layers.EinsumDense("abc,bc->abc", (3, 4)),
            layers.Flatten(),
            layers.Dense(CLASSES, name="head"),
        ),
        (3, 4),
        origin=_any("no dense layer"),
        origins=_HEAD,
    ),
    # Losses.
    Problem("activity regulariser", lambda: _mlp(activity_regularizer="l2"), origin=_MODEL_LOSSES),
    Problem("added loss", _body(_WithLoss), origin=_MODEL_LOSSES),
    Problem("own regulariser", lambda: _mlp(kernel_regularizer=_Quartic()), origin=_MODEL_LOSSES),
    Problem(
        "huber",
        _mlp,
        loss=_loss(losses.Huber, targets=numbers),
        origin=_any("the loss huber_loss has no"),
    ),
    Problem(
        "loss with its own call",
        _mlp,
        loss=_loss(_Doubled, targets=LOGITS.targets),
        origin=_any("the loss .* has no"),
    ),
    Problem(
        "loss with its own average",
        _mlp,
        loss=_loss(_Exponential, targets=numbers),
        origin=_any("the loss .* has no"),
    ),
    Problem(
        "loss in the model",
        _own_loss,
        loss=_loss(LOGITS.make, compiled=True),
        origin=_any("in its own way"),
    ),
    Problem(
        "probabilities after an operation",
        _own(lambda x, a, b: 0.9 * tf.nn.softmax(b(a(x))) + 0.1 / CLASSES, _relu, _head),
        loss=_loss(_SPARSE),
        origin=_any("no Softmax was found"),
    ),
    Problem(
        "several outputs",
        _two_outputs,
        loss=_loss(lambda: ["mse", "mse"], compiled=True, targets=_twice),
        origin=_any("several losses"),
    ),
    Problem(
        "several outputs, one loss",
        _two_outputs,
        loss=_loss(losses.MeanSquaredError, targets=_twice),
        origin=_any("several losses"),
    ),
    Problem(
        "output at every position",
        lambda: _chain((3, 4), layers.Dense(CLASSES)),
        (3, 4),
        loss=_loss(
            losses.MeanSquaredError,
            targets=lambda random, samples, outputs: random.standard_normal((samples, 3, outputs)),
        ),
        origin=_any("the model's output has shape"),
    ),
]

PROBLEMS += [
    Problem(
        "recurrent, unrolled",
        lambda: _chain(
            (3, 4), layers.RNN(_Cell(), unroll=True), layers.Dense(CLASSES, name="head")
        ),
        (3, 4),
        origin=_SHARED,
        origins=_HEAD,
    ),
    Problem(
        "gradient reversal",
        _own(lambda x, a, b: b(_reversed_gradient(a(x))), _relu, _head),
        origin=_CUSTOM,
        origins=_HEAD,
    ),
    Problem(
        "kernel a function of the weight",
        lambda: _chain((5,), _TanhKernel(4, activation="relu"), layers.Dense(CLASSES, name="head")),
        origin=_EXACT,
    ),
    Problem("low-rank adapter", _lora, origin=_EXACT),
    Problem(
        "probabilities of something else",
        lambda: _mlp(last="softmax"),
        loss=_loss(losses.MeanSquaredError, "squared", targets=numbers),
        origin=_curved("Softmax"),
    ),
    Problem(
        "loss: cross-entropy of probabilities, targets of any sum",
        _own(lambda x, a, b: tf.identity(tf.nn.softmax(b(a(x)))), _relu, _head),
        loss=_loss(
            lambda: _CATEGORICAL(label_smoothing=0.1),
            targets=lambda random, samples, outputs: random.uniform(0.1, 1, (samples, outputs)),
            probabilities=True,
        ),
    ),
    Problem(
        "loss: cross-entropy of logits, targets of any sum",
        _mlp,
        loss=_loss(
            lambda: _CATEGORICAL(from_logits=True),
            targets=lambda random, samples, outputs: random.uniform(0.1, 1, (samples, outputs)),
        ),
    ),
]
