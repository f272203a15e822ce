"""ProsPr's first-order variant."""

from __future__ import annotations

from prospr_ops.methods.engine.descent import log_final_gradient, sgd_steps
from prospr_ops.methods.engine.passes import Passes
from prospr_ops.methods.engine.problem import Found, Problem, Scorer


def first_order_scorer(problem: Problem) -> Scorer:
    """log|∇L_M(w_M) ⊙ w_0|: the meta-gradient with every step's Jacobian replaced by the identity.

    (Alizadeh et al., arXiv 2202.08132, section on first-order approximation.) The derivative is defined
    for pruned weights too, which stand still in the steps.
    """
    passes = Passes(problem, problem.settings.steps + 1)
    gradients = passes.gradients_by([*problem.prunable(), *problem.others()], hold=False)
    descend, final_gradient = sgd_steps(passes, gradients), log_final_gradient(passes, gradients)

    def scores(round_: int) -> Found:
        passes.begin(round_)
        initial = problem.factors()
        descend()
        final = final_gradient()
        return passes.found(
            {
                path: final.pop(path).times(problem.log_numbers(weight))
                for path, weight in initial.items()
            }
        )

    return scores
