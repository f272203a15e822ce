"""The γ ops: one prospect step."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from prospr_ops import _native, reference
from prospr_ops.ops._library import library, raises_value_error


def _variables(**candidates: Any) -> list[tf.Variable]:
    """Unwraps Keras variables, and refuses what is no variable."""
    variables = []
    for name, candidate in candidates.items():
        variable = candidate.value if isinstance(candidate, keras.Variable) else candidate
        if not isinstance(variable, tf.Variable):
            msg = f"{name} must be a tf.Variable or keras.Variable, not {type(candidate).__name__}"
            raise TypeError(msg)
        variables.append(variable)
    return variables


def _scalar(value: float | tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """`value` in `dtype`; tf.cast alone would take a Python number through float32."""
    if tf.is_tensor(value):
        return tf.cast(value, dtype)
    # On a GPU too the op reads its scalars on the host.
    with tf.device("CPU:0"):
        return tf.constant(value, dtype)


def _out_of_reach(variable: tf.Variable) -> bool:
    """In a build without CUDA, what lives on a GPU is left to the twin in TensorFlow."""
    return "GPU" in (variable.device or "") and not _native.build_info()["cuda"]


@raises_value_error
def gamma_update(
    log_gamma: tf.Tensor,
    sign: tf.Tensor,
    curvature: tf.Tensor,
    learning_rate: float | tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Multiplies γ = 1 − learning_rate · curvature into a running product.

    The product is kept as log|γ| and a sign, exact to about 2.5 units in the last place: curvature
    far under the machine's epsilon still counts, γ = 0 gives −inf and keeps the sign, and NaN and
    infinity propagate. The result is the same bits for every number of threads and every instruction
    set.

    Args:
        log_gamma: Σ log|γ| so far; float32 or float64, any shape with at least one element.
        sign: −1 or +1; int8, in `log_gamma`'s shape.
        curvature: Diagonal of the Hessian, in `log_gamma`'s dtype and shape.
        learning_rate: A finite scalar, at least 0.

    Returns:
        The new `log_gamma` and `sign`.

    Raises:
        ValueError: Shapes or dtypes do not fit, a tensor is empty, or the learning rate is negative
            or not finite.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> sign = tf.constant([1, 1], tf.int8)
        >>> curvature = tf.constant([4.0, 24.0])
        >>> log_gamma, sign = po.ops.gamma_update(tf.zeros(2), sign, curvature, 0.125)
        >>> tf.exp(log_gamma).numpy().round(3).tolist(), sign.numpy().tolist()  # γ = 0.5, −2
        ([0.5, 2.0], [1, -1])
    """
    log_gamma = tf.convert_to_tensor(log_gamma)
    learning_rate = _scalar(learning_rate, log_gamma.dtype)
    return tuple(library.prospr_gamma_update(log_gamma, sign, curvature, learning_rate))


@raises_value_error
def gamma_step(
    weight: tf.Variable,
    log_gamma: tf.Variable,
    sign: tf.Variable,
    gradient: tf.Tensor,
    curvature: tf.Tensor,
    learning_rate: float | tf.Tensor,
) -> tf.Tensor:
    """One step of gradient descent and of the streaming prospect, in place, in one pass.

    `weight` −= `learning_rate` · `gradient`, and γ = 1 − `learning_rate` · `curvature` is
    multiplied into `log_gamma` and `sign` as `gamma_update` does. Moves 24 bytes per float32 weight;
    `sign` is touched only where some γ is negative. The variables are locked together, so concurrent
    steps do not mix. The result is the same bits for every number of threads and every instruction
    set.

    Args:
        weight: float32 or float64 variable (TensorFlow's or Keras's) with at least one element.
        log_gamma: Variable of `weight`'s dtype and shape.
        sign: int8 variable of `weight`'s shape, −1 or +1.
        gradient: In `weight`'s dtype and shape.
        curvature: In `weight`'s dtype and shape.
        learning_rate: A finite scalar, at least 0.

    Returns:
        A boolean scalar: whether all of `gradient` and of `learning_rate` · `curvature` was finite.
        The step is taken all the same.

    Raises:
        TypeError: One of the first three is no variable.
        ValueError: Shapes or dtypes do not fit, a tensor is empty, a variable is given twice or not
            initialised, or the learning rate is negative or not finite.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> weight, log_gamma = tf.Variable([1.0]), tf.Variable([0.0])
        >>> sign = tf.Variable([1], dtype=tf.int8)
        >>> gradient, curvature = tf.constant([2.0]), tf.constant([4.0])
        >>> bool(po.ops.gamma_step(weight, log_gamma, sign, gradient, curvature, 0.125))
        True
        >>> weight.numpy().round(3).tolist(), tf.exp(log_gamma).numpy().round(3).tolist()
        ([0.75], [0.5])
    """
    variables = _variables(weight=weight, log_gamma=log_gamma, sign=sign)
    tensors = (gradient, curvature, _scalar(learning_rate, variables[0].dtype))
    if _out_of_reach(variables[0]):
        return reference.gamma_step(*(*variables, *tensors))
    return library.prospr_gamma_step(*(variable.handle for variable in variables), *tensors)


