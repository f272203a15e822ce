"""The meta-gradient as in the paper: by backpropagation through all steps."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from prospr_ops.network.loss import Batch, Objective


def unrolled_meta_gradient(
    objective: Objective,
    batches: Sequence[Batch],
    weights: Sequence[tf.Variable],
    learning_rate: float,
    momentum: float = 0.0,
    nesterov: bool = False,
) -> list[tf.Tensor]:
    """Twin of the method "exact": one tape through M steps of SGD; memory grows with M.

    All trainable variables take part in the steps; state that layers update themselves (moving
    averages, seeds) is carried from step to step too. No variable of the model changes. It may be
    called inside a `tf.function`.

    Args:
        objective: The loss as a function of a batch.
        batches: M + 1 batches.
        weights: The weights to score.
        learning_rate: Step size α of the SGD steps.
        momentum: Momentum μ of the SGD steps, in PyTorch's convention.
        nesterov: Whether the SGD steps use Nesterov momentum.

    Returns:
        ∂L_M(w_M)/∂c = w_0 ⊙ ∂L_M(w_M)/∂w_0, with its sign, in the shape of each weight.

    Examples:
        >>> import keras
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> from prospr_ops.network.loss import Batch, Objective
        >>> model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1, use_bias=False)])
        >>> model.set_weights([tf.fill([1, 1], 2.0)])
        >>> batch = Batch(tf.constant([[1.0]]), tf.constant([[0.0]]))
        >>> objective = Objective.of(model, "mse")  # w²
        >>> (score,) = po.reference.unrolled_meta_gradient(
        ...     objective, [batch, batch], [model.weights[0].value], learning_rate=0.1
        ... )
        >>> round(score.numpy().item(), 3)  # w₁ = 0.8 w₀, so w₀ ∂(0.64 w₀²)/∂w₀
        5.12
    """
    model = objective.model
    trainable, others = model.trainable_variables, model.non_trainable_variables
    values = [tf.convert_to_tensor(variable.value) for variable in trainable]
    state = [tf.convert_to_tensor(variable.value) for variable in others]
    velocities = [tf.zeros_like(value) for value in values]
    scored = {id(weight) for weight in weights}
    initial = [value for value, v in zip(values, trainable, strict=True) if id(v.value) in scored]

    def loss_at(batch: Batch) -> tuple[tf.Tensor, list[tf.Tensor]]:
        substitutes = [*zip(trainable, values, strict=True), *zip(others, state, strict=True)]
        with keras.StatelessScope(substitutes, collect_losses=True) as scope:
            loss = objective(batch)
        return loss, [scope.get_current_value(variable) for variable in others]

    with tf.GradientTape() as tape:
        tape.watch(initial)
        for batch in batches[:-1]:
            with tf.GradientTape() as inner:
                inner.watch(values)
                loss, state = loss_at(batch)
            gradients = inner.gradient(
                loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            gradients = [tf.convert_to_tensor(g) for g in gradients]
            velocities = [momentum * v + g for v, g in zip(velocities, gradients, strict=True)]
            directions = velocities
            if nesterov:
                directions = [g + momentum * v for v, g in zip(velocities, gradients, strict=True)]
            values = [w - learning_rate * d for w, d in zip(values, directions, strict=True)]
        loss, _ = loss_at(batches[-1])
    found = tape.gradient(loss, initial, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [w * tf.convert_to_tensor(g) for w, g in zip(initial, found, strict=True)]
