// One prospect step of one weight, with the diagonal of the Hessian in place of the Hessian: the
// formula is in docs/mathematics.md, "ProsPr", after Alizadeh et al., arXiv 2202.08132.
#pragma once

#include "core/log.h"
#include "core/macros.h"

namespace prospr::core {

// How much of a weight's own change survives one step of gradient descent.
template <typename T>
PROSPR_HD T gamma(T curvature, T learning_rate) {
  return T(1) - learning_rate * curvature;
}

template <typename T>
PROSPR_HD T log_abs_gamma(T curvature, T learning_rate) {
  return log_abs_difference(T(1), learning_rate * curvature);
}

// The derivatives of a weight and of its velocity with respect to the initial weight, under SGD
// with momentum: p = dw/dw_0 and q = learning_rate * dv/dw_0. Both are stored divided by
// exp(log_scale), so that max(|p|, |q|) = 1; p = q = 0 once the product has vanished for good.
template <typename T>
struct MomentumPair {
  T log_scale;
  T p;
  T q;
};

// q <- momentum q + learning_rate curvature p,   p <- p - q,   then rescale.
//
// While |p| is the larger it is exactly 1, and the logarithm of 1 - q keeps a q far under epsilon.
template <typename T>
PROSPR_HD MomentumPair<T> momentum_pair_step(MomentumPair<T> pair, T curvature, T learning_rate,
                                             T momentum) {
  const T q = momentum * pair.q + (learning_rate * curvature) * pair.p;
  const T p = pair.p - q;
  const bool p_is_larger = magnitude(p) >= magnitude(q);
  const T largest = p_is_larger ? magnitude(p) : magnitude(q);
  // One logarithm serves both cases: log|p - q| or log|q - 0|.
  const T log_largest = log_abs_difference(p_is_larger ? pair.p : q, p_is_larger ? q : T(0));
  const T divisor = largest == T(0) ? T(1) : largest;
  return {pair.log_scale + log_largest, p / divisor, q / divisor};
}

}  // namespace prospr::core