@raises_value_error
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
    """`gamma_step` under momentum, where a pair of derivatives takes the place of γ.

    In place: `velocity` = `momentum` · `velocity` + `gradient`; `weight` −= `learning_rate` ·
    `velocity`; and with p = ∂w/∂w₀, q = `learning_rate` · ∂v/∂w₀ of the diagonal recursion:
    q ← `momentum` · q + `learning_rate` · `curvature` · p, then p ← p − q. Both are divided by
    max(|p|, |q|), whose logarithm is added to `log_scale`, so ∂w/∂w₀ = p · exp(`log_scale`).
    Start from velocity = 0, log_scale = 0, p = 1, q = 0. Once p = q = 0 they stay so, and `log_scale`
    is −inf. The variables are locked together, so concurrent steps do not mix. The result is the same
    bits for every number of threads and every instruction set.

    Args:
        weight: float32 or float64 variable (TensorFlow's or Keras's) with at least one element.
        velocity: Variable of `weight`'s dtype and shape, as are the next three.
        log_scale: Logarithm of the scale of `p` and `q`.
        p: Derivative of the weight, scaled.
        q: Derivative of `learning_rate` · `velocity`, scaled.
        gradient: In `weight`'s dtype and shape.
        curvature: In `weight`'s dtype and shape.
        learning_rate: A finite scalar, at least 0, the same in every step.
        momentum: A finite scalar, at least 0.

    Returns:
        A boolean scalar: whether all of `gradient` and of `learning_rate` · `curvature` was finite.
        The step is taken all the same.

    Raises:
        TypeError: One of the first five is no variable.
        ValueError: Shapes or dtypes do not fit, a tensor is empty, a variable is given twice or not
            initialised, or a scalar is negative or not finite.

    Examples:
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> weight, velocity, log_scale = (tf.Variable([value]) for value in (1.0, 0.0, 0.0))
        >>> p, q = tf.Variable([1.0]), tf.Variable([0.0])
        >>> gradient, curvature = tf.constant([2.0]), tf.constant([4.0])
        >>> bool(
        ...     po.ops.gamma_momentum_step(
        ...         weight, velocity, log_scale, p, q, gradient, curvature, 0.125, 0.9
        ...     )
        ... )
        True
        >>> derivative = p * tf.exp(log_scale)  # ∂w/∂w₀
        >>> weight.numpy().round(3).tolist(), derivative.numpy().round(3).tolist()
        ([0.75], [0.5])
    """
    variables = _variables(weight=weight, velocity=velocity, log_scale=log_scale, p=p, q=q)
    dtype = variables[0].dtype
    tensors = (gradient, curvature, _scalar(learning_rate, dtype), _scalar(momentum, dtype))
    if _out_of_reach(variables[0]):
        return reference.gamma_momentum_step(*(*variables, *tensors))
    return library.prospr_gamma_momentum_step(
        *(variable.handle for variable in variables), *tensors
    )
