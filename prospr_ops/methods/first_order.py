"""Gradient times weight, with and without a prospect."""

from __future__ import annotations

from prospr_ops.methods.descent import (
    descend,
    log_factor,
    log_final_gradient,
    log_weights,
    weights_now,
)
from prospr_ops.methods.passes import gradients_by
from prospr_ops.methods.problem import LogScores, Problem


def first_order(problem: Problem) -> LogScores:
    """log|∇L_M(w_M) ⊙ w_0|: the meta-gradient with every step's Jacobian taken as the identity.

    (Alizadeh et al., arXiv 2202.08132, section on first-order approximation.)
    """
    initial = weights_now(problem)
    gradients = gradients_by(problem, [*problem.prunable(), *problem.others()])
    descend(problem, gradients)
    final = log_final_gradient(problem, gradients)
    return {
        path: final.pop(path) + log_factor(problem, path, weight)
        for path, weight in initial.items()
    }


def snip(problem: Problem) -> LogScores:
    """log|∇L(w_0) ⊙ w_0|, the connection sensitivity before any step; `steps` is not used.

    (Lee, Ajanthan and Torr, "SNIP", arXiv 1810.02340, equation 6, without the normalisation, which
    changes no ranking.)
    """
    gradients = log_final_gradient(problem, gradients_by(problem, problem.prunable()))
    return {path: gradients[path] + values for path, values in log_weights(problem).items()}
