// The single-threaded loops of depthwise convolutions. curvature_depthwise_kernels.cc is compiled
// once per instruction set.
#pragma once

#include <cstdint>

#include "cpu/curvature.h"
#include "cpu/dispatch.h"

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

}  // namespace prospr::cpu
