"""Twins of the γ ops in plain TensorFlow."""

from __future__ import annotations

import tensorflow as tf


def _log_abs_one_minus(x: tf.Tensor) -> tf.Tensor:
    return tf.where(x < 1, tf.math.log1p(-tf.minimum(x, 1)), tf.math.log(x - 1))


def _all_finite(*tensors: tf.Tensor) -> tf.Tensor:
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors])


def gamma_update(
    log_gamma: tf.Tensor, sign: tf.Tensor, curvature: tf.Tensor, learning_rate: float | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Twin of `prospr_ops.ops.gamma_update`.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> sign = tf.constant([1, 1], tf.int8)
        >>> curvature = tf.constant([4.0, 24.0])
        >>> log_gamma, sign = po.reference.gamma_update(tf.zeros(2), sign, curvature, 0.125)
        >>> tf.exp(log_gamma).numpy().round(3).tolist(), sign.numpy().tolist()  # γ = 0.5, −2
        ([0.5, 2.0], [1, -1])
    """
    x = learning_rate * curvature
    return log_gamma + _log_abs_one_minus(x), tf.where(x > 1, -sign, sign)


def gamma_step(
    weight: tf.Variable,
    log_gamma: tf.Variable,
    sign: tf.Variable,
    gradient: tf.Tensor,
    curvature: tf.Tensor,
    learning_rate: float | tf.Tensor,
) -> tf.Tensor:
    """Twin of `prospr_ops.ops.gamma_step`.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> weight, log_gamma = tf.Variable([1.0]), tf.Variable([0.0])
        >>> sign = tf.Variable([1], dtype=tf.int8)
        >>> gradient, curvature = tf.constant([2.0]), tf.constant([4.0])
        >>> bool(po.reference.gamma_step(weight, log_gamma, sign, gradient, curvature, 0.125))
        True
        >>> weight.numpy().round(3).tolist(), tf.exp(log_gamma).numpy().round(3).tolist()
        ([0.75], [0.5])
    """
    new_log_gamma, new_sign = gamma_update(
        tf.convert_to_tensor(log_gamma), tf.convert_to_tensor(sign), curvature, learning_rate
    )
    weight.assign_sub(learning_rate * gradient)
    log_gamma.assign(new_log_gamma)
    sign.assign(new_sign)
    return _all_finite(gradient, learning_rate * curvature)


def gamma_momentum_step(
    weight: tf.Variable,
    velocity: tf.Variable,
    log_scale: tf.Variable,
    p: tf.Variable,
    q: tf.Variable,
    gradient: tf.Tensor,
    curvature: tf.Tensor,
    learning_rate: float | tf.Tensor,
    momentum: float | tf.Tensor,
) -> tf.Tensor:
    """Twin of `prospr_ops.ops.gamma_momentum_step`.

    It rounds p − q before it takes the logarithm, so a curvature below the machine epsilon is lost
    here; the compiled op keeps it.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> weight, velocity, log_scale = (tf.Variable([value]) for value in (1.0, 0.0, 0.0))
        >>> p, q = tf.Variable([1.0]), tf.Variable([0.0])
        >>> gradient, curvature = tf.constant([2.0]), tf.constant([4.0])
        >>> bool(
        ...     po.reference.gamma_momentum_step(
        ...         weight, velocity, log_scale, p, q, gradient, curvature, 0.125, 0.9
        ...     )
        ... )
        True
        >>> derivative = p * tf.exp(log_scale)  # ∂w/∂w₀
        >>> weight.numpy().round(3).tolist(), derivative.numpy().round(3).tolist()
        ([0.75], [0.5])
    """
    velocity.assign(momentum * velocity + gradient)
    weight.assign_sub(learning_rate * velocity)
    new_q = momentum * q + learning_rate * curvature * p
    new_p = p - new_q
    largest = tf.maximum(tf.abs(new_p), tf.abs(new_q))
    log_scale.assign_add(tf.math.log(largest))
    divisor = tf.where(largest == 0, tf.ones_like(largest), largest)
    p.assign(new_p / divisor)
    q.assign(new_q / divisor)
    return _all_finite(gradient, learning_rate * curvature)
