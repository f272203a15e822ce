// Batch normalisation by the statistics of the batch, its gradient, and the gradient of that.
//
// Tensors are [rows, channels], row-major, both at least 1. `moments` is [2, channels]: mean and
// (biased) variance of x per channel, in double. No output may overlap with anything else.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/shape.h"

namespace prospr {

struct BatchShape {
  std::int64_t rows;
  std::int64_t channels;
};

template <typename T>
struct BatchMoments {
  const T* x;
  T* mean;          // [channels]; written
  T* variance;      // [channels]; written
  double* moments;  // the same; written
};

// y = scale * (x - mean) / sqrt(variance + epsilon) + offset.
template <typename T>
struct BatchNorm {
  double epsilon;
  const T* x;
  const T* scale;   // [channels]
  const T* offset;  // [channels]
  const double* moments;
  T* y;  // written
};

template <typename T>
struct BatchNormGradient {
  double epsilon;
  const T* y_gradient;
  const T* x;
  const T* scale;
  const double* moments;
  T* x_gradient;       // written; through the moments too
  T* scale_gradient;   // [channels]; written
  T* offset_gradient;  // [channels]; written
};

// The gradients of sum(u * x_gradient) + sum(u_scale * scale_gradient) + sum(u_offset *
// offset_gradient).
template <typename T>
struct BatchNormSecondGradient {
  double epsilon;
  const T* u;
  const T* u_scale;   // [channels]
  const T* u_offset;  // [channels]
  const T* y_gradient;
  const T* x;
  const T* scale;
  const double* moments;
  T* by_y_gradient;  // written
  T* by_x;           // written; through the moments too
  T* by_scale;       // [channels]; written
};

// Fills in rows and channels from the shapes of the tensors, [..., channels]; `per_channel` must be
// [channels], and `moments`, unless it is null, [2, channels].
std::string check_batch(const std::vector<NamedShape>& tensors,
                        const std::vector<NamedShape>& per_channel, const Shape* moments,
                        BatchShape* shape);

}  // namespace prospr
