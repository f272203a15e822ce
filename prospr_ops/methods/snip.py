"""SNIP: gradient times weight at initialisation."""

from __future__ import annotations

from prospr_ops.methods.engine.descent import log_final_gradient
from prospr_ops.methods.engine.passes import Passes
from prospr_ops.methods.engine.problem import Found, Problem, Scorer


def snip_scorer(problem: Problem) -> Scorer:
    """log|∇L(w_0) ⊙ w_0|, the connection sensitivity before any step; `steps` is not used.

    (Lee, Ajanthan and Torr, "SNIP", arXiv 1810.02340, equation 6, without the normalisation, which
    does not change the ranking.) The derivative by the mask is defined for pruned weights too.
    """
    passes = Passes(problem, 1)
    gradient = log_final_gradient(passes, passes.gradients_by(problem.prunable(), hold=False))

    def scores(round_: int) -> Found:
        passes.begin(round_)
        gradients = gradient()
        return passes.found(
            {
                path: gradients.pop(path).times(problem.log_numbers(weight))
                for path, weight in problem.factors().items()
            }
        )

    return scores
