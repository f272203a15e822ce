// The single-threaded loops of gamma.h over [begin, end). gamma_kernels.cc is compiled once for
// each instruction set, into the namespace of that name.
#pragma once

#include <cstdint>

#include "cpu/gamma.h"

namespace prospr::cpu {

template <typename T>
struct GammaKernels {
  void (*update)(const GammaUpdate<T>&, std::int64_t begin, std::int64_t end);
  bool (*step)(const GammaStep<T>&, std::int64_t begin, std::int64_t end);
  bool (*momentum_step)(const GammaMomentumStep<T>&, std::int64_t begin, std::int64_t end);
};

namespace baseline {
template <typename T>
GammaKernels<T> gamma_kernels();
}
#if defined(PROSPR_X86_64)
namespace avx2 {
template <typename T>
GammaKernels<T> gamma_kernels();
}
namespace avx512 {
template <typename T>
GammaKernels<T> gamma_kernels();
}
#else
namespace avx2 = baseline;
namespace avx512 = baseline;
#endif

}  // namespace prospr::cpu
