"""The loss Hessian at a model's output, as the sum of the outer products of columns.

For one sample with output z (the logits, for a cross-entropy) the Hessian of its loss is S Sᵀ. The
columns of S, scaled by the square root of the sample's weight in the total loss, are what the
Gauss-Newton diagonal backpropagates.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from prospr_ops.curvature.backpropagation import leading_to
from prospr_ops.curvature.hutchinson import rademacher
from prospr_ops.network import keras_private
from prospr_ops.network.loss import LossCall, Objective


class NotApplicable(Exception):
    """Raised where there is no closed form, with the reason."""


class LossFactor(NamedTuple):
    """The factor S of a batch.

    Attributes:
        output: z, [N, C]: the logits, or the prediction for squared error.
        columns: Number of columns of S.
        column: Function that takes indices, int32 [K], and returns those columns, [K, N, C], in
            float32 (float64 for a float64 model).
        sample: Function that takes a seed, int64 [2], and returns one random column, [N, C], whose
            outer product has the Hessian as its mean.
    """

    output: tf.Tensor
    columns: int
    column: Callable[[tf.Tensor], tf.Tensor]
    sample: Callable[[tf.Tensor], tf.Tensor]


def loss_with_closed_form(objective: Objective) -> keras.losses.Loss:
    """The objective's loss, if it is a single Keras loss with a closed form.

    Raises:
        NotApplicable: There is none, or it does more than call a function.
    """
    loss = objective.single_loss()
    if loss is None:
        msg = "the model has several losses, weighs its loss or computes it in its own way"
        raise NotApplicable(msg)
    if _function(loss) is None:
        raise _no_form(loss)
    return loss


def _no_form(loss: keras.losses.Loss) -> NotApplicable:
    return NotApplicable(f"the loss {loss.name} has no closed form here")


def _function(loss: keras.losses.Loss) -> Any:
    """The function of (target, prediction) that a loss averages; None if it does anything else."""
    kind = type(loss)
    plain_call = keras_private.LossFunctionWrapper.call
    if kind.__call__ is not keras.losses.Loss.__call__ or kind.call is not plain_call:
        return None  # a subclass may do anything to its losses, and to their average
    return loss.fn if isinstance(loss.fn, Hashable) else None


def _logits(call: LossCall, activation: str, *, from_logits: bool) -> tf.Tensor:
    """The logits from which Keras computes the loss.

    Keras looks for the softmax or sigmoid that gave the prediction (but not behind a cast) and uses
    its input, even if it was told that the prediction is the logits.
    """
    prediction = call.prediction
    logits = keras_private.logits_of(prediction)
    if logits is not None:
        return logits
    if _is_hidden(call, activation):
        prediction = _uncast(prediction)
        if from_logits:
            return prediction
    if prediction.op.type == activation:
        return prediction.op.inputs[0]
    msg = f"the loss takes probabilities, and no {activation} was found that gives them"
    raise NotApplicable(msg)


def _is_hidden(call: LossCall, activation: str | None) -> bool:
    """Whether an activation gave the prediction and Keras does not find it."""
    known = keras_private.logits_of(call.prediction) is not None
    return not known and call.prediction.op.type != activation


def _uncast(tensor: tf.Tensor) -> tf.Tensor:
    """The layer's own tensor, whose gradient is wanted, instead of a cast of it."""
    while tensor.op.type in ("Identity", "Cast"):
        tensor = tensor.op.inputs[0]
    return tensor


def _is_mean_square(call: LossCall) -> bool:
    """Whether a loss is the mean of (target − prediction)² over the last axis, by its graph."""
    mean = _uncast(call.losses).op
    if mean.type != "Mean" or mean.get_attr("keep_dims"):
        return False
    rank, axes = mean.inputs[0].shape.rank, tf.get_static_value(mean.inputs[1])
    if rank is None or axes is None or [axis % rank for axis in axes.flatten()] != [rank - 1]:
        return False
    square = _uncast(mean.inputs[0]).op
    twice = (
        square.type == "Square"
        or (square.type == "Pow" and _is_two(square.inputs[1]))
        or (square.type == "Mul" and square.inputs[0] is square.inputs[1])
    )
    difference = _uncast(square.inputs[0]).op if twice else square
    if difference.type not in ("Sub", "SquaredDifference"):
        return False
    if difference.outputs[0].shape != call.prediction.shape:
        return False  # one was broadcast against the other
    prediction = _uncast(call.prediction)
    others = [side for side in map(_uncast, difference.inputs) if side is not prediction]
    return len(others) == 1 and _is_given(others[0], prediction)


def _is_given(tensor: tf.Tensor, prediction: tf.Tensor) -> bool:
    """Whether a tensor is computed without the prediction and any variable, as a target is."""
    names = leading_to(tensor)
    operations = [tensor.graph.get_operation_by_name(name) for name in names]
    return prediction.op.name not in names and not any(
        source.dtype == tf.resource for operation in operations for source in operation.inputs
    )


def _is_two(tensor: tf.Tensor) -> bool:
    value = tf.get_static_value(tensor)
    return value is not None and value.size == 1 and float(value.reshape(())) == 2.0


