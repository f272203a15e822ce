// The streaming prospect step: gamma = 1 - learning_rate * curvature, accumulated as log|gamma| and
// a sign.
//
// All arrays have as many elements, `size` >= 0, and none overlaps another, unless said otherwise.
// T is float or double.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/shape.h"

namespace prospr {

template <typename T>
struct GammaUpdate {
  const T* curvature;       // any value; NaN and infinity propagate
  T learning_rate;          //
  const T* log_gamma;       // sum of log|gamma| so far
  const std::int8_t* sign;  // -1 or +1
  T* log_gamma_out;         // may be log_gamma itself
  std::int8_t* sign_out;    // may be sign itself
};

template <typename T>
struct GammaStep {
  T* weight;           // weight -= learning_rate * gradient
  T* log_gamma;        // log_gamma += log|gamma|
  std::int8_t* sign;   // sign *= sign(gamma), +1 for gamma = 0
  const T* gradient;   // may overlap nothing that is written
  const T* curvature;  // may overlap nothing that is written, may be gradient
  T learning_rate;
  // Written: whether every element of gradient and of learning_rate * curvature was finite. Where
  // one was not, the arrays hold what the arithmetic gave.
  bool* finite;
};

// See core::MomentumPair for log_scale, p and q.
template <typename T>
struct GammaMomentumStep {
  T* weight;    // weight -= learning_rate * velocity
  T* velocity;  // velocity = momentum * velocity + gradient
  T* log_scale;
  T* p;
  T* q;
  const T* gradient;
  const T* curvature;
  T learning_rate;
  T momentum;
  bool* finite;  // as in GammaStep
};

// Arguments must have elements, and all of them the shape of the first.
std::string check_weights(const std::vector<NamedShape>& arguments);

// A learning rate or a momentum must be finite and at least 0 in the dtype that it is used in.
template <typename T>
std::string check_rate(const std::string& name, T rate);

}  // namespace prospr
