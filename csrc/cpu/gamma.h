// The streaming prospect step on the CPU: gamma = 1 - learning_rate * curvature, accumulated as
// log|gamma| and a sign.
//
// All arrays have `size` >= 0 elements and none overlaps another, unless said otherwise. T is float
// or double. Results are the same bits for every split into threads and every instruction set.
#pragma once

#include <cstdint>

#include "cpu/instruction_set.h"
#include "cpu/parallel_for.h"

namespace prospr::cpu {

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
};

template <typename T>
void run(const GammaUpdate<T>& update, std::int64_t size, InstructionSet instruction_set,
         const ParallelFor& parallel_for);

// The two steps return whether every element of gradient and of learning_rate * curvature was
// finite; where one was not, the arrays hold what the arithmetic gave.
template <typename T>
bool run(const GammaStep<T>& step, std::int64_t size, InstructionSet instruction_set,
         const ParallelFor& parallel_for);

template <typename T>
bool run(const GammaMomentumStep<T>& step, std::int64_t size, InstructionSet instruction_set,
         const ParallelFor& parallel_for);

}  // namespace prospr::cpu
