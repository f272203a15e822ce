// The single-threaded loops of gamma.h over [begin, end). gamma_kernels.cc is compiled once per
// instruction set.
#pragma once

#include <cstdint>

#include "cpu/dispatch.h"
#include "cpu/gamma.h"

namespace prospr::cpu {

template <typename T>
struct GammaKernels {
  void (*update)(const GammaUpdate<T>&, std::int64_t begin, std::int64_t end);
  bool (*step)(const GammaStep<T>&, std::int64_t begin, std::int64_t end);
  bool (*momentum_step)(const GammaMomentumStep<T>&, std::int64_t begin, std::int64_t end);
};

}  // namespace prospr::cpu
