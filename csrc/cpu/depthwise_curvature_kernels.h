// The single-threaded loops of depthwise convolutions. depthwise_curvature_kernels.cc is compiled
// once for each instruction set, into the namespace of that name.
#pragma once

#include <cstdint>

#include "cpu/curvature.h"

namespace prospr::cpu {

// Taps (kernel elements) whose products and sums are kept in registers together.
constexpr std::int64_t kMostTaps = 9;

template <typename T>
struct DepthwisePlan {
  ConvCurvature<T> conv;
  std::int64_t positions;                // output pixels
  std::int64_t taps;                     // kernel elements
  std::int64_t padded_pixels;            // of a sample with its zeros
  const std::int64_t* position_offsets;  // [positions], pixels
  const std::int64_t* tap_offsets;       // [taps], pixels
};

template <typename T>
struct DepthwiseKernels {
  std::int64_t lanes;  // outputs of a task
  // Tasks [begin, end), each a block of outputs. `scratch` has lanes x (padded_pixels + positions +
  // taps) elements, aligned to 64 bytes.
  void (*contract)(const DepthwisePlan<T>& plan, std::int64_t begin, std::int64_t end,
                   core::Accumulator<T>* scratch);
};

namespace baseline {
template <typename T>
DepthwiseKernels<T> depthwise_kernels();
}
#if defined(PROSPR_X86_64)
namespace avx2 {
template <typename T>
DepthwiseKernels<T> depthwise_kernels();
}
namespace avx512 {
template <typename T>
DepthwiseKernels<T> depthwise_kernels();
}
#else
namespace avx2 = baseline;
namespace avx512 = baseline;
#endif

}  // namespace prospr::cpu
