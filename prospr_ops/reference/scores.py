"""Twins of the pruning methods: eager, on plain numbers instead of logarithms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from prospr_ops.network.loss import Batch, Objective
from prospr_ops.reference.exact_hessian import hessian
from prospr_ops.reference.selection import select


def diagonal_scores(
    objective: Objective,
    batches: Sequence[Batch],
    weights: Sequence[tf.Variable],
    curvature: Callable[[Batch, int], Sequence[tf.Tensor]],
    learning_rate: float,
    momentum: float = 0.0,
) -> list[tf.Tensor]:
    """Twin of the method "diagonal": ∇L_M(w_M) · ∂w_M/∂w_0 · w_0, with its sign.

    The derivative p = ∂w/∂w_0 follows from q = ∂v/∂w_0 by q ← μ q + h p, then p ← p − α q, with
    p = 1 and q = 0 at first, where h is the Hessian's diagonal. Without momentum this is
    p ← (1 − α h) p. The model's trainable variables are changed.

    Args:
        objective: The loss as a function of a batch.
        batches: M + 1 batches.
        weights: The weights to score.
        curvature: Function of (batch, number of the step) that returns the Hessian's diagonal by
            `weights`.
        learning_rate: Step size α of the SGD steps.
        momentum: Momentum μ of the SGD steps, in PyTorch's convention.

    Returns:
        A tensor in the shape of each weight.

    Examples:
        >>> import keras
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> from prospr_ops.network.loss import Batch, Objective
        >>> model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1, use_bias=False)])
        >>> model.set_weights([tf.fill([1, 1], 2.0)])
        >>> batch = Batch(tf.constant([[1.0]]), tf.constant([[0.0]]))
        >>> objective = Objective.of(model, "mse")  # w², whose Hessian is 2
        >>> (score,) = po.reference.diagonal_scores(
        ...     objective,
        ...     [batch, batch],
        ...     [model.weights[0].value],
        ...     lambda batch, number: [tf.constant([[2.0]])],
        ...     learning_rate=0.1,
        ... )
        >>> round(score.numpy().item(), 3)  # w₁ = 1.6: 2 w₁ · (1 − 0.1 · 2) · w₀
        5.12
    """
    variables = [variable.value for variable in objective.model.trainable_variables]
    velocities = [tf.zeros_like(variable) for variable in variables]
    initial = [tf.identity(weight) for weight in weights]
    p = [tf.ones_like(weight) for weight in weights]
    q = [tf.zeros_like(weight) for weight in weights]

    def gradients(batch: Batch, sources: Sequence[tf.Variable]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = objective(batch)
        return [tf.convert_to_tensor(g) for g in tape.gradient(loss, sources)]

    for number, batch in enumerate(batches[:-1]):
        diagonal = curvature(batch, number)
        q = [momentum * qi + hi * pi for qi, hi, pi in zip(q, diagonal, p, strict=True)]
        p = [pi - learning_rate * qi for pi, qi in zip(p, q, strict=True)]
        found = gradients(batch, variables)
        velocities = [momentum * v + g for v, g in zip(velocities, found, strict=True)]
        for variable, velocity in zip(variables, velocities, strict=True):
            variable.assign_sub(learning_rate * velocity)
    final = gradients(batches[-1], weights)
    return [g * pi * w for g, pi, w in zip(final, p, initial, strict=True)]


def first_order_scores(
    objective: Objective,
    batches: Sequence[Batch],
    weights: Sequence[tf.Variable],
    masks: Sequence[npt.NDArray[np.bool_]],
    learning_rate: float = 0.0,
    momentum: float = 0.0,
) -> list[tf.Tensor]:
    """Twin of the methods "first_order" and "snip" at a mask: ∇L_M(w_M) ⊙ w_init, with its sign.

    The steps begin at the masked weights, and what is pruned stays zero in them; its score is what it
    would count if it returned. "snip" is the same without a step. The model's trainable variables
    are changed.

    Args:
        objective: The loss as a function of a batch.
        batches: M + 1 batches.
        weights: The weights to score, at their initial values w_init.
        masks: Mask of each weight, False for what is pruned.
        learning_rate: Step size α of the SGD steps.
        momentum: Momentum μ of the SGD steps, in PyTorch's convention.

    Returns:
        A tensor in the shape of each weight.

    Examples:
        >>> import keras
        >>> import numpy as np
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> from prospr_ops.network.loss import Batch, Objective
        >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1, use_bias=False)])
        >>> model.set_weights([np.array([[2.0], [3.0]])])
        >>> batch = Batch(tf.constant([[1.0, 1.0]]), tf.constant([[1.0]]))
        >>> objective = Objective.of(model, "mse")  # (w₁ + w₂ − 1)², at w₂ = 0 of slope 2
        >>> weight, mask = model.weights[0].value, np.array([[True], [False]])
        >>> (scores,) = po.reference.first_order_scores(objective, [batch], [weight], [mask])
        >>> scores.numpy().ravel().tolist()  # 2 w₁ and 2 w₂
        [4.0, 6.0]
    """
    variables = [variable.value for variable in objective.model.trainable_variables]
    initial = [tf.identity(weight) for weight in weights]
    held = {id(weight): mask for weight, mask in zip(weights, masks, strict=True)}
    velocities = [tf.zeros_like(variable) for variable in variables]

    def hold() -> None:
        for weight in weights:
            weight.assign(tf.where(held[id(weight)], weight, tf.zeros_like(weight)))

    def gradients(batch: Batch, sources: Sequence[tf.Variable]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = objective(batch)
        return [tf.convert_to_tensor(g) for g in tape.gradient(loss, sources)]

    hold()
    for batch in batches[:-1]:
        found = gradients(batch, variables)
        velocities = [momentum * v + g for v, g in zip(velocities, found, strict=True)]
        for variable, velocity in zip(variables, velocities, strict=True):
            variable.assign_sub(learning_rate * velocity)
        hold()
    final = gradients(batches[-1], weights)
    return [g * w for g, w in zip(final, initial, strict=True)]


def grasp_scores(
    objective: Objective, batch: Batch, weights: Sequence[tf.Variable]
) -> list[tf.Tensor]:
    """Twin of the method "grasp": w ⊙ Hg with the whole Hessian, one backward pass per row.

    Args:
        objective: The loss as a function of a batch; deterministic (no dropout).
        batch: The batch on which the loss is taken.
        weights: The weights to score.

    Returns:
        A tensor in the shape of each weight.

    Examples:
        >>> import keras
        >>> import tensorflow as tf
        >>> import prospr_ops as po
        >>> from prospr_ops.network.loss import Batch, Objective
        >>> model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1, use_bias=False)])
        >>> model.set_weights([tf.fill([1, 1], 2.0)])
        >>> batch = Batch(tf.constant([[1.0]]), tf.constant([[0.0]]))
        >>> objective = Objective.of(model, "mse")  # w², so H = 2 and g = 4
        >>> (score,) = po.reference.grasp_scores(objective, batch, [model.weights[0].value])
        >>> score.numpy().item()
        16.0
    """
    variables = [variable.value for variable in objective.model.trainable_variables]
    with tf.GradientTape() as tape:
        loss = objective(batch)
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]
    flat = tf.concat([tf.reshape(g, [-1]) for g in gradients], axis=0)
    products = tf.split(
        tf.linalg.matvec(hessian(objective, batch, variables), flat),
        [variable.shape.num_elements() for variable in variables],
    )
    by_variable = {id(v): hg for v, hg in zip(variables, products, strict=True)}
    return [w * tf.reshape(by_variable[id(w)], w.shape) for w in weights]


def synflow_scores(
    kernels: Sequence[npt.NDArray[np.floating]],
    sparsity: float | None = None,
    iterations: int = 100,
) -> list[npt.NDArray[np.floating]]:
    """Twin of the method "synflow", for a chain of Dense layers without biases.

    R = 1ᵀ |W_1| |W_2| … 1, so a weight's score is its magnitude times the flow into it and the flow
    out of it.

    Args:
        kernels: Kernel of each layer, [inputs, outputs].
        sparsity: Fraction to prune, by the paper's exponential schedule; None for the scores of all
            weights before anything is pruned.
        iterations: Number n of iterations of the schedule.

    Returns:
        The scores of the last iteration, in the shape of each kernel; 0 for weights pruned before
        it.

    Examples:
        >>> import numpy as np
        >>> import prospr_ops as po
        >>> kernels = [np.array([[1.0, -2.0]]), np.array([[3.0], [1.0]])]
        >>> [scores.tolist() for scores in po.reference.synflow_scores(kernels)]
        [[[3.0, 2.0]], [[3.0], [2.0]]]
    """
    magnitudes = [np.abs(kernel) for kernel in kernels]

    def scores() -> list[npt.NDArray[np.floating]]:
        into, out_of = [np.ones(len(magnitudes[0]))], [np.ones(magnitudes[-1].shape[1])]
        for matrix in magnitudes[:-1]:
            into.append(into[-1] @ matrix)
        for matrix in magnitudes[:0:-1]:
            out_of.insert(0, matrix @ out_of[0])
        return [
            np.outer(a, b) * matrix for a, matrix, b in zip(into, magnitudes, out_of, strict=True)
        ]

    if sparsity is not None:
        size = sum(matrix.size for matrix in magnitudes)
        for iteration in range(1, iterations):
            keep = math.ceil(size * (1.0 - sparsity) ** (iteration / iterations))
            masks = select(scores(), keep)
            magnitudes = [matrix * mask for matrix, mask in zip(magnitudes, masks, strict=True)]
    return scores()
