"""GraSP: gradient signal preservation."""

from __future__ import annotations

import tensorflow as tf

from prospr_ops.curvature.estimate import sum_dtype
from prospr_ops.methods.engine.descent import gradient_on, set_all
from prospr_ops.methods.engine.passes import (
    Passes,
    Taped,
    all_finite,
    hessian_products_by,
    keeping,
)
from prospr_ops.methods.engine.problem import Found, Problem, Scorer


def grasp_scorer(problem: Problem) -> Scorer:
    """w_0 ⊙ Hg, with its sign: g and H of all trainable variables, on one batch.

    The paper's score is S(−w) = −w ⊙ Hg: to first order, and up to a factor of 2, the change of the
    gradient flow ‖g‖² when a weight is removed. The paper removes the weights with the *largest* S,
    whose removal reduces the flow least or increases it most. Here larger scores are kept, so the
    score is −S. The scores are signed: the weight with the lowest score is pruned first, not the
    one nearest to zero, so no logarithm is taken. `steps` is not used. (Wang, Zhang and Grosse,
    "GraSP", arXiv 2002.07376, equation 8 and the text after it; without the temperature of 200 by
    which the authors' code divides the logits.)
    """
    passes = Passes(problem, 2)
    variables = [*problem.prunable(), *problem.others()]
    state = [variable.value for variable in problem.objective.model.non_trainable_variables]
    gradients = passes.gradients_by(variables)
    kept: list[Taped] = []
    gradient = gradient_on(passes, keeping(gradients, kept.append) if passes.whole else gradients)
    # In variables, which the product's graph reads in every round.
    vector: list[tf.Variable] = []

    def apply(products: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        products = products[: len(problem.weights)]
        return all_finite(products), products

    products_by = hessian_products_by(
        problem, gradients, variables, lambda: vector, lambda: kept.pop() if kept else None
    )
    product = passes.pass_of(products_by, apply)

    def scores(round_: int) -> Found:
        passes.begin(round_)
        values = [tf.identity(variable) for variable in state]
        batch = next(problem.batches)
        set_all(vector, gradient(batch))
        # The second pass over the batch sees the same masks of dropout.
        for variable, value in zip(state, values, strict=True):
            variable.assign(value)
        products = passes.run(product, 0, batch, "the Hessian-vector product")
        found = {
            path: _precise(tf.convert_to_tensor(weight)) * _precise(hg)
            for (path, weight), hg in zip(problem.weights.items(), products, strict=True)
        }
        return Found(found, losses=tuple(passes.losses))

    return scores


def _precise(tensor: tf.Tensor) -> tf.Tensor:
    return tf.cast(tensor, sum_dtype(tensor.dtype))