def loss_factor(loss: keras.losses.Loss, call: LossCall, scale: tf.Tensor) -> LossFactor:
    """The factor of a loss on a batch.

    Args:
        loss: A loss that `loss_with_closed_form` returned.
        call: The recorded call of the loss.
        scale: Derivative of the total loss by each of `call.losses`: 1/N for an average, times the
            sample weights.

    Returns:
        The factor.

    Raises:
        NotApplicable: The logits are not found, or the output is not [N, C].
    """
    if not isinstance(call.prediction, tf.Tensor):
        msg = "the model has several outputs"
        raise NotApplicable(msg)
    function = _function(loss)
    if function not in _FORMS:
        # One of the user's, which may compute the same.
        function = keras.losses.mean_squared_error if _is_mean_square(call) else None
    if function is None:
        raise _no_form(loss)
    activation, make = _FORMS[function]
    options = getattr(loss, "_fn_kwargs", {})
    if activation is None:
        output = _uncast(call.prediction)
    else:
        output = _logits(call, activation, from_logits=options.get("from_logits", False))
    if output.shape.rank != 2 or output.shape[-1] is None:
        msg = f"the model's output has shape {output.shape}; the closed form is for [samples, C]"
        raise NotApplicable(msg)

    if call.losses.shape != output.shape[:1]:
        msg = f"the loss has shape {call.losses.shape}, and not one number for each sample"
        raise NotApplicable(msg)

    if function is keras.losses.categorical_crossentropy and _is_hidden(call, activation):
        # On probabilities, targets scale the loss by their sum; on logits, TensorFlow
        # differentiates as if they summed to 1.
        smoothing = options.get("label_smoothing", 0.0)
        target = tf.reshape(call.target, tf.shape(output))
        targets = (1 - smoothing) * tf.reduce_sum(target, axis=-1) + smoothing
        scale = scale if options.get("from_logits", False) else scale * targets
    ignored = options.get("ignore_class")
    if ignored is not None:
        kept = tf.cast(tf.reshape(call.target, [-1]), tf.int64) != ignored
        scale = scale * tf.cast(kept, scale.dtype)
    z = tf.cast(output, scale.dtype)
    root = tf.sqrt(scale)[:, None]
    return make(output, z, root)


def _softmax_factor(output: tf.Tensor, z: tf.Tensor, root: tf.Tensor) -> LossFactor:
    """Columns of the Cholesky factor of diag(p) − p pᵀ, whose rank is C − 1.

    In closed form (Tanabe and Sagae, 1992), with q_i = Σ_{k>i} p_k:
    S_ji = −p_j √(p_i / (q_i q_{i−1})) for j > i,   S_ii = √(p_i q_i / q_{i−1}).
    """
    classes = output.shape[-1]
    p = tf.nn.softmax(z)
    after = tf.cumsum(p, axis=-1, exclusive=True, reverse=True)  # q_i
    from_here = after + p  # q_{i−1}

    def column(indices: tf.Tensor) -> tf.Tensor:
        def pick(values: tf.Tensor) -> tf.Tensor:
            return tf.transpose(tf.gather(values, indices, axis=-1))[:, :, None]

        p_i, q_i, q_before = pick(p), pick(after), pick(from_here)
        here = tf.one_hot(indices, classes, dtype=z.dtype)[:, None, :]
        later = tf.cast(tf.range(classes)[None, :] > indices[:, None], z.dtype)[:, None, :]
        diagonal = tf.sqrt(tf.math.divide_no_nan(p_i * q_i, q_before))
        below = tf.sqrt(tf.math.divide_no_nan(p_i, q_before)) * tf.sqrt(q_i)
        # p_j / q_i is at most 1 for j > i, so nothing overflows where q_i is tiny.
        return root * (here * diagonal - later * below * tf.math.divide_no_nan(p[None], q_i))

    def sample(seed: tf.Tensor) -> tf.Tensor:
        drawn = tf.random.stateless_categorical(z, 1, seed)[:, 0]
        return root * (p - tf.one_hot(drawn, classes, dtype=z.dtype))

    return LossFactor(output, max(1, classes - 1), column, sample)


def _unit_columns(output: tf.Tensor, length: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
    """Columns of a diagonal S: `length`, [N, C], times unit vectors."""

    def column(indices: tf.Tensor) -> tf.Tensor:
        units = tf.one_hot(indices, output.shape[-1], dtype=length.dtype)
        return units[:, None, :] * length

    return column


def _sigmoid_factor(output: tf.Tensor, z: tf.Tensor, root: tf.Tensor) -> LossFactor:
    """The factor of the mean of C binary cross-entropies: S = diag(√(p (1 − p) / C))."""
    outputs = output.shape[-1]
    p = tf.sigmoid(z)
    root = root / outputs**0.5
    length = root * tf.sqrt(p * tf.sigmoid(-z))

    def sample(seed: tf.Tensor) -> tf.Tensor:
        uniform = tf.random.stateless_uniform(tf.shape(p), seed, dtype=p.dtype, alg="philox")
        return root * (p - tf.cast(uniform < p, p.dtype))

    return LossFactor(output, outputs, _unit_columns(output, length), sample)


def _squared_factor(output: tf.Tensor, z: tf.Tensor, root: tf.Tensor) -> LossFactor:
    """The factor of the mean of C squares: S = √(2 / C) I."""
    outputs = output.shape[-1]
    length = root * tf.ones_like(z) * (2 / outputs) ** 0.5

    def sample(seed: tf.Tensor) -> tf.Tensor:
        return length * rademacher(tf.shape(z), z.dtype, seed)

    return LossFactor(output, outputs, _unit_columns(output, length), sample)


# For each loss function: the activation that gives its probabilities (None if it takes none), and
# the function that makes the factor.
_FORMS: dict[Any, tuple[str | None, Callable[[tf.Tensor, tf.Tensor, tf.Tensor], LossFactor]]] = {
    keras.losses.sparse_categorical_crossentropy: ("Softmax", _softmax_factor),
    keras.losses.categorical_crossentropy: ("Softmax", _softmax_factor),
    keras.losses.binary_crossentropy: ("Sigmoid", _sigmoid_factor),
    keras.losses.mean_squared_error: (None, _squared_factor),
}
