// How kernels read PooledFactors. Included by .cu files only.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/curvature.h"

namespace prospr::cuda {

// Divides numbers below 2^31 by one from 1 to 2^31 - 1: a product and a shift, as the GPU has no
// instruction for it. With shift = 31 + log2(divisor), rounded up, factor exceeds 2^shift / divisor
// by less than 1, and a product with it a quotient by less than 2^31 / 2^shift <= 1 / divisor.
struct Divisor {
  std::uint32_t factor;
  std::uint32_t shift;
};

inline Divisor divisor(std::int64_t by) {
  std::uint32_t shift = 31;
  while (std::int64_t{1} << (shift - 31) < by) ++shift;
  return {static_cast<std::uint32_t>(((std::int64_t{1} << shift) + by - 1) / by), shift};
}

PROSPR_HD std::uint32_t operator/(std::uint32_t number, const Divisor& by) {
  return static_cast<std::uint32_t>(std::uint64_t{number} * by.factor >> by.shift);
}

// How windows tile the output. Factors that are not pooled have one window per pixel.
struct Windows {
  std::int64_t count;
  std::uint32_t size[ConvShape::kAxes];  // on each axis
  Divisor edge[ConvShape::kAxes];        // pixels of one
};

template <typename T>
Windows windows_of(const ConvShape& shape, const PooledFactors<T>& pooled) {
  Windows windows{};
  windows.count = 1;
  for (int axis = 0; axis < ConvShape::kAxes; ++axis) {
    const bool one_a_pixel = pooled.values == nullptr;
    const std::int64_t size = one_a_pixel ? shape.output_size[axis] : pooled.windows[axis];
    windows.count *= size;
    windows.size[axis] = static_cast<std::uint32_t>(size);
    windows.edge[axis] = divisor(shape.output_size[axis] / size);
  }
  return windows;
}

// The window of an output pixel.
__device__ inline std::int64_t window_at(const std::uint32_t pixel[], const Windows& windows) {
  std::int64_t window = 0;
#pragma unroll
  for (int axis = 0; axis < ConvShape::kAxes; ++axis) {
    window = window * windows.size[axis] + pixel[axis] / windows.edge[axis];
  }
  return window;
}

__device__ inline std::int64_t pixel_index(const std::uint32_t pixel[], const ConvShape& shape) {
  return (pixel[0] * shape.output_size[1] + pixel[1]) * shape.output_size[2] + pixel[2];
}

// A factor at a pixel. One whose derivative is zero counts for nothing, as where it is skipped on
// the CPU, whatever the factor of its window is.
template <typename Sum>
__device__ Sum pooled_factor(Sum of_window, Sum derivative) {
  return derivative == 0 ? Sum(0) : derivative * of_window;
}

}  // namespace prospr::cuda
